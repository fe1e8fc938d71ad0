"""The variants to compare: the same services with different telemetry, as environments of their processes."""

import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from waybill.registry import ON_THE_WAY
from waybill.supervise import ROOT, Part

STAND_INS = Path(__file__).parent / "stand_ins"
TRACED = ON_THE_WAY
"""The parts that a variant changes. The acquirer, a third party, is untraced in all of them."""


@dataclass(frozen=True)
class Variant:
    """One way to trace the services, or not to trace them."""

    name: str
    what: str
    stand_ins: Sequence[str] = ("counted",)
    """Files of `stand_ins/`; a later one replaces names of the earlier ones."""
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: str = ""
    """A program in the environment that starts the services' commands."""
    sends: bool = True
    """True if its spans should arrive in Jaeger."""
    needs: str = ""
    """A path in the repository without which the variant does not exist."""

    @property
    def exists(self) -> bool:
        """Return whether this copy of the repository has what it needs."""
        return not self.needs or (ROOT / self.needs).exists()

    @property
    def installed(self) -> bool:
        """Return whether the environment has its launcher, which only that of `make bench` has."""
        return not self.launcher or self._program.exists()

    @property
    def _program(self) -> Path:
        return Path(sys.executable).with_name(self.launcher)

    def parts(self, parts: Sequence[Part], folder: Path) -> list[Part]:
        """Return the parts with the traced ones changed into this variant; its files go into `folder`."""
        environment = self.lay_out(folder) | {"WAYBILL_SCENARIOS": "off"}
        return [
            self._changed(part, environment if part.name in TRACED else {"WAYBILL_SCENARIOS": "off"}) for part in parts
        ]

    def lay_out(self, folder: Path) -> dict[str, str]:
        """Write the variant's copy of `telemetry/` into `folder`; return the environment of a process that uses it."""
        code, spans = folder / "code", folder / "spans"
        spans.mkdir()
        shutil.copytree(ROOT / "telemetry", code / "telemetry", ignore=shutil.ignore_patterns("__pycache__"))
        for file in STAND_INS.glob("[!_]*.py"):
            shutil.copy(file, code / "telemetry")
        with (code / "telemetry/__init__.py").open("a") as init:
            init.writelines(f"\nfrom .{name} import *\n" for name in self.stand_ins)
        return {
            # Not what the caller has chosen for services of their own.
            "WAYBILL_TELEMETRY": "",
            **self.environment,
            "BENCH_SPANS": str(spans),
            # Instead of the working directory, so that this copy is found first.
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join([str(code), str(ROOT)]),
        }

    def _changed(self, part: Part, environment: Mapping[str, str]) -> Part:
        named = {"OTEL_SERVICE_NAME": part.name} if self.launcher else {}
        command = part.command
        if self.launcher and part.name in TRACED:
            # After "--" it does not mistake the command's options for its own.
            command = [self._program, "--", *part.command]
        return replace(part, command=command, environment={**part.environment, **named, **environment})


def _sampled(percent: str, ratio: str) -> Variant:
    return Variant(
        f"ours-{percent}%",
        f"ours, {percent} % of the traces sampled at the head",
        environment={"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio},
    )


UNTRACED, ZERO_CODE, OURS, LEAN = "untraced", "zero-code", "ours", "lean"
TRACES_ONLY, UNEXPORTED, LEAN_UNEXPORTED = "ours-traces-only", "ours-not-exported", "lean-not-exported"
WITH_LEAN = {"WAYBILL_TELEMETRY": "lean"}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(UNTRACED, "no SDK, no instrumentation", ("untraced",), sends=False),
        Variant(
            ZERO_CODE,
            "`opentelemetry-instrument` with the four libraries and logging, defaults: traces, metrics, logs",
            ("untraced", "counted"),
            launcher="opentelemetry-instrument",
        ),
        Variant(
            "textbook",
            "the ten lines of the official documentation: provider, batch processor, instrumentors; traces only",
            ("textbook", "counted"),
        ),
        Variant(OURS, "the default of `telemetry/`: traces, metrics, logs"),
        Variant(
            LEAN,
            "`telemetry/lean/`: the same spans, metrics and logs without the instrumentation packages",
            environment=WITH_LEAN,
            needs="telemetry/lean",
        ),
        _sampled("10", "0.1"),
        _sampled("1", "0.01"),
        _sampled("0", "0"),
        Variant(TRACES_ONLY, "ours without metrics and logs", ("traces_only", "counted")),
        Variant(
            UNEXPORTED,
            "ours without metrics and logs, the spans thrown away instead of sent",
            ("unexported", "counted"),
            sends=False,
        ),
        Variant(
            LEAN_UNEXPORTED,
            "the same with lean",
            ("unexported", "counted"),
            environment=WITH_LEAN,
            sends=False,
            needs="telemetry/lean",
        ),
    )
}


def choose(names: Collection[str]) -> list[Variant]:
    """Return the variants of these names, all that exist if there are none.

    Raises ValueError with the names that there are, if one is not among them.
    """
    there = {name: variant for name, variant in VARIANTS.items() if variant.exists}
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"There is no variant {unknown[0]!r}; there are {', '.join(there)}.")
    return [variant for name, variant in there.items() if not names or name in names]
