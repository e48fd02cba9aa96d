"""What a deployment needs for a load: pure arithmetic from measured costs, every assumption in words.

Strategy. Processor time is counted where it is spent: in the sellers' own processes (`EdgeClient`), on edge nodes, on
the centre's workers, in Redis. A call costs a fixed part and a part per check; two measurements, one check a call and
a hundred, give both. A call to a worker that has slept costs a multiple, since it wakes it by itself and finds its
caches cold. From there (`unary_alone_us`) to a busy worker (`unary_us`) the cost falls as calls follow each other more
closely than COOLING_S. That law is seen, not derived: `--validate` shows how well it holds on a machine.
Exact questions of an edge share calls with those that come up during the same round trip, and approach what coalesced
questions cost. The rest follows from sizes: bytes per key in Redis and in the filter, bytes per addition on the wire.

Counts are whole machines, kept below `Machine.used`, and one more where a failure must not stop the sale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ROUND_TRIP_S = 0.002
"""Of an exact question, edge to centre: those that come up meanwhile share the next call."""
COOLING_S = 0.005
"""In this time a sleeping worker has lost most (1 - 1/e) of what made its calls cheap."""
DAY_S = 86_400.0
KEYS_PER_MEASURE = 2.0
ADDED = 0.47
"""Of the changes, those that add; removals are slightly more and never travel to edges (domain.md §5)."""
GENERATIONS = 2
"""In Redis at once, while a full reload is made beside the one in use."""
_CURVE = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)


class Costs(NamedTuple):
    """Processor time in microseconds. The defaults are a slow machine's; `loadtest.costs` knows newer ones."""

    in_process_us: float = 6.0  # of the seller's process: a check by EdgeClient that the filter clears
    unary_us: float = 300.0  # of the server: a call of one check, many in flight
    unary_alone_us: float = 900.0  # the same, a call that comes after a pause
    batch_us: float = 14.5  # of the server: a check in a batch of 100
    coalesced_us: float = 22.0  # of the centre: an exact question among those of many callers
    lookup_us: float = 60.0  # of the centre, beside the call: a check that the exact index must answer
    redis_us: float = 15.0  # of Redis: the same
    stream_us: float = 70.0  # of the centre: a message of the change stream
    key_bytes: float = 270.0  # in Redis, per document key, everything told
    filter_key_bytes: float = 2.64  # of a snapshot, per document key
    addition_bytes: float = 20.0  # on the wire to each edge, per added key
    idle_cores: float = 0.0125  # of a server that nobody asks
    heartbeat_bytes: float = 180.0  # on the wire to each edge, each second

    @property
    def item_us(self) -> float:
        """Of the server, per check in a call."""
        return max(0.0, (100 * self.batch_us - self.unary_us) / 99)

    def call_us(self, calls_per_s: float) -> float:
        """Of the server, per call beside its checks, at a worker that gets as many calls a second."""
        idle = max(self.unary_us, self.unary_alone_us) - self.unary_us
        warmed = calls_per_s * COOLING_S  # may be zero although neither factor is
        cold = -math.expm1(-1 / warmed) if warmed > 0 else 1.0
        return max(0.0, self.unary_us + idle * cold - self.item_us)

    def planned_call_us(self, used: float) -> float:
        """The same, at a worker that is as busy as it is planned for."""
        return self.call_us(used * 1e6 / self.unary_us)

    def exact_us(self, per_call: float) -> float:
        """Of the centre, per exact question when `per_call` of them share one; without the look-up."""
        least = min(self.coalesced_us, self.unary_us)
        return (self.unary_us - least) / per_call + least


class Load(NamedTuple):
    """A national load. Shares are of all checks; what is neither in process nor at a node goes to the centre."""

    checks_per_s: float = 20_000.0
    measures: float = 20e6
    keys: float = 40e6
    edges: float = 2_000.0
    hit_share: float = 0.01  # must be answered by the exact index
    in_process: float = 0.90  # one railway is more than 90 % of the country
    node: float = 0.08
    batched: float = 0.99  # of the checks at nodes and the centre, those in calls of batch_size
    batch_size: float = 2.7
    changes_per_day: float = 50_000.0
    burst_per_s: float = 1_000.0  # changes in the busiest second

    @property
    def direct(self) -> float:
        """Share of the checks that ask the centre without an edge."""
        return max(0.0, 1 - self.in_process - self.node)

    @property
    def calls_per_check(self) -> float:
        """At nodes and the centre."""
        return self.batched / self.batch_size + (1 - self.batched)


class Machine(NamedTuple):
    """What is bought. `used`: the share of its cores and memory that is planned for."""

    cores: float = 16.0
    memory_bytes: float = 64 * 2.0**30
    used: float = 0.6
    spare: int = 1


class Place(NamedTuple):
    """One kind of machine in the plan. `cores`: busy, in seconds per second; `machines`: bought for it, 0: not ours."""

    name: str
    cores: float
    machines: int
    memory_bytes: float  # of each process or shard that must hold it
    why: str


@dataclass(frozen=True)
class Plan:
    """What is needed. Bandwidth in bytes per second, all edges together, out of the centre."""

    load: Load
    sellers: Place
    nodes: Place
    centre: Place
    redis: Place
    redis_bytes: float  # of all shards, without copies
    sync_bytes_per_s: float  # the mean day, snapshots not counted
    burst_bytes_per_s: float  # the busiest second
    snapshot_bytes: float  # of one
    snapshots_bytes_per_s: float  # one to every edge, spread over a day

    @property
    def places(self) -> tuple[Place, ...]:
        """In the order in which a check meets them."""
        return (self.sellers, self.nodes, self.centre, self.redis)

    @property
    def cores(self) -> float:
        """Of all places."""
        return sum(place.cores for place in self.places)

    @property
    def us_per_check(self) -> float:
        """Processor time of all places for each check."""
        return self.cores / self.load.checks_per_s * 1e6


def plan(load: Load, costs: Costs, machine: Machine) -> Plan:
    """The plan for a load. Pure; more load never needs less of anything."""
    rate = load.checks_per_s
    call_us = costs.planned_call_us(machine.used)
    check_us = load.calls_per_check * call_us + costs.item_us
    at_edges = load.in_process + load.node
    exact = rate * load.hit_share * at_edges
    shared = 1 + exact / max(1.0, load.edges) * ROUND_TRIP_S
    added_per_s = load.changes_per_day * ADDED * KEYS_PER_MEASURE / DAY_S
    messages = load.edges * (1 + min(1.0, load.changes_per_day * ADDED / DAY_S))  # heartbeats; additions, at most one

    sellers = rate * load.in_process * costs.in_process_us / 1e6
    with_nodes = load.edges if load.node else 0.0
    nodes = with_nodes * _node_cores(rate * load.node / max(1.0, with_nodes), load, costs, machine)
    centre = (
        rate * load.direct * check_us
        + exact * costs.exact_us(shared)
        + rate * load.hit_share * costs.lookup_us
        + messages * costs.stream_us
    ) / 1e6
    centre += math.ceil(centre) * costs.idle_cores
    redis = rate * load.hit_share * costs.redis_us / 1e6
    redis_bytes = load.keys * costs.key_bytes * GENERATIONS
    shards = max(1, math.ceil(redis_bytes / (machine.memory_bytes * machine.used)), math.ceil(redis / machine.used))
    filter_bytes = load.keys * costs.filter_key_bytes
    per_node = machine.cores * machine.used
    return Plan(
        load=load,
        sellers=Place("sellers' own processes", sellers, 0, filter_bytes, "EdgeClient, in the booking system"),
        nodes=Place(
            "edge nodes",
            nodes,
            max(math.ceil(with_nodes), math.ceil(nodes / per_node)) if load.node else 0,
            filter_bytes,
            "one at each edge, for its sellers",
        ),
        centre=Place(
            "centre",
            centre,
            math.ceil(centre / per_node) + machine.spare,
            filter_bytes,
            "direct checks, exact questions, streams to edges",
        ),
        redis=Place("Redis", redis, shards * 2, redis_bytes / shards, f"{shards} shard(s), each with a replica"),
        redis_bytes=redis_bytes,
        sync_bytes_per_s=load.edges * (costs.heartbeat_bytes + added_per_s * costs.addition_bytes),
        burst_bytes_per_s=load.edges
        * (costs.heartbeat_bytes + load.burst_per_s * KEYS_PER_MEASURE * costs.addition_bytes),
        snapshot_bytes=filter_bytes,
        snapshots_bytes_per_s=load.edges * filter_bytes / DAY_S,
    )


def _node_cores(rate: float, load: Load, costs: Costs, machine: Machine) -> float:
    """Of one edge node, with as many workers as keep below `Machine.used`."""
    check_us = load.calls_per_check * costs.planned_call_us(machine.used) + costs.item_us
    workers = max(1, math.ceil(rate * check_us / 1e6 / machine.used))
    return workers * (predict(rate / workers, load.calls_per_check, 0.0, costs).utilisation + costs.idle_cores)


class Point(NamedTuple):
    """The curve at one rate. `unary_cores`: were every check a call of its own to the centre."""

    rate: float
    plan: Plan
    unary_cores: float


def curve(load: Load, costs: Costs, machine: Machine, rates: Sequence[float] = _CURVE) -> list[Point]:
    """Plans from 1 000 to 1 000 000 checks per second, the load's own rate among them."""
    points = []
    for rate in sorted({*map(float, rates), load.checks_per_s}):
        unary = load._replace(checks_per_s=rate, in_process=0.0, node=0.0, batched=0.0, edges=0.0)
        points.append(
            Point(rate, plan(load._replace(checks_per_s=rate), costs, machine), plan(unary, costs, machine).cores)
        )
    return points


class Predicted(NamedTuple):
    """Of one worker under an open loop."""

    us_per_check: float
    utilisation: float  # of its core


def predict(rate: float, calls_per_check: float, hit_share: float, costs: Costs) -> Predicted:
    """What a worker of the centre spends on `rate` checks per second, its index's own time not counted."""
    beside = costs.item_us + hit_share * costs.lookup_us
    spent_us = costs.call_us(rate * calls_per_check) * calls_per_check + beside
    return Predicted(spent_us, min(1.0, rate * spent_us / 1e6))


def assumptions(load: Load, costs: Costs, machine: Machine) -> list[str]:
    """What the plan takes for granted, in sentences."""
    return [
        f"Of the checks {load.in_process:.0%} are decided in the seller's own process, {load.node:.0%} at edge nodes, "
        f"{load.direct:.0%} at the centre.",
        f"{load.hit_share:.2%} of the checks must be answered by the exact index; all others end at rules or filter.",
        f"At nodes and the centre {load.batched:.0%} of the checks come in calls of {load.batch_size:g}, the rest one "
        f"by one: {load.calls_per_check:.2f} calls a check, {costs.planned_call_us(machine.used):.0f} µs each and "
        f"{costs.item_us:.1f} µs per check.",
        f"Every edge holds the whole filter and follows one change stream, {costs.stream_us:.0f} µs of the centre for "
        "a message: a heartbeat each second, and additions at most once a second.",
        f"Exact questions of an edge share a call with those of the same {ROUND_TRIP_S * 1000:g} ms; edges have equal "
        "shares of them.",
        f"{load.changes_per_day:,.0f} changes a day, {ADDED:.0%} of them additions with {KEYS_PER_MEASURE:g} keys "
        f"each; {load.burst_per_s:,.0f} in the busiest second, taken as additions.",
        f"Redis holds {GENERATIONS} generations while the list is reloaded; each shard has a replica of its size. Its "
        "log on disk and its writes are not counted.",
        f"Machines of {machine.cores:g} cores and {machine.memory_bytes / 2**30:g} GiB, planned to {machine.used:.0%}; "
        f"{machine.spare} spare at the centre. The rate is that of the busiest second: no peak is added to it.",
        "A new snapshot goes to every edge once a day, evenly over the day.",
        "A worker with little to do spends more on a call and has room for it: nodes are counted as they are, the "
        f"centre as busy as it is planned for. A server that nobody asks spends {costs.idle_cores:.2%} of a core.",
        "Costs are those of the machine they were measured on; another one's differ, their ratios less so.",
    ]
