"""Users for locust: `locust -f loadtest/locustfile.py --host ADDR[,ADDR] --people people.csv`.

Closed loop by default; name users to choose (`Unary`, `Batch`, `Stream`, or `Sellers`, who call as their kind of seller
does). `--rate R` makes it an open loop, in which a user is a slot for one call in flight. docs/load-testing.md.
"""

import time

from locust import events, task

from loadtest import collect, grpc_user
from loadtest.workload import BATCH, CHECK, STREAM

collect.listen(events)


class Unary(grpc_user.ClosedLoop):
    """A call per passenger."""

    @task
    def check(self) -> None:
        """One order."""
        order = self.order()
        for item in order.items:
            self.ask(order.tenant, CHECK, (item,), time.perf_counter())


class Batch(grpc_user.ClosedLoop):
    """A call per order, or per --batch items."""

    @task
    def check(self) -> None:
        """One order, or several."""
        order = self.order()
        items = list(order.items)
        while len(items) < self.load.batch:
            items += self.order().items
        self.ask(order.tenant, BATCH, items, time.perf_counter())


class Stream(grpc_user.ClosedLoop):
    """A stream per order, with a message per passenger."""

    @task
    def check(self) -> None:
        """One order."""
        order = self.order()
        self.ask(order.tenant, STREAM, order.items, time.perf_counter())


class Sellers(grpc_user.ClosedLoop):
    """Each order by the call that its kind of seller makes."""

    @task
    def check(self) -> None:
        """One order."""
        order = self.order()
        if order.rpc == CHECK:
            for item in order.items:
                self.ask(order.tenant, CHECK, (item,), time.perf_counter())
        else:
            self.ask(order.tenant, order.rpc, order.items, time.perf_counter())


class OpenLoop(grpc_user.OpenLoop):
    """A slot for one call in flight, at the workload's own times."""

    @task
    def check(self) -> None:
        """The schedule."""
        self.follow()
