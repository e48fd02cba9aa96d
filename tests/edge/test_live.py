"""Claims about how old an edge says it is: never younger than it is, whatever clocks and streams do."""

import math

import pytest

from checker.core import filter_builder
from checker.core.changes import Heartbeat, Position
from checker.core.freshness import AsOf
from checker.core.lookup import EVERYTHING
from checker.core.stand_in import Age
from edge.live import Live
from proto.checker.v1 import filter_pb2
from tests.builders import KEY, NOW, rulebook
from tests.edge.scripted import a_key

BASE = filter_builder.build(b"".join(map(a_key, range(10))))
AS_OF = AsOf(100, NOW, 0, 3)


class Clocks:
    """Two clocks that a test turns."""

    def __init__(self) -> None:
        self.wall_ms = NOW
        self.steady_s = 50.0

    def pass_s(self, seconds: float) -> None:
        """Let time pass on both."""
        self.wall_ms += int(seconds * 1000)
        self.steady_s += seconds


@pytest.fixture
def clocks() -> Clocks:
    """Clocks at the same moment."""
    return Clocks()


@pytest.fixture
def live(clocks: Clocks) -> Live:
    """An edge that knows nothing yet."""
    return Live(KEY, rulebook(), clock_ms=lambda: clocks.wall_ms, steady_s=lambda: clocks.steady_s)


def beat(sent_ms: int, *, silence_ms: int = 0, signing_off: bool = False) -> Heartbeat:
    """A heartbeat sent at this time of the sender's clock."""
    return Heartbeat(Position(b"journal1", 7), AS_OF, sent_ms, silence_ms, bytes(16), bytes(32), signing_off)


def swap(live: Live, synced_ms: float, *, added: list[bytes] | None = None, continues: bool = True) -> None:
    """A snapshot that was whole when the centre's clock said this."""
    live.swap(BASE, added or [], AS_OF, KEY, rulebook(), synced_ms, continues=continues)


def test_without_a_filter_everything_is_asked(live: Live) -> None:
    """Nothing is cleared, and what is not known is infinitely old."""
    assert live.lag_ms() == math.inf
    assert live.age() is Age.OLD
    assert live.view.filter is EVERYTHING
    assert live.view.doubtful
    assert live.may_list([a_key(99)])
    assert live.size == (0, 0)


def test_a_snapshot_from_disk_is_as_old_as_its_last_heartbeat(live: Live, clocks: Clocks) -> None:
    """An edge that slept an hour says so, on either clock."""
    swap(live, NOW - 3_600_000)
    assert live.lag_ms() == 3_600_000
    assert live.age() is Age.STALE
    assert live.view.filter is EVERYTHING
    assert not live.may_list([a_key(99)])
    clocks.steady_s += 10
    assert live.lag_ms() == 3_610_000
    clocks.wall_ms += 24 * 3_600_000
    assert live.age() is Age.OLD


def test_a_heartbeat_makes_it_fresh_and_time_makes_it_stale_again(live: Live, clocks: Clocks) -> None:
    """The real filter is in the view while the lag is at most a minute, not longer than `fresh_until_ms`."""
    swap(live, NOW - 3_600_000)
    live.beat(beat(NOW), AS_OF)
    assert live.lag_ms() == 0
    assert live.view.filter is not EVERYTHING
    assert live.fresh_until_ms == NOW + 60_000
    clocks.pass_s(60)
    live.refresh()
    assert live.view.filter is not EVERYTHING
    clocks.pass_s(0.001)
    live.refresh()
    assert live.age() is Age.STALE
    assert live.view.filter is EVERYTHING
    live.beat(beat(clocks.wall_ms), AS_OF)
    assert a_key(1) in live.view.filter
    assert a_key(99) not in live.view.filter


def test_what_the_sender_had_not_heard_counts(live: Live, clocks: Clocks) -> None:
    """A worker cut off from its index for 40 s makes no edge fresher than that; a later worse word takes nothing."""
    swap(live, NOW - 3_600_000)
    live.beat(beat(NOW, silence_ms=40_000), AS_OF)
    assert live.lag_ms() == 40_000
    live.beat(beat(NOW, silence_ms=5_000), AS_OF)
    assert live.lag_ms() == 5_000
    live.beat(beat(NOW, silence_ms=40_000), AS_OF)
    assert live.lag_ms() == 5_000
    assert live.view.as_of == AS_OF


@pytest.mark.parametrize("off_ms", [-7_200_000, 7_200_000])
def test_a_wrong_clock_never_makes_it_younger(live: Live, clocks: Clocks, off_ms: int) -> None:
    """Ours ahead: the lag is told too high. Ours behind: our steady clock tells it, silence included."""
    swap(live, NOW - 24 * 3_600_000)
    live.beat(beat(NOW - off_ms, silence_ms=2_000), AS_OF)
    clocks.pass_s(3)
    assert live.lag_ms() == max(5_000, off_ms + 5_000)


def test_a_stream_that_is_held_up_shows_its_delay(live: Live, clocks: Clocks) -> None:
    """Heartbeats that arrive every second, but half a minute late: the lag is half a minute."""
    swap(live, NOW - 3_600_000)
    for _ in range(5):
        clocks.pass_s(1)
        live.beat(beat(clocks.wall_ms - 30_000), AS_OF)
        assert live.lag_ms() == 30_000


def test_a_clock_set_back_makes_nothing_younger(live: Live, clocks: Clocks) -> None:
    """An hour back on the wall: our steady clock still says how long nothing was heard."""
    swap(live, NOW)
    live.beat(beat(NOW), AS_OF)
    clocks.pass_s(61)
    clocks.wall_ms -= 3_600_000
    live.refresh()
    assert live.lag_ms() == 61_000
    assert live.view.filter is EVERYTHING


def test_a_newer_snapshot_takes_nothing_from_what_is_known(live: Live, clocks: Clocks) -> None:
    """Older than the last heartbeat: the lag stays. Without heartbeats the newer of two times counts."""
    swap(live, NOW - 3_600_000)
    swap(live, NOW - 1_800_000)
    assert live.lag_ms() == 1_800_000
    live.beat(beat(NOW), AS_OF)
    swap(live, NOW - 600_000, added=[a_key(50)])
    assert live.lag_ms() == 0
    assert a_key(50) in live.view.filter
    assert live.size == (10, 1)


def test_another_journals_snapshot_starts_from_its_own_time(live: Live, clocks: Clocks) -> None:
    """What was known of another centre says nothing about this one."""
    swap(live, NOW)
    live.beat(beat(NOW), AS_OF)
    swap(live, NOW - 600_000, continues=False)
    assert live.lag_ms() == 600_000
    live.beat(beat(NOW, silence_ms=1_000), AS_OF)
    assert live.lag_ms() == 1_000


def test_additions_are_in_the_filter_and_told_afterwards(live: Live) -> None:
    """Whoever is told of a key finds it in the filter; swap and reset end all that was remembered."""
    told: list[object] = []
    live.on_added.append(lambda keys: told.append([key in live.view.filter for key in keys]))
    live.on_reset.append(lambda: told.append("reset"))
    swap(live, NOW)
    live.beat(beat(NOW), AS_OF)
    live.add([a_key(50), a_key(51)])
    live.reset()
    assert told == ["reset", [True, True], "reset"]
    assert a_key(50) in live.view.filter


def test_doubt_about_the_rules_asks_about_everything(live: Live) -> None:
    """While the rules may be old no miss is believed; a swap says by itself whether there is doubt."""
    swap(live, NOW)
    live.beat(beat(NOW), AS_OF)
    live.doubt(doubtful=True)
    assert live.view.filter is EVERYTHING
    assert live.view.doubtful
    assert live.age() is Age.FRESH
    live.doubt(doubtful=False)
    assert live.view.filter is not EVERYTHING
    live.swap(BASE, [], AS_OF, KEY, rulebook(), NOW, doubtful=True)
    assert live.view.doubtful
    assert live.view.filter is EVERYTHING


class Shown(Live):
    """An edge that remembers every view it showed: what a thread may have looked at."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "view":
            self.__dict__.setdefault("shown", []).append(value)


@pytest.mark.parametrize("doubtful", [False, True])
@pytest.mark.parametrize("age_ms", [0, 60_001, 48 * 3_600_000])
def test_no_view_is_ever_shown_whose_age_was_not_judged(clocks: Clocks, age_ms: int, *, doubtful: bool) -> None:
    """A thread that looks in the middle of a swap sees the state before or the state after, and clears nobody by a
    filter that is too old or by rules that are in doubt: neither at the first swap nor at another."""
    live = Shown(KEY, rulebook(), clock_ms=lambda: clocks.wall_ms, steady_s=lambda: clocks.steady_s)
    for _ in range(2):
        live.__dict__["shown"].clear()
        live.swap(BASE, [], AS_OF, KEY, rulebook(), NOW - age_ms, doubtful=doubtful, continues=False)
        (view,) = live.__dict__["shown"]
        assert (view.filter is EVERYTHING) is (doubtful or age_ms > 60_000)
        live.beat(beat(NOW), AS_OF)
        live.__dict__["shown"].clear()
        for doubt in (True, False):
            live.doubt(doubtful=doubt)
            assert all(view.doubtful is doubt for view in live.__dict__["shown"])
            assert all((view.filter is EVERYTHING) is doubt for view in live.__dict__["shown"])
            live.__dict__["shown"].clear()


def test_a_heartbeat_says_whether_the_centre_is_leaving(live: Live) -> None:
    """Signed off is another word than unreachable."""
    swap(live, NOW)
    assert live.centre == filter_pb2.CENTRE_STATE_UNREACHABLE
    live.beat(beat(NOW, signing_off=True), AS_OF)
    assert live.centre == filter_pb2.CENTRE_STATE_SIGNED_OFF
    live.beat(beat(NOW), AS_OF)
    assert live.centre == filter_pb2.CENTRE_STATE_REACHABLE
