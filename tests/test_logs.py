"""Claims about logs: whoever logs it, in whatever spelling, no document number and no Chinese name is printed."""

import io
import json
import logging
import time
import tomllib
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.document import Parsed, parse
from checker.logs import configure, mask

VECTORS = tomllib.loads((Path(__file__).parent / "vectors" / "documents.toml").read_text("utf-8"))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The JSON log of this process while the test runs."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure("json", "debug", stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


RESIDENT = "440524188001010014"
DOCUMENTS = {
    "resident ID": RESIDENT,
    "resident ID with X": "11010519491231002X",
    "15 digits": "440524800101001",
    "residence permit": "810000199408230021",
    "foreigner's card": "911840188001010014",
    "old foreigner's card": "USA110080010108",
    "PRC passport": "E00001234",
    "PRC passport of two letters": "EA0000123",
    "old PRC passport": "140000123",
    "diplomatic passport": "DE0000123",
    "official passport": "0000123",
    "Hong Kong passport": "K00001234",
    "Hong Kong passport of two letters": "KA0000123",
    "Macau passport": "MA0000123",
    "foreign passport": "C01X00T47",
    "short foreign passport": "A1B2C3",
    "foreign passport of digits": "000012345",
    "HK and Macau permit": "H0000123401",
    "HK and Macau permit of two letters": "HA000012",
    "Taiwan permit": "00001234",
    "old Taiwan permit": "0000123456",
    "mainland permit": "C00001234",
    "mainland permit of two letters": "CA0000123",
    "credit code": "91350100M000100Y43",
    "credit code of a department": "N2330106MF0000005C",
    "organisation code": "D2143569X",
    "organisation code of letters": "M000100Y4",
}
FULL_WIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})


def groups(text: str, size: int, by: str) -> str:
    return by.join(text[at : at + size] for at in range(0, len(text), size))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as printed": lambda text: text,
    "lower case": str.lower,
    "full width": lambda text: text.translate(FULL_WIDTH),
    "in quotes": lambda text: f"'{text}'",
    "in brackets": lambda text: f"({text})",
    "with zero-width spaces": lambda text: "\u200b".join(text),
    "with a soft hyphen": lambda text: text[:5] + "\u00ad" + text[5:],
}
LONG = {name: text for name, text in DOCUMENTS.items() if len(text) >= 15 and text[:-1].isdigit()}
GROUPED: dict[str, Callable[[str], str]] = {
    "in fours": lambda text: groups(text, 4, " "),
    "in fours by hyphens": lambda text: groups(text, 4, "-"),
    "6-8-4": lambda text: f"{text[:6]} {text[6:14]} {text[14:]}",
    "by wide spaces": lambda text: groups(text, 4, "\u3000"),
    "by no-break spaces": lambda text: groups(text, 6, "\u00a0"),
    "by dashes": lambda text: groups(text, 6, "–"),
    "by two spaces": lambda text: groups(text, 6, "  "),
    "by dots": lambda text: groups(text, 6, "."),
    "digit by digit": lambda text: groups(text, 1, " "),
    "in Arabic digits": lambda text: "".join(chr(0x660 + int(char)) if char.isdigit() else char for char in text),
}


def holds(masked: str, number: str) -> bool:
    """Whether more than four characters in a row of the number can still be read."""
    plain = "".join(char for char in unicodedata.normalize("NFKC", masked).upper() if char.isalnum())
    number = "".join(char for char in number.upper() if char.isalnum())
    return any(number[at : at + 5] in plain.replace("MASKED", "|") for at in range(len(number) - 4))


# Six lower-case characters with three digits are any identifier: of these only capitals are masked.
SPELT = [pair for pair in product(DOCUMENTS, SPELLINGS) if pair != ("short foreign passport", "lower case")]


@pytest.mark.parametrize(("kind", "spelling"), SPELT)
def test_every_kind_of_document_is_masked(kind: str, spelling: str) -> None:
    """The number of every document of domain.md §3 is unreadable in a message, in each spelling."""
    number = DOCUMENTS[kind]
    assert not holds(mask(f"bad value {SPELLINGS[spelling](number)} in field"), number)


@pytest.mark.parametrize("spelling", GROUPED)
@pytest.mark.parametrize("kind", LONG)
def test_long_numbers_in_groups_are_masked(kind: str, spelling: str) -> None:
    """Numbers of 15 and 18 digits are unreadable however they are grouped."""
    assert not holds(mask(f"got {GROUPED[spelling](LONG[kind])}; send it again"), LONG[kind])


@pytest.mark.parametrize("number", ["E 0000 1234", "H0000-1234", "H 0000 1234 01", "0000 1234", "G-0000-1234"])
def test_short_numbers_in_groups_are_masked(number: str) -> None:
    """Passports and permits in groups of digits are unreadable too."""
    assert not holds(mask(f"got {number}"), number)


GOOD = [
    vector["number"]
    for table in VECTORS.values()
    for vector in table
    if not vector["expect"].startswith("BAD_") and sum(char.isdigit() for char in vector["number"]) >= 6
]


@pytest.mark.parametrize("number", GOOD)
def test_every_vector_is_masked(number: str) -> None:
    """Every spelling in the vectors that is read as a document, and has six digits, is unreadable in a message."""
    plain = "".join(char for char in unicodedata.normalize("NFKC", number).upper() if char.isascii())

    assert not holds(mask(f"about {number}."), plain)


@pytest.mark.parametrize(
    "name",
    [
        "张三",
        "買買提·吐爾遜",
        "𠮷野家",  # plane 2
        "\U00030edd",  # plane 3
        "\U00031350",  # extension H
        "\ue000",  # a registry's own character
        "\U000f0001",
        "〇",
        "ЗИМИН",
        "Müller",
        "Nguyễn",
        "ZHANG/SAN",
        "ZHANG/SAN FENG",
        "E/JING",
        "OUYANG/L",
        "やまだ",
        "김철수",
    ],
)
def test_names_are_masked(name: str) -> None:
    """A name with any letter beyond ASCII, or written SURNAME/GIVEN, leaves nothing to read."""
    masked = mask(f"about {name}, again")

    assert masked == "about [masked], again"


@pytest.mark.parametrize(
    "text",
    [
        "serving at 127.0.0.1:50051 with 4 workers",
        "redis at 10.0.0.12:6379, 10.0.0.13:6380 out of reach",
        "importer host-3 has held the lease since 2026-03-10T12:00:00+00:00; wait for it or stop it",
        "worker with pid 31234 did not stop within 10 s: killed",
        "internal error in /checker.v1.CheckService/BatchCheck: ValueError at begin line 120",
        "TLS 1.3, HTTP/2, UTF-8, I/O, blake2b-128, RESP3, X509",
        "filter file /var/lib/xianxiao/filter.xxf cannot be written",
    ],
)
def test_our_own_messages_stay_readable(text: str) -> None:
    """What an operator needs of our messages is not masked: addresses, times, ids of processes, methods."""
    assert text == mask(text)


@st.composite
def resident_ids(draw: st.DrawFn) -> str:
    """Valid numbers in the synthetic range: area 710000."""
    stem = f"710000{draw(st.integers(1850, 2025))}{draw(st.integers(1, 12)):02}{draw(st.integers(1, 28)):02}"
    stem += f"{draw(st.integers(0, 999)):03}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return stem + "10X98765432"[sum(int(digit) * weight for digit, weight in zip(stem, weights, strict=True)) % 11]


@given(st.text(max_size=30), resident_ids(), st.text(max_size=30))
def test_a_resident_id_is_masked_wherever_it_stands(before: str, number: str, after: str) -> None:
    """Any valid number in any text is masked, whatever stands beside it; the last character with it."""
    assert isinstance(parse(1, number, "", 20260310), Parsed)
    masked = mask(before + number + after)

    assert number[:17] not in masked
    assert number[6:14] not in mask(f"a {number} b")
    assert not any(number[at : at + 6] in mask(f"a {number} b") for at in range(13))


@given(st.text(max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    """Masking is total, ends, and its result holds no letter beyond Latin."""
    masked = mask(text)

    assert all(ord(char) < 0xC0 for char in masked)


def test_masking_is_quick_for_hostile_texts() -> None:
    """No text makes the masking slow: nothing in its patterns tries the same characters in many ways."""
    start = time.perf_counter()
    for text in ("A" * 20_000, "a1" * 10_000, "1 " * 10_000, "A/" * 10_000, "é'" * 10_000, "ab12-" * 5_000):
        mask(text)
    assert time.perf_counter() - start < 5


def test_a_line_is_one_json_object(lines: io.StringIO) -> None:
    """Line breaks, quotes and control characters in a message never break a line of the log."""
    logging.getLogger("a").info('one\ntwo "quoted" \x1b[31m %s', "three\r\n")
    logging.getLogger("a.b").warning("next", extra={"keys": 7})

    first, second = said(lines)
    assert first["event"] == 'one\ntwo "quoted" \x1b[31m three\r\n'
    assert {"event": "next", "level": "warning", "logger": "a.b", "keys": 7}.items() <= second.items()
    assert second["timestamp"].endswith("Z")


def test_numbers_worth_logging_survive(lines: io.StringIO) -> None:
    """Counts, sequences up to 2**53, sizes, shares and truth travel as fields and are printed as they are."""
    fields = {"sequence": 2**53 - 1, "bytes": 12_345_678_901, "share": 0.25, "ok": True, "none": None}
    logging.getLogger("a").info("numbers", extra=fields)

    (line,) = said(lines)
    assert fields.items() <= line.items()


def test_fields_are_masked(lines: io.StringIO) -> None:
    """A number in a field is masked: as text, in a list or mapping, as bytes, as an integer, under a standard key."""
    logging.getLogger("a").info(
        "fields",
        extra={
            "text": RESIDENT,
            "list": [RESIDENT],
            "mapping": {RESIDENT: 1},
            "raw": RESIDENT.encode(),
            "integer": int(RESIDENT),
            "level": RESIDENT,
            "timestamp": RESIDENT,
            "logger": RESIDENT,
            "event": RESIDENT,
        },
    )

    assert RESIDENT not in lines.getvalue()
    (line,) = said(lines)
    assert (line["level"], line["logger"], line["integer"]) == ("info", "a", "[masked]")


def fail(text: str) -> None:
    """Raise with a text that quotes somebody, from a cause that does too."""
    try:
        dict[str, str]()["Zhang San"]
    except KeyError as cause:
        raise ValueError(text) from cause


def test_exceptions_show_type_and_frames_only(lines: io.StringIO) -> None:
    """What an exception says, or those it came from, is never printed; where it was raised is."""
    caught: ValueError | None = None
    try:
        fail(f"could not read Zhang San {RESIDENT}")
    except ValueError as error:
        caught = error
        logging.getLogger("a").exception("failed")
    logging.getLogger("a").error("failed", exc_info=caught)

    assert "Zhang" not in lines.getvalue()
    assert RESIDENT not in lines.getvalue()
    for line in said(lines):
        assert line["error"] == "ValueError"
        assert "test_exceptions_show_type_and_frames_only line" in line["frames"]


def test_a_stack_is_masked(lines: io.StringIO) -> None:
    """A message with the stack attached prints no number either."""
    logging.getLogger("a").info("where %s", RESIDENT, stack_info=True)

    assert RESIDENT not in lines.getvalue()


def test_other_peoples_loggers_are_masked(lines: io.StringIO) -> None:
    """A library's logger, a child of it, and Python's warnings go through the same masking."""
    logging.getLogger("redis.connection").error("bad reply: %r", RESIDENT)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"about {RESIDENT}", stacklevel=1)

    assert RESIDENT not in lines.getvalue()
    assert [line["logger"] for line in said(lines)] == ["redis.connection", "py.warnings"]


def test_a_line_that_cannot_be_made_prints_nothing_of_itself(
    lines: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that logs with the wrong arguments loses its line; the arguments are not printed in its place."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if getattr(handler, "stream", None) is lines]
    logging.getLogger("careless").error("%d of %s", RESIDENT, "Zhang San")

    assert lines.getvalue() == "a line of careless was lost: TypeError\n"
    assert "".join(capsys.readouterr()) == ""


def test_a_path_that_is_no_text_can_be_logged(tmp_path: Path) -> None:
    """A file name of undecodable bytes does not lose the line on a real stream."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        configure("json", "info", stream)
        logging.getLogger("a").info("file %s", b"/tmp/\xff\xfe".decode(errors="surrogateescape"))
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before

    assert json.loads((tmp_path / "log").read_text("utf-8"))["event"] == "file /tmp/[masked]"


@pytest.mark.parametrize("form", ["human", "auto"])
def test_the_human_form_is_masked_too(form: str) -> None:
    """A person's log is made by the same steps; `auto` is JSON where nobody sits at a terminal."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure(form, "info", stream)
    try:
        fail(RESIDENT)
    except ValueError:
        logging.getLogger("a").exception("about 张三 %s", RESIDENT, extra={"keys": 3, "who": RESIDENT})
    logging.getLogger("a").debug("not said")
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before
    text = stream.getvalue()

    assert RESIDENT not in text
    assert "张三" not in text
    assert "not said" not in text
    assert text.count("\n") == 1
    assert text.startswith("{") == (form == "auto")
