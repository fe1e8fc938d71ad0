"""The command line: options, what they select, and the report."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import web
from .faults import Broken, Finding

if TYPE_CHECKING:
    from .any_service import Addresses

A_TRACE = re.compile("[0-9a-f]{16}|[0-9a-f]{32}")
A_PAGE_OF_A_TRACE = re.compile("(https?://.+)/trace/([0-9a-f]+)")


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        if value:
            web.check_url(value)
    except ValueError as error:
        shown = web.without_userinfo(value)
        raise click.BadParameter(f"{shown!r} is not a URL such as http://127.0.0.1:5000/products.") from error
    return value


def _headers(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for value in values:
        name, colon, content = value.partition(":")
        try:
            if not colon:
                raise ValueError
            web.check_headers(headers := {**headers, name.strip(): content.strip()})
        except ValueError as error:
            # Do not repeat the text, since it may be a key.
            raise click.BadParameter("use NAME:VALUE, such as 'Accept: text/html'.") from error
        if name.strip().lower() in ("traceparent", "tracestate"):
            raise click.BadParameter("the doctor sends a `traceparent` of its own.")
    return headers


def _body(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    if value and value.startswith("@"):
        try:
            return Path(value[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"{value[1:]}: {web.reason(error)}.") from error
    return None if value is None else value.encode(errors="surrogateescape")


def _trace(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, str]:
    """Return the URL of a Jaeger, if a page of it was given, and the id of the trace."""
    page = A_PAGE_OF_A_TRACE.match(value.strip())
    base, trace_id = page.groups() if page else ("", value.strip().strip("<>\"'"))
    if trace_id and not A_TRACE.fullmatch(trace_id.lower()):
        raise click.BadParameter("a trace id has 32 hexadecimal digits.")
    return base, trace_id.lower().zfill(32) if trace_id else ""


def together(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Return what gives a command all of these options, which its help shows in this order."""
    return lambda command: reduce(lambda inner, decorator: decorator(inner), reversed(decorators), command)


options = together(
    click.option("--service-url", callback=_url, default="", help="A URL of your service that is safe to ask."),
    click.option("--method", help="The method of the request: by default GET, or POST if there is --data."),
    click.option("--data", metavar="TEXT|@FILE", callback=_body, help="The body to send; JSON is sent as such."),
    click.option("--header", metavar="NAME:VALUE", multiple=True, callback=_headers, help="A header to send."),
    click.option("--otlp", callback=_url, default="", help="The endpoint to which your service sends its spans."),
    click.option("--jaeger", callback=_url, default="", help="Jaeger's web page and API."),
    click.option(
        "--trace",
        metavar="ID",
        callback=_trace,
        default="",
        help="An existing trace to examine instead of making a request.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(["grpc", "http/protobuf"]),
        help="The protocol of your service; by default http/protobuf if the port is 4318, else grpc.",
    ),
    click.option(
        "--expect",
        metavar="NAME,NAME:DATABASE",
        default="",
        help="Services that must be in the trace, and databases that they must call, as in stock:postgresql.",
    ),
    click.option(
        "--wait",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        help="How long to wait for spans.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON."),
)
"""The options of the doctor: the things to check, and the request to make. `addresses_of` reads them."""


def addresses_of(
    *,
    service_url: str,
    method: str | None,
    data: bytes | None,
    header: dict[str, str],
    otlp: str,
    jaeger: str,
    trace: tuple[str, str],
    protocol: str | None,
    expect: str,
) -> "Addresses | None":
    """Return what to check according to the options, or None if they name nothing. Raises click.UsageError."""
    # Silence gRPC's own message about failed handshakes; it reads this variable on import.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from . import any_service, pipeline, probe

    expected = _expected(expect)
    page, trace_id = trace
    jaeger = jaeger or page
    if trace_id and service_url:
        raise click.UsageError("--trace looks at a trace that exists: leave --service-url out.")
    if trace_id and not jaeger:
        raise click.UsageError("--trace needs --jaeger.")
    if expected and not ((service_url or trace_id) and jaeger):
        raise click.UsageError("--expect needs --jaeger, and --service-url or --trace.")
    if (method or data is not None or header) and not service_url:
        raise click.UsageError("--method, --data and --header need --service-url.")
    if not (service_url or otlp or jaeger):
        return None
    request = probe.Request(service_url, *_how(method, data, header), data) if service_url else None
    return any_service.Addresses(request, otlp, pipeline.base_of(jaeger), protocol or "", trace_id, expected)


def report(findings: Iterable[str | Finding], as_json: bool = False) -> None:
    """Print each finding as it comes; exit with 1 if something is broken.

    JSON is printed at the end, as one object.
    """
    remarks = False
    found: list[dict[str, str]] = []
    try:
        for finding in findings:
            remarks |= isinstance(finding, Finding)
            found.append(_in_json(finding))
            if not as_json:
                _print(finding)
    except Broken as broken:
        if as_json:
            _print_json([*found, _in_json(broken.finding) | {"result": "broken"}])
        else:
            _print_finding("✗", broken.finding, fg="red", bold=True)
        sys.exit(1)
    if as_json:
        _print_json(found)
        return
    click.secho(f"No fault found.{' Read the remarks above, marked with !.' if remarks else ''}", fg="green", bold=True)


@click.command()
@options
def main(wait: float, as_json: bool, **given: Any) -> None:
    """Find out where spans get lost: name the first broken hop, its likely cause and the fix.

    Checks your service, Collector and Jaeger, and skips those that you do not name. Exits with 1 if a hop is broken.
    """
    addresses = addresses_of(**given)
    if addresses is None:
        raise click.UsageError("say what to look at: --service-url, --otlp, --jaeger.")
    from . import any_service

    report(any_service.follow(addresses, wait), as_json)


def _how(method: str | None, data: bytes | None, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the method and headers of a request, with defaults that depend on its body."""
    how = (method or ("GET" if data is None else "POST")).upper()
    if data is None or "content-type" in {name.lower() for name in headers}:
        return how, headers
    try:
        json.loads(data)
    except ValueError:
        return how, {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    return how, {**headers, "Content-Type": "application/json"}


def _expected(text: str) -> dict[str, set[str]]:
    """Return the services in `cart,stock:postgresql,stock:redis`, each with its databases."""
    expected: dict[str, set[str]] = {}
    for name in filter(None, (each.strip() for each in text.split(","))):
        service, _, database = name.partition(":")
        expected.setdefault(service, set()).update({database} - {""})
    return expected


def _in_json(finding: str | Finding) -> dict[str, str]:
    if isinstance(finding, str):
        return {"result": "passed", "says": web.without_passwords(finding)}
    says = {"says": finding.says, "cause": finding.cause, "fix": finding.fix}
    return {"result": "remark", "name": finding.name} | {key: web.without_passwords(text) for key, text in says.items()}


def _print_json(found: list[dict[str, str]]) -> None:
    good = all(each["result"] != "broken" for each in found)
    click.echo(json.dumps({"good": good, "findings": found}, indent=2))


def _print(finding: str | Finding) -> None:
    if isinstance(finding, Finding):
        _print_finding("!", finding, fg="yellow")
    else:
        _print_line(f"✓ {finding}", fg="green")


def _print_finding(mark: str, finding: Finding, **style: Any) -> None:
    _print_line(f"{mark} {finding.says}", **style)
    for heading, text in (("cause", finding.cause), ("fix", finding.fix), ("more", f"docs/doctor.md, {finding.name}")):
        _print_line(f"    {heading:5}  {text}")


def _print_line(text: str, **style: Any) -> None:
    click.secho(printable(web.without_passwords(text)), **style)


def printable(text: str) -> str:
    """Return a text without control characters: findings quote foreign text, and none may reach the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
