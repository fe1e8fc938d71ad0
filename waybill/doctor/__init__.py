"""`python -m waybill doctor`: follows one order, or one request to your service, and names the first broken hop."""

import os
import sys

import click
from rich.console import Console

from waybill.doctor.faults import Broken, Finding
from waybill.doctor.web import check_url
from waybill.jaeger import JaegerError
from waybill.settings import settings

SCENARIO = "cold-cache"
"""What our order asks for: a tail sampler keeps scenarios, and in this one inventory asks its database as well."""


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        if value:
            check_url(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a URL such as http://127.0.0.1:5000/products.") from error
    return value


@click.command()
@click.option("--service-url", callback=_url, default="", help="A URL of your service that is safe to GET.")
@click.option("--otlp", callback=_url, default="", help="Where your service sends its spans.")
@click.option("--jaeger", callback=_url, default="", help="Jaeger's web page and API.")
@click.option(
    "--protocol",
    type=click.Choice(["grpc", "http/protobuf"]),
    help="How your service sends; by default http/protobuf where the port is 4318, else grpc.",
)
@click.option("--expect", metavar="NAME,NAME", default="", help="Services that your request must reach.")
@click.option(
    "--scenario",
    type=click.Choice([SCENARIO, "lost-context"]),
    default=SCENARIO,
    show_default=True,
    help="What our order is to run; lost-context is one in which the doctor finds something.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="How long spans may be on their way.",
)
def doctor(
    service_url: str, otlp: str, jaeger: str, protocol: str | None, expect: str, scenario: str, wait: float
) -> None:
    """Find out where spans get lost: name the first broken hop, its likely cause and the fix.

    Without options it looks at what `make up` or Docker has started. With --service-url, --otlp or --jaeger it looks
    at your own service, Collector and Jaeger; what is left out is not looked at. Exits with 1 where a hop is broken.
    """
    # For a handshake that fails, gRPC has words of its own; it reads this as it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from waybill.doctor import ours, pipeline, yours

    expected = {name.strip() for name in expect.split(",")} - {""}
    if expected and not (service_url and jaeger):
        raise click.UsageError("--expect needs --service-url and --jaeger.")
    if service_url or otlp or jaeger:
        addresses = yours.Addresses(service_url, otlp, pipeline.base_of(jaeger), protocol or "", expected)
        findings = yours.follow(addresses, wait)
    else:
        findings = ours.follow(settings(), scenario, wait)
    console = Console(highlight=False)
    try:
        with Console(stderr=True).status("looking"):
            for finding in findings:
                _print(console, finding)
    except Broken as broken:
        _print_finding(console, "✗", "bold red", broken.finding)
        sys.exit(1)
    except JaegerError as error:
        raise click.ClickException(str(error)) from error
    console.print("No fault found.", style="bold green")


def _print(console: Console, finding: str | Finding) -> None:
    if isinstance(finding, Finding):
        _print_finding(console, "!", "yellow", finding)
    else:
        _print_line(console, f"✓ {finding}", "green")


def _print_finding(console: Console, mark: str, style: str, finding: Finding) -> None:
    _print_line(console, f"{mark} {finding.says}", style)
    for heading, text in (("cause", finding.cause), ("fix", finding.fix), ("more", f"docs/doctor.md, {finding.name}")):
        _print_line(console, f"    {heading:5}  {text}")


def _print_line(console: Console, text: str, style: str | None = None) -> None:
    # What is found comes from elsewhere: neither markup nor control characters of it are obeyed.
    printable = "".join(character if character.isprintable() else "?" for character in text)
    console.print(printable, style=style, markup=False, soft_wrap=True)
