"""Code that incoming and outgoing calls share."""

from functools import lru_cache

from opentelemetry.metrics import Meter
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD

from ..conventions import known_method
from ..durations import Durations

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""The boundaries that the conventions advise for durations of requests."""


def durations(meter: Meter, side: str) -> Durations:
    """Return the histogram of calls that come in, for the side `server`, or that go out, for `client`."""
    name, text = f"http.{side}.request.duration", f"Duration of HTTP {side} requests."
    return Durations(meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=SECONDS))


@lru_cache(maxsize=100)
def method_attributes(method: str) -> dict[str, str]:
    """Return the known name of a method, `_OTHER` if there is none; as it was sent only if that differs."""
    known = known_method(method)
    original = {"http.request.method_original": method} if method and method != known else {}
    return {HTTP_REQUEST_METHOD: known, **original}


@lru_cache(maxsize=500)
def user_agent_attributes(agent: str | bytes | None) -> dict[str, str]:
    """Return what the header says, and whether it is a robot or a test that is known."""
    if not agent:
        return {}
    text = agent if isinstance(agent, str) else agent.decode("latin-1")
    robot = any(name in text.lower() for name in ("googlebot", "bingbot"))
    synthetic = "test" if "alwayson" in text.lower() else "bot" if robot else ""
    return {"user_agent.original": text, **({"user_agent.synthetic.type": synthetic} if synthetic else {})}
