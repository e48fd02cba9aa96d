"""Claim: whatever happens between a centre and its edge, in any order, the edge holds what it says it holds.

At every moment, sampled each few milliseconds: every key that the centre had acknowledged as of the heartbeat which the
edge believes is in its filter, and the lag it shows is at least the time since the first key that it lacks was
acknowledged. And once the road is sound again, it catches up.
"""

import asyncio
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.sync import Pace
from proto.checker.v1 import filter_pb2 as pb
from tests.edge.scripted import ScriptedCentre, a_key, now_ms, serving
from tests.edge.test_sync import Edge
from tests.waiting import eventually

PACE = Pace(
    jitter=0.02,
    silence=0.2,
    first_retry=0.005,
    longest_retry=0.03,
    look=0.02,
    log_beat=0.02,
    canary=60,
    chunk=0.3,
    spoilt=0.02,
    longest_spoilt=0.1,
)
STEPS = (
    "add",
    "publish",
    "late",
    "trim",
    "generation",
    "restored",
    "cut",
    "corrupt",
    "lose",
    "away",
    "mute",
    "stop",
    "kill",
)


class World:
    """A scripted centre, when each of its keys was acknowledged, and an edge that comes and goes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.centre = ScriptedCentre()
        self.centre.beat_s = 0.01
        self.times: dict[bytes, int] = {}
        self.histories: dict[bytes, list[bytes]] = {}
        self.made = 0
        self.address = ""
        self.edge: Edge | None = None
        self.spoil: list[Callable[[pb.WatchChangesResponse], pb.WatchChangesResponse | None]] = []
        self.centre.message = self._spoilt

    def add(self) -> None:
        """Acknowledge a few keys."""
        listed = [a_key(self.made + i) for i in range(self.chance.randint(1, 30))]
        self.made += len(listed)
        for key in listed:
            self.times[key] = now_ms()
        self.histories.setdefault(self.centre.centre_id, []).extend(listed)
        self.centre.add(*listed)

    def publish(self) -> None:
        self.centre.publish()

    def late(self) -> None:
        """An epoch whose scan began a while ago: part of the journal follows on it."""
        self.add()
        self.centre.publish(late=self.chance.randint(1, 60))

    def trim(self) -> None:
        """The journal forgets all before the newest epoch."""
        self.centre.publish()
        self.centre.trimmed = len(self.centre.entries)

    def generation(self) -> None:
        """A full reload: another journal, and an epoch from it."""
        self.centre.new_journal()
        self.centre.publish()

    def restored(self) -> None:
        """From a backup, with a new identity; its journal goes on with other entries."""
        centre = self.centre
        lost = min(len(centre.entries) - centre.trimmed, self.chance.randint(0, 20))
        centre.entries = centre.entries[: len(centre.entries) - lost]
        centre.acknowledged = centre.acknowledged[: len(centre.acknowledged) - lost]
        centre.centre_id = self.made.to_bytes(15, "big") + self.chance.randbytes(1)
        self.histories[centre.centre_id] = list(centre.acknowledged)
        centre.served.clear()
        centre.epoch = 0
        centre.publish()
        self.add()
        centre.cut()

    def cut(self) -> None:
        self.centre.cut()

    def corrupt(self) -> None:
        """Change a byte in one of the next messages."""

        def change(message: pb.WatchChangesResponse) -> pb.WatchChangesResponse | None:
            raw = bytearray(message.SerializeToString())
            raw[self.chance.randrange(len(raw))] ^= 1 << self.chance.randrange(8)
            try:
                return pb.WatchChangesResponse.FromString(bytes(raw))
            except DecodeError:
                return None

        self.spoil += [change] * self.chance.randint(1, 3)

    def lose(self) -> None:
        """The next messages are lost."""
        self.spoil += [lambda _: None] * self.chance.randint(1, 3)

    def away(self) -> None:
        """The centre goes, or comes back."""
        self.centre.away = not self.centre.away
        if self.centre.away:
            self.centre.cut()

    def mute(self) -> None:
        """No heartbeats, or heartbeats again."""
        self.centre.beating = not self.centre.beating

    def _spoilt(self, message: pb.WatchChangesResponse) -> pb.WatchChangesResponse | None:
        return self.spoil.pop()(message) if self.spoil else message

    async def begin(self) -> None:
        """Start an edge on what is on the disk."""
        self.edge = Edge(self.folder, self.address, pace=PACE)
        await self.edge.sync.start(0.02)

    async def end(self, *, cleanly: bool) -> None:
        """Stop it, or let it die: what it would write at its end is not written."""
        edge, self.edge = self.edge, None
        assert edge is not None
        if not cleanly:
            edge.sync._last_beat = None
        await edge.stop()

    def check(self) -> None:
        """The claim."""
        edge = self.edge
        if edge is None or edge.sync.snapshot is None:
            return
        known = edge.live.view.as_of.feed_sequence
        listed = self.histories.get(edge.sync.snapshot.header.centre_id, [])
        assert all(edge.live.may_list([key]) for key in listed[:known]), "a key is missing that it says it knows"
        lacking = [self.times[key] for key in self.centre.acknowledged if not edge.live.may_list([key])]
        if lacking:
            now = now_ms()  # before it is asked: time goes on
            assert edge.live.lag_ms() >= now - min(lacking), "it says it is younger than it is"


async def live_through(steps: list[str], seed: int) -> None:
    """Play it, looking all the time."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), seed)
        world.add()
        world.publish()
        async with serving(world.centre) as world.address:
            await world.begin()
            try:
                for step in steps:
                    if step in ("stop", "kill"):
                        await world.end(cleanly=step == "stop")
                        await world.begin()
                    else:
                        getattr(world, step)()
                    for _ in range(world.chance.choice((0, 1, 5, 20))):
                        world.check()
                        await asyncio.sleep(0.002)
                world.centre.away = False
                world.centre.beating = True
                world.spoil.clear()
                edge = world.edge
                assert edge is not None

                def caught_up() -> bool:
                    world.check()
                    known = edge.live.view.as_of
                    return (
                        known.feed_sequence == len(world.centre.acknowledged)
                        and known.snapshot_epoch == world.centre.epoch
                        and all(edge.live.may_list([key]) for key in world.centre.acknowledged)
                        and edge.fresh
                    )

                await eventually(caught_up)
            finally:
                if world.edge is not None:
                    await world.end(cleanly=True)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(STEPS), min_size=3, max_size=14), st.integers(0, 2**32))
def test_an_edge_holds_what_it_says_it_holds(steps: list[str], seed: int) -> None:
    """See the module."""
    asyncio.run(live_through(steps, seed))
