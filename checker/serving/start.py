"""What each process of `checker serve` does, as its parent names it.

The work is loaded where it is done. So the parent starts workers in half the time, and never holds what only they need
(the store's client, NumPy, the servicers).
"""

from checker.rpc.workers import WorkerContext


def work(context: WorkerContext) -> None:
    """A worker's whole life."""
    from checker.serving import worker

    worker.work(context)


def accompany(context: WorkerContext) -> None:
    """The companion's whole life: ready once a filter file is there."""
    from checker.serving import worker

    worker.accompany(context)
