"""Logs that cannot print a document number or a name.

Everything logs through the standard library and is rendered here by structlog: JSON on request, human on a terminal.
Three things are done to every line, whoever wrote it:
- texts are masked: runs of digits (in any script and spacing), words that mix letters and digits as passports and codes
  do, every word with a letter beyond ASCII (so all Chinese, however rare), and SURNAME/GIVEN. Our messages hold none of
  these; numbers worth logging travel as integer fields. A name in plain Latin letters looks like any other words:
  against it there is only the rule that no message quotes what a caller sent.
- exceptions appear as type and frames, never with their text: a library's message may quote what it was given.
- a line that cannot be rendered is lost but for its logger's name: the standard library would print its arguments.
"""

import contextlib
import logging
import re
import sys
import unicodedata
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

_MASK = "[masked]"
# One alternative a line, tried in this order at each place. `-` and spaces are those that `mask` has made plain.
_FORMS = re.compile(
    "|".join(
        (
            # resident IDs, permits, cards, credit codes of digits: spaced, hyphenated, dotted or not
            r"\d(?:[ \-.]{0,3}\d){14,}(?:[ \-.]{0,3}[Xx](?![A-Za-z0-9]))?",
            # passports and travel permits, and the same in groups
            r"(?<![A-Za-z0-9])[A-Za-z]{1,3}\d{6,}[A-Za-z0-9]*",
            r"(?<![A-Za-z0-9])[A-Z]{1,2}(?:[ \-.]{0,2}\d){6,}",
            # what else has many digits, and the same in groups; a date may be read
            r"[A-Za-z0-9]{0,8}\d{7,}[A-Za-z0-9]*",
            r"(?<![A-Za-z0-9])(?!(?:19|20)\d\d-\d\d-\d\d(?!\d))\d(?:[ \-]{0,2}\d){6,}",
            # words of letters and at least four digits, in capitals at least two; an hour may be read
            r"(?<![A-Za-z0-9])(?!\d\dT\d\d:)(?=\d*[A-Za-z])(?=(?:[A-Za-z]*\d){4})[A-Za-z0-9]{5,}(?:-?[0-9Xx]\b)?",
            r"(?<![A-Za-z0-9])(?!\d\dT\d\d:)(?=\d*[A-Z])(?=(?:[A-Z]*\d){2})[A-Z0-9]{5,}(?:-[0-9X]\b)?(?![a-z])",
            # organisation codes, whatever their letters
            r"(?<![A-Za-z0-9])[0-9A-Z]{8}-[0-9X](?![A-Za-z0-9])",
            # SURNAME/GIVEN
            r"(?<![A-Z])(?:[A-Z]{2,}/[A-Z]+|[A-Z]/[A-Z]{2,})(?: [A-Z]+)*",
            # words with a letter beyond ASCII, and rare signs of any plane
            r"(?<![A-Za-z'])(?=[A-Za-z'·]*[^\x00-\xbf])[A-Za-z'·\u00c0-\U0010ffff]+",
            r"[^\x00-\xbf]+[A-Za-z']*",
        )
    )
)
# Dashes, spaces and invisible marks that can stand between the digits of a number.
_PLAIN = {"Pd": "-", "Zs": " ", "Zl": " ", "Zp": " ", "Cf": ""}
# Integers with as many digits as a resident ID: no count, size or sequence of ours gets there (they end at 2**53).
_IDENTITY = range(10**17, 10**18)
# Standard keys whose values are made by this module or by logging itself, never from data.
_UNMASKED = frozenset({"timestamp", "level", "logger"})


def mask(text: str) -> str:
    """The text with everything masked that may be a document number or a name."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join([_PLAIN.get(unicodedata.category(char), char) for char in text])
    return _FORMS.sub(_MASK, text)


def _mask_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key not in _UNMASKED:
            event[key] = _masked(value)
    return event


def _masked(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) in _IDENTITY:
        return _MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask(value if isinstance(value, str) else str(value))


def _frames_only(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace exception information by type and frames."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        event["error"] = info[0].__name__
        event["frames"] = " < ".join(reversed(_frames(info[2])))
    return event


def _frames(trace: TracebackType | None) -> list[str]:
    found = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(f"{code.co_qualname} line {trace.tb_lineno}")
        trace = trace.tb_next
    return found[-12:]


class _Handler(logging.StreamHandler[TextIO]):
    """Says that a line was lost instead of printing what it was made of, as the standard library does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        error = sys.exc_info()[0]
        lost = f"a line of {record.name} was lost: {error.__name__ if error else 'unknown error'}\n"
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(lost)
            self.flush()


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process. `form`: json, human, or auto (human on a terminal); `level`: a standard name."""
    out = stream or sys.stderr
    human = form == "human" or (form == "auto" and out.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if human
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    before: list[structlog.typing.Processor] = [
        structlog.stdlib.ExtraAdder(),  # first: a field called `level` must not take the place of an unmasked one
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _frames_only,
            _mask_event,
            renderer,
        ],
        keep_exc_info=False,  # else logging itself would print the traceback beside our frames
        keep_stack_info=False,
    )
    handler = _Handler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
