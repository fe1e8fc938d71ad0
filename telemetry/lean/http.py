"""Code that incoming and outgoing calls share."""

from functools import lru_cache
from typing import Any

from opentelemetry.metrics import Meter
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD

from ..conventions import SECONDS, known_method
from ..durations import Durations


def durations(meter: Meter, side: str) -> Durations:
    """Return the histogram of calls that come in, for the side `server`, or that go out, for `client`."""
    name, text = f"http.{side}.request.duration", f"Duration of HTTP {side} requests."
    return Durations(meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=SECONDS))


def present(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return only the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value}


@lru_cache(maxsize=100)
def method_attributes(method: str) -> dict[str, Any]:
    """Return the known name of a method, `_OTHER` if there is none; as it was sent only if that differs."""
    known = known_method(method)
    return present({HTTP_REQUEST_METHOD: known, "http.request.method_original": method if method != known else ""})


@lru_cache(maxsize=500)
def user_agent_attributes(agent: str | bytes | None) -> dict[str, Any]:
    """Return what the header says, and whether it is a robot or a test that is known."""
    if not agent:
        return {}
    text = agent if isinstance(agent, str) else agent.decode("latin-1")
    robot = any(name in text.lower() for name in ("googlebot", "bingbot"))
    synthetic = "test" if "alwayson" in text.lower() else "bot" if robot else ""
    return present({"user_agent.original": text, "user_agent.synthetic.type": synthetic})
