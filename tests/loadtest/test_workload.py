"""Claims about invented traffic: equal bytes, the promised rates, sizes and shares, right answers to every check."""

import hashlib
import math
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from checker.core.document import Invalid, parse
from loadtest import expectations as law
from loadtest.ask import BadPeople, request
from loadtest.make_feed import Row, make_feed, read_people
from loadtest.people import mod_11_2
from loadtest.workload import (
    BATCH,
    BY_NAME,
    NIGHTLY,
    PROFILES,
    RPCS,
    TENANTS,
    TRIES,
    Item,
    Order,
    People,
    Tenant,
    batch_request,
    mean_rates,
    orders,
    purchase_of,
    stretches,
    with_item_id,
)
from proto.checker.v1 import check_pb2 as pb

AS_OF = datetime.fromisoformat("2025-06-01T12:00:00+08:00")
TODAY = 20250601
ALL = (*TENANTS, NIGHTLY)
SIGMAS = 6.0  # a bound that a right generator breaks once in a thousand million looks


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a feed of 8 000 people."""
    out = tmp_path_factory.mktemp("feed")
    make_feed(out, 8_000, 3, AS_OF)
    return out


@pytest.fixture(scope="module")
def rows(feed: Path) -> dict[int, Row]:
    """people.csv of that feed by line number."""
    return dict(enumerate(read_people(feed / "people.csv"), 2))


@pytest.fixture(scope="module")
def people(feed: Path) -> People:
    """Those people."""
    return People.read(feed / "people.csv")


@pytest.fixture(scope="module")
def traffic(people: People) -> list[Order]:
    """Some 180 000 checks of all tenants, each with an equal part."""
    equal = [tenant._replace(share=1.0) for tenant in ALL]
    return list(orders(people, equal, rate_per_s=3_000, seconds=60, seed=9))


def of(traffic: list[Order], tenant: str) -> list[Item]:
    return [item for order in traffic if order.tenant == tenant for item in order.items]


def digest(traffic: list[Order]) -> str:
    return hashlib.sha256(repr(traffic).encode()).hexdigest()


def is_hit(item: Item, rows: dict[int, Row]) -> bool:
    """By the reason in people.csv: whether the index must be asked."""
    row = rows.get(item.line)
    ends_before = {"PURCHASE_NOT_RESTRICTED", "BAD_FORMAT", "BAD_CHECKSUM", "BAD_DATE"}
    if row is None or row.reason in ends_before:
        return False
    return row.reason != "NOT_LISTED" or "another's name" in row.why


# -- equal bytes


def test_equal_arguments_give_equal_orders_in_another_process_too(people: People, feed: Path) -> None:
    """The same seed gives the same bytes, whatever the process and its hash seed; another seed gives others."""
    here = [list(orders(people, rate_per_s=400, seconds=5, seed=seed, profile="burst")) for seed in (1, 1, 2)]
    assert here[0] == here[1] != here[2]
    code = (
        "import hashlib, sys; from pathlib import Path; from loadtest.workload import People, orders;"
        "made = orders(People.read(Path(sys.argv[1])), rate_per_s=400, seconds=5, seed=1, profile='burst');"
        "print(hashlib.sha256(repr(list(made)).encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", code, feed / "people.csv"],
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.strip() == digest(here[0])


def test_a_tenant_s_checks_do_not_depend_on_who_else_asks(people: People) -> None:
    """Rail's items are the same alone and in the country's mix: each tenant draws from its own generator."""
    alone = orders(people, (BY_NAME["rail"],), rate_per_s=300, seconds=4, seed=1)
    mixed = orders(people, rate_per_s=300, seconds=4, seed=1)
    both = zip(of(list(alone), "rail"), of(list(mixed), "rail"), strict=False)
    assert all(one == other for one, other in both)


# -- right answers


def test_each_listed_check_is_its_line_of_people_csv(traffic: list[Order], rows: dict[int, Row]) -> None:
    """A check with a line number asks exactly what that line says, and expects that line's outcome."""
    seen = {item for order in traffic for item in order.items if item.line}
    assert len(seen) > 1_000
    for item in seen:
        row = rows[item.line]
        assert item.request == request(row).SerializeToString()
        assert item.expected == row.outcome


def test_each_made_check_is_about_nobody_listed_and_valid_or_not_as_expected(traffic: list[Order], feed: Path) -> None:
    """A made person's number is in no line of the feed; it is a document exactly where ALLOWED is due for that."""
    known = (feed / "feed.jsonl").read_text("utf-8") + (feed / "people.csv").read_text("utf-8")
    cells = {request(_row(p.text)).purchase.SerializeToString(): p.cell for p in law.PURCHASES}
    printed = {number for _, number, *_ in law.NO_DOCUMENTS}
    made = [item for order in traffic for item in order.items if not item.line]
    invalid = 0
    for item in made[::7]:
        asked = pb.CheckRequest.FromString(item.request)
        document = asked.subject.document
        valid = not isinstance(parse(document.type, document.number, document.country, TODAY), Invalid)
        barring = cells[asked.purchase.SerializeToString()] == law.BARS
        assert item.expected == (law.ALLOWED if valid or not barring else law.INVALID_DOCUMENT)
        invalid += not valid
        if document.number not in printed:
            assert document.number[6:10] in ("1800", "1899")
            assert valid == (mod_11_2(document.number[:17]) == document.number[17])
    assert invalid > 20
    assert not re.search(r"(?<!\d)\d{6}(1800|1899)\d{7}[\dX]", known)


def _row(purchase: str) -> Row:
    return Row("1", "RESIDENT_ID", "", "", "", purchase, "", "", "", "")


def test_every_purchase_of_a_tenant_has_a_known_answer() -> None:
    """Each purchase in a tenant's mix is one of the law's tables, so that the answer is not made up here."""
    texts = {purchase.text for purchase in law.PURCHASES}
    for tenant in ALL:
        assert tenant.mix.keys() <= texts, tenant.name
        assert tenant.rpc in RPCS


def test_requests_are_what_protobuf_would_write(traffic: list[Order]) -> None:
    """Joined pieces are the canonical bytes: parsing and writing again changes nothing."""
    for order in traffic[::37]:
        for item in order.items:
            assert pb.CheckRequest.FromString(item.request).SerializeToString() == item.request


@given(sizes=st.lists(st.integers(0, 400), max_size=30), item_id=st.text(max_size=128))
def test_a_batch_and_an_item_id_are_what_protobuf_would_write(sizes: list[int], item_id: str) -> None:
    """batch_request and with_item_id give the bytes of the messages, at every length."""
    asked = [pb.CheckRequest(subject=pb.Subject(name="名" * size)) for size in sizes]
    asked = [one for one in asked if one.ByteSize() < 1024]
    items = [Item(one.SerializeToString(), law.ALLOWED) for one in asked]
    assert batch_request(items) == pb.BatchCheckRequest(items=asked).SerializeToString()
    for one, item in zip(asked, items, strict=True):
        named = pb.CheckRequest.FromString(with_item_id(item.request, item_id))
        one.item_id = item_id
        assert named == one


def test_a_purchase_in_words_tells_nothing_of_the_person(traffic: list[Order]) -> None:
    """purchase_of holds no number and no name, whoever is asked about."""
    for order in traffic[:200]:
        for item in order.items[:5]:
            subject = pb.CheckRequest.FromString(item.request).subject
            words = purchase_of(item.request)
            assert words.split(" ")[0] in law.KINDS
            assert subject.document.number not in words
            assert not subject.name or subject.name not in words


# -- statistics


def near(count: int, trials: float, share: float) -> bool:
    """Whether a binomial count is within SIGMAS of its mean."""
    return abs(count - trials * share) <= SIGMAS * math.sqrt(trials * share * (1 - share)) + 1


@pytest.mark.parametrize("tenant", ALL, ids=lambda tenant: tenant.name)
def test_sizes_hits_and_invalid_numbers_keep_their_shares(
    tenant: Tenant, traffic: list[Order], rows: dict[int, Row]
) -> None:
    """Order sizes, hit share and invalid share of each tenant lie within six sigma of what its table says."""
    mine = [order for order in traffic if order.tenant == tenant.name]
    sizes = Counter(len(order.items) for order in mine)
    assert sizes.keys() <= tenant.sizes.keys()
    whole = sum(tenant.sizes.values())
    for size, weight in tenant.sizes.items():
        assert near(sizes[size], len(mine), weight / whole), size
    items = of(traffic, tenant.name)
    assert near(sum(is_hit(item, rows) for item in items), len(items), tenant.hit_share)
    invalid = sum(_is_invalid(item) for item in items)
    # A few lines of people.csv among the clear ones ask about a number that is none and a purchase nobody is refused.
    from_file = sum(_is_invalid(item) for item in items if item.line)
    assert near(invalid - from_file, len(items), tenant.invalid_share)


def _is_invalid(item: Item) -> bool:
    document = pb.CheckRequest.FromString(item.request).subject.document
    return isinstance(parse(document.type, document.number, document.country, TODAY), Invalid)


@pytest.mark.parametrize("name", ["rail", "air", "hotel", "tour"])
def test_barred_people_try_again_and_again(name: str, traffic: list[Order]) -> None:
    """Barred tries are new people one time in 8.7, as in the first month of air; some try far more often than that."""
    tries = Counter(item.line for item in of(traffic, name) if item.expected == law.BARRED)
    assert near(len(tries), tries.total(), 1 / TRIES)
    assert tries.most_common(1)[0][1] > 2 * TRIES


def test_the_mix_of_purchases_is_the_tenant_s(traffic: list[Order]) -> None:
    """Each purchase of rail's mix comes as often as its weight says, among the people made on the fly."""
    rail = BY_NAME["rail"]
    made = Counter(purchase_of(item.request) for item in of(traffic, "rail") if not item.line)
    whole = sum(rail.mix.values())
    for text, weight in rail.mix.items():
        words = purchase_of(request(_row(text)).SerializeToString())
        assert near(made[words], made.total(), weight / whole), text


@settings(max_examples=40)
@given(
    names=st.sets(st.sampled_from([tenant.name for tenant in TENANTS]), min_size=1),
    profile=st.sampled_from(PROFILES),
    rate=st.floats(20, 4_000),
    seconds=st.floats(1, 120),
    seed=st.integers(),
)
def test_the_rate_is_kept_in_every_stretch(
    people: People, names: set[str], profile: str, rate: float, seconds: float, seed: int
) -> None:
    """Checks in each stretch of each profile lie within six sigma of its rate; starts ascend and stay in the run."""
    tenants = [BY_NAME[name] for name in sorted(names)]
    assume(rate * seconds < 20_000)
    made = list(orders(people, tenants, rate_per_s=rate, seconds=seconds, seed=seed, profile=profile))
    assert all(0 <= one.at_s <= other.at_s < seconds for one, other in pairwise(made))
    for part in stretches(tenants, rate, seconds, profile):
        for tenant in tenants:
            asked = sum(len(o.items) for o in made if o.tenant == tenant.name and part.start_s <= o.at_s < part.end_s)
            expected = part.rates[tenant.name] * (part.end_s - part.start_s)
            whole = sum(tenant.sizes.values())
            square = sum(size**2 * weight for size, weight in tenant.sizes.items()) / whole
            spread = math.sqrt(expected / tenant.mean_size * square)
            assert abs(asked - expected) <= SIGMAS * spread + 4 * max(tenant.sizes)


def test_orders_come_when_they_come(people: People) -> None:
    """Arrivals are a Poisson process, no metronome: gaps spread as much as their mean."""
    made = list(orders(people, (BY_NAME["hotel"],), rate_per_s=3_000, seconds=10, seed=4))
    gaps = [other.at_s - one.at_s for one, other in pairwise(made)]
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(1, abs=0.05)


# -- profiles


@pytest.mark.parametrize("tenant", ALL, ids=lambda tenant: tenant.name)
def test_a_daily_curve_is_24_rates_with_mean_one(tenant: Tenant) -> None:
    """Each curve sums to 24, so that `rate` is the day's mean; none is negative."""
    assert len(tenant.curve) == 24
    assert sum(tenant.curve) == pytest.approx(24)
    assert min(tenant.curve) >= 0


def test_the_country_s_shares_sum_to_one_and_rail_is_nine_tenths() -> None:
    """domain.md §5.1: one 12306-sized tenant is more than 90 % of the load."""
    assert sum(tenant.share for tenant in TENANTS) == pytest.approx(1)
    assert BY_NAME["rail"].share > 0.9


def test_hotels_fill_in_the_evening_and_trains_are_not_sold_at_night(people: People) -> None:
    """Over a day, hotels' busiest hour is after 17, and rail asks nothing from 1 to 5 o'clock."""
    both = [BY_NAME[name]._replace(share=1.0) for name in ("hotel", "rail")]
    made = list(orders(people, both, rate_per_s=2_000, seconds=24, seed=1, profile="day"))
    by_hour = Counter((order.tenant, int(order.at_s)) for order in made)
    assert max(range(24), key=lambda hour: by_hour["hotel", hour]) >= 18
    assert not any(by_hour["rail", hour] for hour in range(1, 5))


def test_a_sale_opening_doubles_rail_for_a_minute_and_nobody_else() -> None:
    """burst: in the minute in the middle, rail asks twice as often; in a short run the middle third is the opening."""
    tenants = [BY_NAME["rail"], BY_NAME["air"]]
    before, opening, after = stretches(tenants, 1_000, 300, "burst")
    assert (opening.start_s, opening.end_s) == pytest.approx((120, 180))
    assert opening.rates["rail"] == pytest.approx(2 * before.rates["rail"])
    assert opening.rates["air"] == before.rates["air"] == after.rates["air"]
    _, short, _ = stretches(tenants, 1_000, 30, "burst")
    assert (short.start_s, short.end_s) == pytest.approx((10, 20))


def test_steps_climb_evenly_to_the_rate() -> None:
    """step: five equal steps, the last at the rate."""
    parts = stretches(TENANTS, 500, 100, "step")
    assert [part.rate for part in parts] == pytest.approx([100, 200, 300, 400, 500])
    assert [part.end_s for part in parts] == pytest.approx([20, 40, 60, 80, 100])


@given(profile=st.sampled_from(PROFILES), rate=st.floats(0.1, 1e6), seconds=st.floats(1, 1e5))
def test_stretches_cover_the_run_without_gap(profile: str, rate: float, seconds: float) -> None:
    """Stretches follow one another from 0 to the end; but for step and burst their mean is the rate."""
    parts = stretches(TENANTS, rate, seconds, profile)
    assert parts[0].start_s == 0
    assert parts[-1].end_s == seconds
    assert all(one.end_s == other.start_s for one, other in pairwise(parts))
    means = mean_rates(TENANTS, rate, seconds, profile)
    if profile in ("steady", "soak", "day"):
        assert sum(means.values()) == pytest.approx(rate)
    elif profile == "step":
        assert sum(means.values()) == pytest.approx(rate * 0.6)
    else:
        assert sum(means.values()) > rate


def test_an_unknown_profile_is_refused(people: People) -> None:
    """A profile that is none is an error at once, not an empty run."""
    with pytest.raises(ValueError, match="steady, step, burst, day, soak"):
        orders(people, rate_per_s=1, seconds=1, seed=1, profile="ramp")


# -- people.csv


def test_a_people_csv_that_bars_nobody_a_tenant_asks_about_is_refused(rows: dict[int, Row]) -> None:
    """Without anybody barred there would be no hits: the error names the tenant and the remedy."""
    allowed = People(row for row in rows.values() if row.outcome == "ALLOWED")
    with pytest.raises(BadPeople, match="tenant rail sells: make it with more --people"):
        orders(allowed, rate_per_s=1, seconds=1, seed=1)


def test_a_file_of_another_kind_is_refused_by_its_line(tmp_path: Path, rows: dict[int, Row]) -> None:
    """Another file, an empty one, and a line nobody can read are refused, the last by its number."""
    path = tmp_path / "people.csv"
    for text in ("", "a,b\n1,2\n"):
        path.write_text(text, "utf-8")
        with pytest.raises(BadPeople, match="not of this version"):
            People.read(path)
    with pytest.raises(BadPeople, match="holds nobody"):
        People([])
    for spoiled in ({"document_type": "LIBRARY_CARD"}, {"service_time": "soon"}, {"purchase": "bus line=3"}):
        with pytest.raises(BadPeople, match="line 3 is not of this version"):
            People([rows[2], rows[3]._replace(**spoiled)])


# -- speed


def test_checks_are_made_faster_than_any_target_answers_them(people: People) -> None:
    """A check is made within 200 rounds of a plain loop (60 where this was written: 390 000 checks a second)."""

    def rounds_a_check(attempt: int) -> float:
        began = time.process_time()
        made = sum(len(order.items) for order in orders(people, rate_per_s=10_000, seconds=2, seed=attempt))
        between = time.process_time()
        total = 0
        for number in range(500_000):
            total += number % 7
        a_round = (time.process_time() - between) / 500_000
        return (between - began) / made / a_round

    assert min(rounds_a_check(attempt) for attempt in range(3)) < 200


@pytest.mark.parametrize("tenant", ALL, ids=lambda tenant: tenant.name)
def test_the_guide_s_table_is_the_tenants(tenant: Tenant) -> None:
    """Share, call, sizes, hits and invalid numbers of each tenant stand in docs/load-testing.md as they are."""
    guide = (Path(__file__).parents[2] / "docs/load-testing.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| {tenant.name} \| (.+) \|$", guide, re.MULTILINE)
    share, rpc, sizes, hits, invalid, _ = row.split(" | ")
    low, high = min(tenant.sizes), max(tenant.sizes)
    assert share in (f"{tenant.share * 100:g} %", "only where named")
    assert rpc == f"`{tenant.rpc}`"
    assert sizes.split(", mean ")[0] == (f"{low} to {high:,}" if low < high else f"{low}")
    assert sizes.partition(", mean ")[2] in ("", f"{tenant.mean_size:.1f}")
    assert hits == (f"{tenant.hit_share * 100:g} %" if tenant.hit_share else "none")
    assert invalid == f"{tenant.invalid_share * 100:g} %"


def test_batches_for_the_night_are_large() -> None:
    """The nightly re-check sends batches of hundreds, within what BatchCheck takes."""
    assert NIGHTLY.rpc == BATCH
    assert min(NIGHTLY.sizes) >= 100
    assert max(NIGHTLY.sizes) <= 1_000
