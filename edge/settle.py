"""Settling questions at an edge: ask the centre, and where it does not answer, stand in for it (design.md §8).

The centre's word is passed on as it is: outcome, reason, decision id, and how fresh its data were. Where it gives none,
the stand-in table answers, ALLOWED or UNKNOWN. Every UNKNOWN that may be known later goes into the advice queue, as
keys and purchase only, to be asked again when the centre is back.

An ambiguous number has several keys: each is a question of its own, asked together, and the index's own rule makes one
answer of theirs (`question.combined`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from checker import wire
from checker.core.decision import Advisory, AnsweredBy, Decision, Outcome, Reason
from checker.core.freshness import AsOf, is_stale
from checker.core.lookup import NeedExact
from checker.core.stand_in import Failure, stand_in
from checker.rpc.decision_id import new_decision_id
from checker.rpc.interceptors import current_call
from checker.rpc.servicer import Settled
from edge.live import Live, wall_clock_ms
from edge.question import Ask, CentreFailed, Question, Verdict, combined
from edge.remote import TIMEOUT_S

RESERVE_S = 0.002
"""Kept back of a deadline to write the answer that stands in."""
KNOWN_LATER = frozenset({Reason.INDEX_UNREACHABLE, Reason.DATA_STALE})
"""Why the centre itself may say UNKNOWN today and something else tomorrow."""


class Queue(Protocol):
    """Where UNKNOWNs wait: `advice.AdviceQueue`. `put` must be quick and never raise."""

    def put(self, decision_id: str, caller: str, questions: Sequence[Question], asked_ms: int) -> None:
        """Ask these again later; `caller`: who is to hear of it."""


class _Answer(NamedTuple):
    decision: Decision
    as_of: AsOf


class EdgeSettler:
    """`checker.rpc.servicer.Settle` for edges. `timeout_s`: how long the centre may take if the caller has the time."""

    def __init__(
        self,
        live: Live,
        ask: Ask,
        advice: Queue,
        *,
        timeout_s: float = TIMEOUT_S,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._live = live
        self._ask = ask
        self._advice = advice
        self._timeout_s = timeout_s
        self._clock_ms = clock_ms

    async def __call__(self, needs: Sequence[NeedExact], deadline: float) -> Settled:
        until = min(deadline - RESERVE_S, asyncio.get_running_loop().time() + self._timeout_s)
        self._live.numbers.hits += len(needs)
        if len(needs) == 1:  # spares a task for the most common of questions
            answers = [await self._one(needs[0], until)]
        else:
            answers = await asyncio.gather(*(self._one(need, until) for need in needs))
        epoch = self._live.view.as_of.snapshot_epoch
        return Settled(
            [answer.decision for answer in answers],
            [answer.as_of._replace(snapshot_epoch=epoch) for answer in answers],
        )

    async def _one(self, need: NeedExact, until: float) -> _Answer:
        questions = questions_of(need)
        if len(questions) == 1:
            found = [await self._try(questions[0], until)]
        else:
            found = await asyncio.gather(*(self._try(question, until) for question in questions))
        verdicts = [one for one in found if isinstance(one, Verdict)]
        failures = {
            question.key: one.failure
            for question, one in zip(questions, found, strict=True)
            if isinstance(one, CentreFailed)
        }
        if failures and not any(verdict.outcome is Outcome.BARRED for verdict in verdicts):
            verdicts.append(self._stand_in(need, failures))
        verdict = combined(verdicts)
        decision_id = verdict.decision_id
        if verdict.outcome is Outcome.UNKNOWN and _may_be_known_later(verdict):
            asked_ms = self._clock_ms()
            decision_id = decision_id or new_decision_id(asked_ms)
            self._advice.put(decision_id, _caller(), questions, asked_ms)
        # Where the centre bars what our rules leave free, its rules are newer, and ours have no ground to name.
        free = need.screened.unrestricted is not None and verdict.outcome is Outcome.BARRED
        rule_id = "" if free else need.screened.row.rule_id
        decision = Decision(
            verdict.outcome,
            verdict.reason,
            verdict.answered_by,
            verdict.advisories,
            rule_id,
            decision_id=decision_id,
        )
        return _Answer(decision, verdict.as_of)

    async def _try(self, question: Question, until: float) -> Verdict | CentreFailed:
        try:
            return await self._ask(question, until)
        except CentreFailed as failed:
            return failed

    def _stand_in(self, need: NeedExact, failures: dict[bytes, Failure]) -> Verdict:
        """What the table says to the keys the centre did not answer."""
        live = self._live
        live.numbers.stand_ins += 1
        view = live.view
        beyond = need.query.min_feed_sequence > view.as_of.feed_sequence  # no filter of ours knows the feed that far
        decision = stand_in(
            need.screened,
            live.age(),
            next(iter(failures.values())),
            hit=beyond or live.may_list(failures),
            strict=wire.kind_of(need.query.purchase) in need.view.rulebook.stand_in_strict,
        )
        advisories = decision.advisories
        if decision.outcome is Outcome.ALLOWED and is_stale(view.as_of, view.limits, self._clock_ms()):
            advisories = tuple(sorted({*advisories, Advisory.STALE_DATA}))
        return Verdict(decision.outcome, decision.reason, decision.answered_by, advisories, "", view.as_of)


def questions_of(need: NeedExact) -> list[Question]:
    """One question for each key."""
    query = need.query
    return [
        Question(
            key,
            need.view.key.key_id,
            need.types[place] if need.types else 0,
            need.name_required,
            need.name_key,
            wire.purchase_message(query.purchase),
            query.act_ms,
            query.service_ms,
            query.min_feed_sequence,
        )
        for place, key in enumerate(need.keys)
    ]


def _may_be_known_later(verdict: Verdict) -> bool:
    return verdict.answered_by is AnsweredBy.STAND_IN or verdict.reason in KNOWN_LATER


def _caller() -> str:
    """Who asks, where this is a node; "" in a booking system's own process."""
    try:
        return current_call().caller.name
    except LookupError:
        return ""
