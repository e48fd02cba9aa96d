"""The numbers of a node's workers, added up: whichever of them is asked tells the whole node's.

A small file that every worker maps. Each writes its own row and reads all; a worker that is started again goes on from
what its row says.
"""

import mmap
import struct
from pathlib import Path

from edge.live import Numbers

_ROW = struct.Struct("<5Q")  # checks, hits, false positives, stand-ins, advice dropped


def create(path: Path, workers: int) -> None:
    """A file for so many workers, all zero."""
    path.write_bytes(bytes(_ROW.size * workers))


class Totals:
    """One worker's view of the file."""

    def __init__(self, path: Path, worker: int) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._at = worker * _ROW.size
        self._before = _ROW.unpack_from(self._map, self._at)

    def write(self, numbers: Numbers, dropped: int) -> None:
        """This worker's numbers since it started."""
        mine = (numbers.checks, numbers.hits, numbers.false_positives, numbers.stand_ins, dropped)
        _ROW.pack_into(self._map, self._at, *(old + new for old, new in zip(self._before, mine, strict=True)))

    def read(self) -> tuple[Numbers, int]:
        """Everybody's numbers, and how much advice was dropped."""
        rows = list(_ROW.iter_unpack(self._map))
        numbers = Numbers()
        numbers.checks, numbers.hits, numbers.false_positives, numbers.stand_ins, dropped = (
            sum(column) for column in zip(*rows, strict=True)
        )
        return numbers, dropped
