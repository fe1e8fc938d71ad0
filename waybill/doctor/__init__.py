"""`waybill doctor`: follows one order, or one request to your service, and names the first broken hop."""

from typing import Any

import click

from doctor.cli import addresses_of, options, report
from waybill.settings import settings

SCENARIO = "cold-cache"
"""The scenario of our order: a tail sampler keeps scenarios, and in this one inventory also uses its database."""


@click.command()
@options
@click.option(
    "--scenario",
    type=click.Choice([SCENARIO, "lost-context"]),
    default=SCENARIO,
    show_default=True,
    help="The scenario of the doctor's order; in lost-context, the doctor finds a fault.",
)
def doctor(scenario: str, wait: float, as_json: bool, **given: Any) -> None:
    """Find out where spans get lost: name the first broken hop, its likely cause and the fix.

    Without options it checks the system that `make up` or Docker has started. With --service-url, --otlp or --jaeger
    it checks your own service, Collector and Jaeger, and skips those that you do not name. Exits with 1 if a hop is
    broken.
    """
    if any(given["trace"]) and not given["jaeger"] and not given["trace"][0]:
        given["jaeger"] = settings().jaeger_url
    addresses = addresses_of(**given)
    # Import it afterwards: gRPC reads the environment on import.
    from doctor import any_service
    from waybill.doctor import own_system

    report(any_service.follow(addresses, wait) if addresses else own_system.follow(settings(), scenario, wait), as_json)
