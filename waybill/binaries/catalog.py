"""The executables: where each comes from, and how we check that it works."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from waybill.binaries.build import (
    COLLECTOR_VERSION,
    JAEGER_BUILT_VERSION,
    PROMETHEUS_VERSION,
    build_collector,
    build_jaeger,
    build_prometheus,
)
from waybill.binaries.download import Release

# The components that collector-config.yaml may use; otelcol-builder.yaml builds exactly these.
COLLECTOR_COMPONENTS = frozenset(
    {
        "otlp",
        *("memory_limiter", "attributes", "filter", "k8s_attributes", "probabilistic_sampler", "redaction"),
        *("resource", "tail_sampling", "transform"),
        *("debug", "file", "load_balancing", "otlp_grpc", "otlp_http", "prometheus"),
        *("forward", "span_metrics"),
        *("file_storage", "health_check"),
    }
)
# The first with the API and the configuration that we use.
JAEGER_MINIMUM = (2, 13)
# The first version that reads the retention of metrics correctly from its file.
PROMETHEUS_MINIMUM = (3, 11)
# The first start may be slow: from a cold disk, or on macOS, which scans a new executable.
CHECK_SECONDS = 30


class NotWorkingError(Exception):
    """An executable does not work; the message says why, in a few words."""


@dataclass(frozen=True)
class Binary:
    """One executable and the ways to get it."""

    title: str
    variable: str
    """The environment variable with a path that takes precedence."""
    commands: tuple[str, ...]
    """Its names on PATH, the best first."""
    check: Callable[[Path], None]
    """Raises NotWorkingError for an executable that we cannot use."""
    release: Release
    released_as: str
    """The name of a download in the cache, without the platform."""
    built_as: str
    build: Callable[[Path, Path], Path]
    """A function from the path of `go` and an empty folder to the executable in that folder."""


def check_collector(executable: Path) -> None:
    """Raise NotWorkingError unless this Collector runs and has all components of our configuration."""
    _output(executable, "--version")
    components = set(re.findall(r"^\s+- name: (\S+)$", _output(executable, "components"), re.MULTILINE))
    if missing := COLLECTOR_COMPONENTS - components:
        raise NotWorkingError(f"it lacks the components {', '.join(sorted(missing))}")


def check_jaeger(executable: Path) -> None:
    """Raise NotWorkingError unless this Jaeger runs and is new enough."""
    output = _output(executable, "version")
    _check_version("Jaeger", JAEGER_MINIMUM, re.search(r'"gitVersion":\s*"v(\d+)\.(\d+)', output), output)


def check_prometheus(title: str, executable: Path) -> None:
    """Raise NotWorkingError unless this Prometheus or promtool runs and is new enough."""
    output = _output(executable, "--version")
    found = re.match(rf"{title.lower()}, version (\d+)\.(\d+)", output)
    _check_version(title, PROMETHEUS_MINIMUM, found, output)


def _check_version(title: str, minimum: tuple[int, int], found: re.Match[str] | None, output: str) -> None:
    if not found or (int(found[1]), int(found[2])) < minimum:
        oldest = ".".join(map(str, minimum))
        raise NotWorkingError(f"it is not {title} {oldest} or newer: {output.strip() or 'it names no version'}")


def _output(executable: Path, argument: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            [executable, argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
            check=False,
        )
    except OSError as error:
        raise NotWorkingError(f"it does not start: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NotWorkingError(f"`{argument}` took more than {CHECK_SECONDS} seconds") from error
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotWorkingError(f"`{argument}` failed with exit code {done.returncode}: {last_line}")
    return done.stdout


# These are the SHA-256 sums that several public repositories have pinned for the same archives, independently of each
# other, so a server that sends another archive cannot send its sum as well. A platform without two sources that
# agree has no sum here, and its executable is built.
COLLECTOR = Binary(
    title="the OpenTelemetry Collector",
    variable="OTELCOL",
    commands=("otelcol-contrib", "otelcol"),
    check=check_collector,
    release=Release(
        repository="open-telemetry/opentelemetry-collector-releases",
        version=COLLECTOR_VERSION,
        archive="otelcol-contrib_{version}_{os}_{arch}.tar.gz",
        executable="otelcol-contrib",
        sha256={
            "linux-amd64": "778c689efa681ff6e4722ce9f66b9b7f57c3ba009ab2e2b43dc2e0315862c731",
            "linux-arm64": "cd5de93213a0dbb90e4998b3b9e4e15ed691ec635cf7cf4147f95799fb16b676",
            "darwin-amd64": "357fc0a7a77f5d42cab2f46af6be301062a7824b82454cc264cb8661fa9a8734",
            "darwin-arm64": "ccc0cf5de5242adcaedc7b5aebed43a1dc56aa2dc7de6ebc495d5db60512d34c",
        },
    ),
    released_as=f"otelcol-contrib-{COLLECTOR_VERSION}",
    built_as=f"otelcol-built-{COLLECTOR_VERSION}",
    build=build_collector,
)

JAEGER = Binary(
    title="Jaeger",
    variable="JAEGER",
    commands=("jaeger",),
    check=check_jaeger,
    release=Release(
        repository="jaegertracing/jaeger",
        version="2.20.0",
        archive="jaeger-{version}-{os}-{arch}.tar.gz",
        executable="jaeger-{version}-{os}-{arch}/jaeger",
        sha256={
            "linux-amd64": "c967368ba09be356089ef7e8aab2a76d170dc007ff6ccf7925c8167ede2900d7",
            "darwin-arm64": "b2d21051b27f06535c288dd63e15a42d5aae653d0113695014d7e6b502736e5d",
        },
    ),
    released_as="jaeger-2.20.0",
    built_as=f"jaeger-built-{JAEGER_BUILT_VERSION}",
    build=build_jaeger,
)


def _of_prometheus(title: str) -> Binary:
    """Return one of the executables that are in Prometheus' archive."""
    command = title.lower()
    return Binary(
        title=title,
        variable=command.upper(),
        commands=(command,),
        check=partial(check_prometheus, title),
        release=Release(
            repository="prometheus/prometheus",
            version=PROMETHEUS_VERSION,
            archive="prometheus-{version}.{os}-{arch}.tar.gz",
            executable=f"prometheus-{{version}}.{{os}}-{{arch}}/{command}",
            # There is no known sum for this version yet, so it is built.
            sha256={},
        ),
        released_as=f"{command}-{PROMETHEUS_VERSION}",
        built_as=f"{command}-built-{PROMETHEUS_VERSION}",
        build=partial(build_prometheus, title),
    )


PROMETHEUS, PROMTOOL = map(_of_prometheus, ("Prometheus", "promtool"))
