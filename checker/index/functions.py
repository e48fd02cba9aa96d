"""The exact index's own commands on the server: their names, and how one is called. Their code is in functions.lua."""

from functools import cache
from importlib.resources import files
from typing import Final

from checker.index.node import pack

LIBRARY: Final = "xianxiao_2"


def _function(name: str) -> bytes:
    return f"{LIBRARY}_{name}".encode()


MEASURE_ADD: Final = _function("measure_add")
MEASURE_REMOVE: Final = _function("measure_remove")
MEASURE_EXEMPT: Final = _function("measure_exempt")
KEY_PUT: Final = _function("key_put")
JOURNAL_APPEND: Final = _function("journal_append")
ACTIVE_KEYS: Final = _function("active_keys")
IMPORTER_TAKE: Final = _function("importer_take")
IMPORTER_RENEW: Final = _function("importer_renew")
IMPORTER_RELEASE: Final = _function("importer_release")
IMPORTER_ADVANCE: Final = _function("importer_advance")
SWITCH: Final = _function("switch")
WORKER_REPORT: Final = _function("worker_report")
WORKERS: Final = _function("workers")
CREATE: Final = _function("create")
REPLACE: Final = _function("replace")
PUBLISH: Final = _function("publish")
KEEP: Final = _function("keep")
WRITING: Final = _function("writing")
ABANDONED: Final = _function("abandoned")
CLAIM: Final = _function("claim")
EDGE_REPORT: Final = _function("edge_report")
EDGES: Final = _function("edges")


def call(function: bytes, name: bytes, *args: bytes) -> bytes:
    """One call on one key, packed."""
    return pack((b"FCALL", function, b"1", name, *args))


@cache
def library_code() -> bytes:
    """What the server is given."""
    return files("checker.index").joinpath("functions.lua").read_bytes()
