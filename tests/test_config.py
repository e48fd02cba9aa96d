"""Claims about settings: where each comes from, that all that is wrong is said at once, that each is documented."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.config import Settings, default_state_dir, load
from checker.core.freshness import HOUR_MS, MINUTE_MS, Limits
from checker.errors import UsageError
from checker.index.urls import open_index
from tests.cli.console import run

INDEX = {"index": "redis://127.0.0.1:6379/0"}


def a_file(folder: Path, text: str) -> Path:
    path = folder / "checker.toml"
    path.write_text(text, "utf-8")
    return path


def problems(flags: dict[str, Any], environ: dict[str, str] | None = None, config: Path | None = None) -> list[str]:
    with pytest.raises(UsageError) as raised:
        load(flags, environ or {}, config)
    return str(raised.value).splitlines()


def test_flag_before_variable_before_file_before_default(tmp_path: Path) -> None:
    """Each source gives way to the one before it, setting by setting."""
    config = a_file(tmp_path, 'index = "redis://file"\nworkers = 2\nlisten = "file:1"\nmax_in_flight = 9\n')
    environ = {"CHECKER_WORKERS": "3", "CHECKER_LISTEN": "variable:1", "PATH": "/bin"}
    settings = load({"listen": "flag:1", "workers": None}, environ, config)

    assert (settings.listen, settings.workers, settings.max_in_flight) == ("flag:1", 3, 9)
    assert settings.index == "redis://file"
    assert settings.index_timeout_ms == 20


WORDS: dict[str, tuple[Any, str, str]] = {  # setting -> value, as text, as TOML
    "index": ("redis://x", "redis://x", '"redis://x"'),
    "listen": ("0.0.0.0:1", "0.0.0.0:1", '"0.0.0.0:1"'),
    "log_format": ("json", "json", '"json"'),
    "log_level": ("error", "error", '"error"'),
    "metrics_listen": (":9100", ":9100", '":9100"'),
    "insecure_plaintext": (True, "yes", "true"),
    "filter_error_rate": (0.01, "1e-2", "0.01"),
}
PATHS = ("key_file", "state_dir", "ready_file", "rulebook", "tls_cert", "tls_key", "tls_client_ca", "roles")
SAMPLES = WORDS | {name: (Path("/x"), "/x", '"/x"') for name in PATHS}
NUMBERS = {item.name: (7, "7", "7") for item in fields(Settings) if isinstance(item.default, int)}
SAMPLES = {name: (7, "7", "7") for name in NUMBERS if name not in SAMPLES} | SAMPLES


@pytest.mark.parametrize("name", [item.name for item in fields(Settings) if item.name != "feed"])
def test_every_setting_can_come_from_every_source(name: str, tmp_path: Path) -> None:
    """A flag's value, a variable's text and a line of the file become the same setting of the same type."""
    value, text, toml = SAMPLES[name]
    companions = {"tls_cert": "/c", "tls_key": "/k", "roles": "/r"} if name.startswith(("tls", "roles")) else {}
    flags = INDEX | companions
    flags.pop(name, None)
    others = {} if name == "index" else INDEX
    config = a_file(tmp_path, f"{name} = {toml}\n")

    found = [
        getattr(load(flags | {name: text}, {}, None), name),
        getattr(load(flags | others, {f"CHECKER_{name.upper()}": text}, None), name),
        getattr(load(flags | others, {}, config), name),
    ]

    assert found == [value] * 3
    assert {type(one) for one in found} == {type(value)}


def test_feeds_are_paths_from_every_source(tmp_path: Path) -> None:
    """Several feeds by flag or file, one by variable."""
    memory = {"index": "memory:"}
    config = a_file(tmp_path, 'feed = ["a", "b"]')

    assert load(memory | {"feed": ["a", "b"]}, {}, None).feed == (Path("a"), Path("b"))
    assert load(memory, {"CHECKER_FEED": "a"}, None).feed == (Path("a"),)
    assert load(memory, {}, config).feed == (Path("a"), Path("b"))


def test_all_problems_are_said_at_once_each_with_its_source(tmp_path: Path) -> None:
    """One line each: the flag, the variable or the file and line where it stands, and what it must be."""
    config = a_file(tmp_path, 'wrokers = 2\nlog_level = "loud"\nroles = ""\nmax_in_flight = 1.5\n')
    said = problems(
        {"workers": "0", "listen": "unix:/x"},
        {"CHECKER_FILTER_ERROR_RATE": "2", "CHECKER_INDEX_TIMEOUT_MS": "soon", "CHECKER_WORKRES": "4", "OTHER": "x"},
        config,
    )

    assert sorted(said) == sorted(
        [
            f"{config}: wrokers: is no setting; see `checker serve --help`",
            "CHECKER_WORKRES: is no setting; see `checker serve --help`",
            "--workers: must be from 1 to 256",
            f"{config}: log_level: must be one of debug, info, warning, error",
            f"{config}: roles: must be a path",
            f"{config}: max_in_flight: must be a whole number",
            "CHECKER_FILTER_ERROR_RATE: must be from 0.0000001 to 0.1",
            "CHECKER_INDEX_TIMEOUT_MS: must be a whole number",
            "--index: is required, such as embedded:./index or redis://127.0.0.1:6379/0",
        ]
    )


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("workers", ["0", "-1", "257", "x", "", "1.5", True, "1" * 5000], "must be"),
        ("index_timeout_ms", ["0", "soon"], "must be"),
        ("min_budget_ms", ["-1"], "must be at least 0"),
        ("drain_grace_ms", ["-1"], "must be at least 0"),
        ("feed_stop_hours", ["0"], "must be at least 1"),
        ("filter_error_rate", ["0", "0.2", "nan", "inf", "-1", "x", [1], True], "must be"),
        ("insecure_plaintext", ["maybe", "", 2, "on"], "must be true or false"),
        ("log_format", ["xml", 5, ""], "must be"),
        ("key_file", ["", 5, [], "a\0b"], "must be a path"),
        ("feed", [5, [5], [""], "", {"a": 1}, "a\0b"], "must be a path"),
        ("index", [5, ["redis://"]], "must be a text"),
        ("index", ["foo://x", "memory:x", "redis", "redis:", "embedded:", "x"], "must be embedded:DIR, redis://"),
        ("index", ["redis://h:x", "rediss://u:p@h:99999/0", "redis+cluster://a:1,b:x"], "must name its servers as"),
        ("listen", ["nonsense", ":1", "h:", "h:x", "h:65536", "h:²", "h:" + "1" * 5000], "write HOST:PORT"),
        ("listen", ["unix:", "unix:/" + "x" * 107], "write unix:PATH with a path of 1 to 107 bytes"),
        ("metrics_listen", ["nonsense", "9100", "h:x", "h:65536"], "must be HOST:PORT"),
    ],
)
def test_a_wrong_value_is_one_problem(name: str, values: list[Any], says: str) -> None:
    """Out of range, of another type or unreadable: one line that names the source, never a traceback."""
    for value in values:
        base = {"index": "memory:"} if name == "feed" else INDEX
        (said,) = problems(base | {name: value})
        assert said.startswith(f"--{name.replace('_', '-')}: ")
        assert says in said


@given(st.sampled_from([item.name for item in fields(Settings)]), st.text(max_size=20) | st.integers() | st.booleans())
def test_no_value_crashes_the_reader(name: str, value: Any) -> None:
    """Any value for any setting is taken or refused by a sentence."""
    try:
        load(INDEX | {name: value}, {}, None)
    except UsageError as error:
        said = str(error)
    else:
        return
    assert said.startswith("--")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "--index: is required"),
        ({"index": "memory:", "workers": 2}, "--workers: memory: lives in one process"),
        (INDEX | {"feed": ["a"]}, "--feed: is for memory: only"),
        (INDEX | {"listen": "unix:/tmp/x", "workers": 2}, "--workers: a Unix socket cannot be shared"),
        (INDEX | {"tls_cert": "c"}, "--tls-cert, --tls-key: give both or neither"),
        (INDEX | {"tls_key": "k"}, "--tls-cert, --tls-key: give both or neither"),
        (INDEX | {"tls_client_ca": "a", "roles": "r"}, "--tls-client-ca: needs --tls-cert and --tls-key"),
        (INDEX | {"tls_cert": "c", "tls_key": "k", "tls_client_ca": "a"}, "--roles: mutual TLS needs a roles file"),
        (INDEX | {"feed_warn_minutes": 60, "feed_stop_hours": 1}, "--feed-warn-minutes: must be less than"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], says: str) -> None:
    """Each combination that could not serve is refused alone, with the remedy."""
    (said,) = problems(settings)

    assert said.startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"index = ", "not a TOML text"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[serve]\nindex = 'x'", "serve: is no setting"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "--config"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_hides_no_other_problem(tmp_path: Path, content: bytes | None, says: str) -> None:
    """The file is named with its fault, and what is wrong with the flags is said as well."""
    config = tmp_path / "checker.toml"
    if content is not None:
        config.write_bytes(content)
    said = problems({"workers": "x"}, {}, config)

    assert any(str(config) in line and says in line for line in said)
    assert "--workers: must be a whole number" in said


def test_other_commands_variables_are_no_problem() -> None:
    """CHECKER_ variables that belong to other commands or to the start itself may stand."""
    environ = {"CHECKER_CONFIG": "x", "CHECKER_TARGET": "y", "CHECKER_VALKEY_SERVER": "z"}

    assert load(INDEX, environ, None) == load(INDEX, {}, None)


def test_no_problem_quotes_a_password(tmp_path: Path) -> None:
    """What is wrong with settings never shows the index URL, which may hold a password."""
    config = a_file(tmp_path, 'index = "redis://:s3cret@h"\nworkers = 0\n')

    assert "s3cret" not in "".join(problems({"feed": ["x"]}, {}, config))


def test_derived_values() -> None:
    """Limits in milliseconds; state and key file beside an embedded index, else in the user's state folder."""
    settings = load(
        {"index": "embedded:/x/i", "feed_warn_minutes": 2, "feed_stop_hours": 3, "gap_grace_minutes": 0}, {}, None
    )

    assert settings.limits == Limits(2 * MINUTE_MS, 3 * HOUR_MS, 0)
    assert (settings.state, settings.keys) == (Path("/x/i"), Path("/x/i/key.json"))
    assert settings.embedded_dir == Path("/x/i")
    assert load(INDEX, {}, None).embedded_dir is None
    assert default_state_dir("redis://h") == Path.home() / ".local" / "state" / "xianxiao"
    assert load(INDEX | {"state_dir": "/s"}, {}, None).keys == Path("/s/key.json")
    assert load(INDEX | {"state_dir": "/s", "key_file": "/k"}, {}, None).keys == Path("/k")
    assert load(INDEX, {}, None).limits == Limits()


def test_help_documents_every_setting_and_its_default() -> None:
    """`checker serve --help` names each flag with its meaning, and its default where it has one."""
    ran = run("serve", "--help", COLUMNS="200")
    told = " ".join(ran.out.split())

    assert ran.code == 0
    for item in fields(Settings):
        assert f"--{item.name.replace('_', '-')} " in told
        assert " ".join(item.metadata["help"].split()) in told
        if item.default not in (None, "", (), False):
            assert f"{item.metadata['help']} (default {item.default})" in told


def test_serve_lists_every_problem_and_exits_2(tmp_path: Path) -> None:
    """The command itself says all that is wrong, one line each, without a traceback."""
    config = a_file(tmp_path, "workers = 0\n")
    ran = run("serve", "--config", config, "--log-level", "loud", CHECKER_LISTNE="x")

    assert ran.code == 2
    for part in (
        "workers: must be",
        "--log-level: must be one of",
        "CHECKER_LISTNE: is no setting",
        "--index: is required",
    ):
        assert part in ran.err
    assert "Traceback" not in ran.err


EVERY_FAULT = (
    *("--workers", "0", "--index", "foo://:s3cret@x", "--listen", "nonsense", "--metrics-listen", "nonsense"),
    *("--roles", "missing.toml", "--tls-cert", "x.pem", "--tls-key", "y.pem", "--rulebook", "missing.toml"),
    *("--key-file", "none.json", "--state-dir", "/dev/null/x", "--feed", "feed.jsonl"),
    *("--ready-file", "missing/ready.json"),
)


def test_serve_lists_what_is_wrong_with_settings_and_with_the_files_they_name(tmp_path: Path) -> None:
    """One line for each fault, none for what only follows from another; exit 2, and nothing is made on the way."""
    ran = run("serve", *EVERY_FAULT, cwd=tmp_path)

    assert ran.code == 2
    assert sorted(ran.err.splitlines()) == [
        "checker: --feed feed.jsonl: cannot be read: No such file or directory",
        "checker: --index: must be embedded:DIR, redis://HOST:PORT/DB, rediss://..., redis+unix:PATH, "
        "redis+cluster://HOST:PORT,... or memory:",
        "checker: --listen: write HOST:PORT (port 0 = any free one) or unix:PATH",
        "checker: --metrics-listen: must be HOST:PORT",
        "checker: --ready-file missing/ready.json: cannot be made: No such file or directory",
        "checker: --state-dir /dev/null/x: cannot be written to: Not a directory",
        "checker: --workers: must be from 1 to 256",
        "checker: TLS certificate x.pem: cannot be read: No such file or directory",
        "checker: key file none.json does not exist: make one with `checker keys new --key-file none.json`",
        "checker: roles file missing.toml: cannot be read: No such file or directory",
        "checker: rulebook missing.toml: No such file or directory",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--listen", "0.0.0.0:0"), "--listen 0.0.0.0:0: others can reach it"),
        (("--feed", "missing"), "--feed missing: cannot be read: No such file"),
        (("--roles", "missing"), "roles file missing: cannot be read"),
        (("--rulebook", "missing"), "rulebook missing: No such file"),
        (("--ready-file", "/dev/null/x"), "--ready-file /dev/null/x: cannot be made: Not a directory"),
        (("--state-dir", "/proc"), "--state-dir /proc: cannot be written to"),
        (("--state-dir", "/dev/null/x"), "--state-dir /dev/null/x: cannot be written to: Not a directory"),
    ],
)
def test_a_file_is_checked_beside_a_wrong_setting(flags: tuple[str, str], says: str, tmp_path: Path) -> None:
    """What a good setting names is looked at although another setting is wrong."""
    ran = run("serve", "--index", "memory:", "--workers", "0", "--key-file", tmp_path / "key.json", *flags, HOME="/x")

    assert ran.code == 2
    assert "checker: --workers: must be from 1 to 256\n" in ran.err
    assert f"checker: {says}" in ran.err


def test_a_file_that_cannot_be_read_leaves_its_settings_unknown(tmp_path: Path) -> None:
    """What the file may say is not taken for missing, nor are files looked for where its defaults would have them."""
    ran = run("serve", "--config", tmp_path / "missing.toml", "--rulebook", "missing", HOME=str(tmp_path))

    assert ran.code == 2
    assert sorted(ran.err.splitlines()) == [
        f"checker: --config {tmp_path}/missing.toml: No such file or directory",
        "checker: rulebook missing: No such file or directory",
    ]
    assert not list(tmp_path.iterdir())


URLS = {
    *("memory:", "redis://h", "redis://h:1", "rediss://u:p%40@h:1/0?namespace=n", "redis://[::1]:1", "redis://[::1]"),
    *("redis+cluster://a:1,b:2", "redis+unix:/s", "rediss+cluster://u:p@a", "redis://a:b:c@h/2"),
    *(
        "",
        "x",
        "foo://x",
        "memory:x",
        "redis:",
        "redis://h:x",
        "redis://h:65536",
        "embedded:",
        "redis+cluster://a:1,b:x",
    ),
}


@pytest.mark.parametrize("url", sorted(URLS))
def test_an_index_url_is_refused_at_start_just_where_it_could_not_be_opened(url: str) -> None:
    """The check of the setting and the one who opens it agree on every form."""
    try:
        load({"index": url}, {}, None)
    except UsageError:
        with pytest.raises(UsageError):
            open_index(url)
    else:
        open_index(url)


def test_the_samples_of_these_tests_are_toml() -> None:
    """Each sample line of the file is TOML of the value it stands for."""
    for value, _, toml in SAMPLES.values():
        assert tomllib.loads(f"x = {toml}")["x"] == (str(value) if isinstance(value, Path) else value)
