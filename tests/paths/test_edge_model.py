"""No edge answers anybody wrongly: the model of `tests.paths.edge_model`, played by hypothesis, and a few stories."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.index.servers import Server
from tests.paths.edge_model import BOOKS, EdgeMachine, Rig, ServerMachine
from tests.paths.proxy import Proxy
from tests.paths.test_model import check
from tests.ports import free_port


def _add(measure: str, *who: int) -> dict[str, Any]:
    return {"op": "add", "measure_id": measure, "who": list(who), "period": "now", "items": None}


def _remove(measure: str) -> dict[str, Any]:
    return {"op": "remove", "measure_id": measure}


Story = Callable[[EdgeMachine], None]


def _a_lift_overtakes_what_is_remembered(model: EdgeMachine) -> None:
    model.all_that_is_new_is_imported([_add("M1", 0, 2)], told=True)
    model.what_anybody_answers_is_right()
    model.all_that_is_new_is_imported([_remove("M1")], told=False)


def _what_was_lifted_is_sent_again(model: EdgeMachine) -> None:
    model.all_that_is_new_is_imported([_add("M1", 0, 2), _remove("M1")], told=True)
    model.send([2], told=True)


def _somebody_remembered_is_listed(model: EdgeMachine) -> None:
    model.what_anybody_answers_is_right()
    model.all_that_is_new_is_imported([_add("M1", 2)], told=True)


def _somebody_remembered_is_listed_in_another_journal(model: EdgeMachine) -> None:
    model.what_anybody_answers_is_right()
    model.index_is_worked_on("renew")
    model.all_that_is_new_is_imported([_add("M1", 2)], told=True)
    model.all_is_well((0, 1))


def _somebody_remembered_is_listed_and_the_journal_forgets_it(model: EdgeMachine) -> None:
    model.road_changes(0, "cut")
    model.what_anybody_answers_is_right()
    model.all_that_is_new_is_imported([_add("M1", 0, 2)], told=True)
    model.index_is_worked_on("trim")
    model.centre_goes_or_comes(signing_off=False, again=True, book=BOOKS[0])
    model.road_changes(0, "sound")
    model.time_passes(0, None)
    model.what_anybody_answers_is_right()
    model.all_is_well((0, 1))


def _somebody_is_listed_between_an_epoch_and_its_download(model: EdgeMachine) -> None:
    model.index_is_worked_on("publish")
    model.all_that_is_new_is_imported([_add("M1", 0)], told=True)
    model.what_anybody_answers_is_right()
    model.all_is_well((0, 1))


def _an_edge_starts_from_its_disk_without_its_centre(model: EdgeMachine) -> None:
    model.all_that_is_new_is_imported([_add("M1", 0)], told=True)
    model.road_changes(0, "cut")
    model.all_that_is_new_is_imported([_add("M2", 1)], told=False)
    for cleanly in (True, False):
        model.edge_goes_or_comes(0, cleanly, again=True)
        model.what_anybody_answers_is_right()


def _data_grow_old(model: EdgeMachine) -> None:
    model.all_that_is_new_is_imported([_add("M1", 0)], told=True)
    model.road_changes(0, "stuck")
    for minutes in (2, 25 * 60):
        model.time_passes(minutes, None)
        model.what_anybody_answers_is_right()


def _the_worker_loses_the_index_and_finds_it_again(model: EdgeMachine) -> None:
    model.worker_loses_the_index(lost=True)
    model.all_that_is_new_is_imported([_add("M1", 0, 2)], told=False)
    model.time_passes(2, None)
    model.what_anybody_answers_is_right()
    model.worker_loses_the_index(lost=False)


def _index_and_filter_fail_together(model: EdgeMachine) -> None:
    model.index_is_worked_on("renew")
    model.time_passes(0, None)
    model.all_that_is_new_is_imported([_add("M1", 0)], told=False)
    model.time_passes(0, None)
    model.worker_loses_the_index(lost=True)


def _the_centre_gets_other_rules(model: EdgeMachine) -> None:
    model.all_that_is_new_is_imported([_add("M1", 0)], told=True)
    for book in reversed(BOOKS):
        model.centre_goes_or_comes(signing_off=True, again=True, book=book)
        model.edges_hear_of_it()
        model.what_anybody_answers_is_right()
        model.all_is_well((0, 1))
        model.what_anybody_answers_is_right()


def _a_backup_is_restored(model: EdgeMachine) -> None:
    model.backup_is_made_or_restored(made=True)
    model.road_changes(1, "cut")
    model.all_that_is_new_is_imported([_add("M1", 0, 2), _add("M2", 1)], told=True)
    model.all_that_is_new_is_imported([_remove("M1")], told=True)
    model.backup_is_made_or_restored(made=False)
    model.what_anybody_answers_is_right()
    model.all_that_is_new_is_imported([_add("M1", 3)], told=False)
    model.all_is_well((0, 1))


STORIES: tuple[Story, ...] = (
    _a_lift_overtakes_what_is_remembered,
    _what_was_lifted_is_sent_again,
    _somebody_remembered_is_listed,
    _somebody_remembered_is_listed_in_another_journal,
    _somebody_remembered_is_listed_and_the_journal_forgets_it,
    _somebody_is_listed_between_an_epoch_and_its_download,
    _an_edge_starts_from_its_disk_without_its_centre,
    _data_grow_old,
    _the_worker_loses_the_index_and_finds_it_again,
    _index_and_filter_fail_together,
    _the_centre_gets_other_rules,
    _a_backup_is_restored,
)
"""What the model has to find by luck: each breaks if one rule of the edge or the centre does."""


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """For one test."""
    made = Rig(monkeypatch)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A private server on loopback."""
    made = Server(port=free_port())
    yield made
    made.close()


@pytest.fixture
def road(server: Server) -> Iterator[Proxy]:
    """Between the worker and the server."""
    made = Proxy(f"127.0.0.1:{server.port}")
    yield made
    made.close()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.strip("_"))
def test_no_edge_answers_anybody_wrongly_when(rig: Rig, story: Story) -> None:
    """See the story, and the module."""

    class Machine(EdgeMachine):
        pass

    Machine.rig = rig
    model = Machine()
    model.start()
    try:
        story(model)
        model.what_anybody_answers_is_right()
    finally:
        model.teardown()


def test_on_memory_no_edge_answers_anybody_wrongly(rig: Rig) -> None:
    """See the module."""

    class Machine(EdgeMachine):
        pass

    Machine.rig = rig
    check(Machine, examples=12, steps=40)


def test_on_a_server_no_edge_answers_anybody_wrongly(rig: Rig, server: Server, road: Proxy) -> None:
    """The same over a real server, which crashes at times."""

    class Machine(ServerMachine):
        pass

    Machine.rig, Machine.server, Machine.road = rig, server, road
    check(Machine, examples=8, steps=30)
