"""One check, without a socket: `begin` decides or says what it lacks, `finish` concludes once that was fetched.

    step = begin(query, view, now)                 # Decision | NeedExact
    if isinstance(step, NeedExact):                # about 1 % of checks
        found, as_of = <fetch step.keys from the exact index, or ask the centre>
        step = finish(step, found, as_of, now)

Checker, edge and tests differ only in how they fetch. The order of steps is the order of least harm: rules first (a
purchase nobody can be barred from looks at nobody), then the document, then the filter, and only then the index.
"""

from collections.abc import Container, Mapping
from typing import NamedTuple

from checker.core import document as documents
from checker.core import name as names
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason, Verdict, combine
from checker.core.freshness import AsOf, Limits, is_stale, may_bar
from checker.core.key import DigestKey
from checker.core.measure import NAME_DIGEST_BYTES, Measure
from checker.core.purchase import Purchase
from checker.core.rules import DAY_MS, Asked, Rulebook, Screened, evaluate


class LookupKey(NamedTuple):
    """What an edge sends instead of a document."""

    key_id: str
    digest: bytes
    name_required: bool


class Query(NamedTuple):
    """One question. Times in milliseconds since the epoch; 0 = not said."""

    purchase: Purchase
    document_type: int = 0
    number: str = ""
    country: str = ""
    key: LookupKey | None = None  # instead of the three before
    name: str = ""
    name_key: bytes = b""  # instead of `name`
    act_ms: int = 0
    service_ms: int = 0
    min_feed_sequence: int = 0


class View(NamedTuple):
    """Everything a check looks at, as one value: a batch is answered on one view.

    `doubtful`: the rules may be older than those the centre judges by, so that even what they leave free is asked.
    """

    rulebook: Rulebook
    key: DigestKey
    filter: Container[bytes]  # no false negatives for what it has been told; EVERYTHING while there is none
    as_of: AsOf
    limits: Limits
    doubtful: bool = False


class _Everything:
    """The filter of someone who has none yet: every key may be listed, so every key is asked of the index."""

    def __contains__(self, digest: object) -> bool:
        return True


EVERYTHING: Container[bytes] = _Everything()


class NeedExact(NamedTuple):
    """What `begin` lacks: the records under `keys`; `fresh` when the feed must be known further than the view says."""

    keys: tuple[bytes, ...]
    types: tuple[int, ...]  # the document type behind each key; () when keys were asked about
    query: Query
    view: View
    screened: Screened
    name_key: bytes  # 16 bytes; b"" = no name was sent
    name_required: bool
    fresh: bool


_today = (0, 0)  # (Shanghai day number, yyyymmdd): the last day asked for; recomputed once a day


def yyyymmdd(now_ms: int) -> int:
    """The date in Asia/Shanghai as yyyymmdd; remembered, since it is asked a million times a day."""
    global _today
    day = (now_ms + 28_800_000) // DAY_MS
    if _today[0] != day:
        _today = (day, _civil(day))
    return _today[1]


def _civil(day: int) -> int:
    """Days since 1970-01-01 -> yyyymmdd (proleptic Gregorian; months counted from March, so leap days come last)."""
    era, day_of_era = divmod(day + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    year = year_of_era + era * 400 + (month >= 10)
    return year * 10_000 + (month + 3 if month < 10 else month - 9) * 100 + day_of_year - (153 * month + 2) // 5 + 1


def begin(query: Query, view: View, now_ms: int) -> Decision | NeedExact:
    """Decide from rules, document and filter alone, or say which keys the exact index must be asked. Never raises."""
    screened = view.rulebook.screen(query.purchase, query.act_ms or now_ms)
    unrestricted = screened.unrestricted
    if unrestricted is not None and not view.doubtful:
        return unrestricted
    key = query.key
    found: tuple[documents.Document, ...] = ()
    if key is None:
        parsed = documents.parse(query.document_type, query.number, query.country, yyyymmdd(now_ms))
        if isinstance(parsed, documents.Invalid):
            if unrestricted is not None:
                return unrestricted  # as under rules that are not in doubt: nobody was to be looked at
            return Decision(
                Outcome.INVALID_DOCUMENT,
                Reason(int(parsed.fault)),
                AnsweredBy.RULES,
                rule_id=screened.row.rule_id,
                hint=parsed.hint,
            )
        digest = view.key.document
        found = parsed.documents
        keys = (digest(found[0]),) if len(found) == 1 else tuple(map(digest, found))
        name_required = parsed.name_required
    elif key.key_id != view.key.key_id:
        return Decision(Outcome.UNKNOWN, Reason.UNKNOWN_KEY, AnsweredBy.RULES, rule_id=screened.row.rule_id)
    else:
        keys = (key.digest,)
        name_required = key.name_required
    fresh = query.min_feed_sequence > view.as_of.feed_sequence
    if not fresh:
        listed = view.filter
        if not (keys[0] in listed if len(keys) == 1 else any(one in listed for one in keys)):
            # `is_stale` written out: this is where nearly all checks end.
            stale = now_ms - view.as_of.feed_time_ms > view.limits.warn_ms
            return screened.miss_stale if stale else screened.miss
    name_key = query.name_key
    if not name_key and query.name:
        canonical = names.canonical(query.name)
        name_key = view.key.name(canonical) if canonical else b""
    types = tuple([one.type for one in found])
    return NeedExact(keys, types, query, view, screened, name_key, name_required, fresh)


def finish(need: NeedExact, found: Mapping[bytes, tuple[Measure, ...] | None], as_of: AsOf, now_ms: int) -> Decision:
    """Conclude from what the exact index holds under each of `need.keys` (`None` or absent: could not be read).

    `as_of` and `now_ms` are those of the reading: BARRED rests on the index as it is now, and on nothing else.
    """
    query, row = need.query, need.screened.row
    if query.min_feed_sequence > as_of.feed_sequence:
        return Decision(Outcome.UNKNOWN, Reason.DATA_STALE, AnsweredBy.INDEX, rule_id=row.rule_id)
    act_ms = query.act_ms or now_ms
    asked = Asked(
        act_ms=act_ms,
        service_ms=query.service_ms or act_ms,
        now_ms=now_ms,
        name=need.name_key[:NAME_DIGEST_BYTES],
        name_required=need.name_required,
    )
    bars = may_bar(as_of, need.view.limits, now_ms)
    verdicts = []
    for key in need.keys:
        measures = found.get(key)
        if measures is None:
            verdicts.append(Verdict(Reason.INDEX_UNREACHABLE, None, ""))
            continue
        for measure in measures:
            verdict = evaluate(measure, row, asked)
            if not bars and verdict.reason in (Reason.MEASURE_IN_FORCE, Reason.NAME_REQUIRED):
                verdict = verdict._replace(reason=Reason.DATA_STALE)
            verdicts.append(verdict)
    decision = combine(verdicts, row.rule_id)
    if is_stale(as_of, need.view.limits, now_ms):
        return decision._replace(advisories=tuple(sorted({*decision.advisories, Advisory.STALE_DATA})))
    return decision
