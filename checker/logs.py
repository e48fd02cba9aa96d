"""Logs that cannot print a document number or a name.

Everything logs through the standard library and is rendered here by structlog: JSON on request, human on a terminal.
Two things are done to every line, whoever wrote it:
- texts are masked: long runs of digits (in any script and spacing), passport-like codes, Chinese characters, and
  SURNAME/GIVEN pairs. Our own messages hold none of these; numbers worth logging travel as integer fields.
- exceptions appear as type and frames, never with their text: a library's message may quote what it was given.
"""

import logging
import re
import sys
import unicodedata
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

_MASK = "[masked]"
_FORMS = re.compile(
    r"""
      [A-Za-z]{0,3}\d{7,}[A-Za-z0-9]*       # resident IDs, permits, passports, codes
    | \d(?:[ \-.]?\d){14,}[ \-.]?[Xx]?      # the same, spaced or hyphenated
    | [0-9A-Z]{8}-?[0-9X](?![0-9A-Za-z])    # organisation codes
    | [0-9A-HJ-NP-Z]{15,}                   # social credit codes, old residence cards
    | [㐀-鿿豈-﫿𠀀-𱍏]+   # Chinese characters, rare ones included
    | [A-Z]{2,}/[A-Z]{2,}                   # SURNAME/GIVEN
    """,
    re.VERBOSE,
)
# Standard keys whose values are made by this module or by logging itself, never from data.
_UNMASKED = frozenset({"timestamp", "level", "logger"})


def mask(text: str) -> str:
    """The text with everything masked that may be a document number or a name."""
    return _FORMS.sub(_MASK, unicodedata.normalize("NFKC", text))


def _mask_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key not in _UNMASKED:
            event[key] = _masked(value)
    return event


def _masked(value: Any) -> Any:
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
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
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
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
