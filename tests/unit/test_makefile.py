"""The targets of the Makefile: the reader's input reaches the tool, and no shell runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from waybill.commands import call, waybill

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PATIENCE = 120
# The environment exists, even if its stamp is old.
MAKE = ["make", "--no-print-directory", f"VENV={sys.prefix}", "--old-file", f"{sys.prefix}/tool"]
MAKE += ["--old-file", f"{sys.prefix}/dev"]


def without_make() -> dict[str, str]:
    """Return our environment as if make had not started us."""
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VENV", "SEED", "ORDERS")
    return {name: value for name, value in os.environ.items() if name not in ours}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAKE, *arguments],
        cwd=ROOT,
        env=without_make(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )


def given(*typed: str) -> list[str]:
    """Return the arguments that a target passes to the tool, after its shell; the tool does not run."""
    done = make('WAYBILL=printf "%s\\0"', *typed)
    assert done.returncode == 0, done.stdout
    return done.stdout.split("\0")[:-1]


# --- The reader's input


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("trace", "ID=<trace_id>"), "make trace ID='<trace_id>': '<trace_id>' is not a trace id"),
        (("trace", "ID=it's"), "is not a trace id"),
        (("trace", "ID=a b"), "make trace ID='a b': 'a b' is not a trace id"),
        (("trace", "ID=-x"), "make trace ID=-x: '-x' is not a trace id"),
        (("trace",), "make trace needs ID: make trace ID=..."),
        (("trace", f"ID={'a' * 32}", "WAIT=soon"), "make trace WAIT=soon: 'soon' is not a valid float"),
        (("load", "MIX=a=1, b=1"), "make load MIX='a=1, b=1': There is no kind of order 'a'"),
        (("load", "MIX=declined"), "make load MIX=declined: The weight of 'declined' must be a whole number"),
        (("load", "ORDERS=many"), "make load ORDERS=many: 'many' is not a valid integer"),
        (("load", "RATE=0"), "make load RATE=0: 0.0 is not in the range"),
        (("load", "USERS=0"), "make load USERS=0: 0 is not in the range"),
        (("capacity", "RATE=0"), "make capacity RATE=0: 0 is not in the range"),
        (("drill", "SEED=one two"), "make drill SEED='one two': 'one two' is not a valid integer"),
        (("doctor", "SCENARIO=<one>"), "make doctor SCENARIO='<one>': "),
        (("logs", "SEVERITY=loud"), "make logs SEVERITY=loud: 'loud' is not one of 'debug', 'info'"),
        (("logs", "TRACE=a b"), "make logs TRACE='a b': 'a b' is not a trace id"),
    ],
)
def test_what_is_typed_reaches_the_tool_whole_and_the_message_names_it(
    typed: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["waybill", *given(*typed)])
    # As the Makefile does.
    monkeypatch.setenv("WAYBILL_TYPED", "make")
    for variable in typed[1:]:
        monkeypatch.setenv(*variable.split("=", 1))
    with pytest.raises(SystemExit) as ended:
        call(waybill)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("trace", "ID=it's"), "is not a trace id"),
        (("up", "ALERTS=loud"), "ALERTS=loud: Input should be 'production' or 'demo'."),
        (("up", "ALERTS=demo", "METRICS=off"), "ALERTS=demo and METRICS=off exclude each other: Prometheus fires"),
        (("up", "RETENTION=0"), "RETENTION=0: Input should be greater than or equal to 1."),
        (("up", "SAMPLING=some (of them)"), "SAMPLING=some (of them): Input should be 'off', 'tail' or 'two-tier'."),
    ],
)
def test_a_target_ends_with_the_message_of_the_tool(typed: tuple[str, ...], message: str) -> None:
    done = make(*typed)
    assert done.returncode == 2
    assert message in done.stdout
    assert "python -m waybill" not in done.stdout


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [("REPLAY=1-0", 'replay -- "$REPLAY"'), ("DROP=all", 'drop -- "$DROP"'), ("REPLAY=", "list")],
)
def test_dead_letters_are_sent_back_or_dropped_as_typed_and_else_listed(typed: str, arguments: str) -> None:
    assert f"waybill dead-letters {arguments};" in make("--dry-run", "dead-letters", typed).stdout


def test_traces_survive_if_everything_runs_in_the_background_unless_the_reader_says_otherwise() -> None:
    assert 'WAYBILL_STORAGE="$STORAGE"' in make("--dry-run", "up").stdout
    assert "WAYBILL_STORAGE" not in make("--dry-run", "demo").stdout
    assert "STORAGE=tape: Input should be" in make("up", "WAYBILL_STORAGE=tape").stdout


TEXTS = ("; touch {}", "$(touch {})", "`touch {}`", "' ; touch {} '", '" ; touch {} "', "> {}")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        *(("trace ID", text) for text in TEXTS),
        *(
            (target, "".join(TEXTS))
            for target in (
                "load MIX",
                "load ORDERS",
                "load RATE",
                "drill SEED",
                "doctor SCENARIO",
                "up SAMPLING",
                "demo METRICS",
                "up ALERTS",
                "up STORAGE",
                "logs SERVICE",
                "logs SEVERITY",
                "logs TRACE",
                "load USERS",
                "trace WAIT",
                "score FILE",
                "retention DAYS",
                "capacity RATE",
                "capacity KEEP",
                "incident SEED",
                "incident OUT",
                "incidents OUT",
                "grade INCIDENT",
                "grade ANSWER",
                "dead-letters REPLAY",
                "dead-letters DROP",
                "bench VARIANTS",
                "bench BASE",
                "bench ROUNDS",
                "bench DURATION",
                "bench SEED",
            )
        ),
    ],
)
def test_what_is_typed_is_never_run(target: str, text: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    name, variable = target.split()
    text = text.replace("{}", str(mark))
    # make needs a doubled dollar sign.
    reached = given(name, f"{variable}={text.replace('$', '$$')}")
    assert not mark.exists()
    # The settings reach the tool as variables.
    assert name in ("up", "demo") or any(text in argument for argument in reached)


def test_the_tool_called_by_itself_names_its_own_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "waybill", "load", "--mix", "a=1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Invalid value for '--mix': There is no kind of order 'a'" in done.stderr


def test_help_names_every_variable_of_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    text = text.replace("$(CHOICES)", "$$SAMPLING $$METRICS $$ALERTS $$STORAGE $$RETENTION")
    described: dict[str, set[str]] = {}
    for block in re.split(r"\n(?=[a-z-]+:.*## )", text)[1:]:
        rule = block.partition("\n\n")[0]
        used = set(re.findall(r"\$\$\{?([A-Z]+)", rule))
        named = set(re.findall(r"^##   ([A-Z]+)=", rule, re.MULTILINE))
        described[rule.partition(":")[0]] = named
        assert used <= named, rule
    printed = make("help").stdout
    assert all(f"{variable}=" in printed for named in described.values() for variable in named)
    assert described["trace"] == {"ID", "WAIT", "LOGS"}
