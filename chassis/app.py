"""The app factory that every service starts from."""

import logging
import os
from collections.abc import Callable, Collection, Mapping
from typing import Literal
from uuid import uuid4

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import BaseModel

import telemetry
from chassis import deadline, limits, logs, problems, tracing
from chassis.settings import ServiceSettings, refuse

log = logging.getLogger(__name__)

VERSION = tracing.VERSION
MAX_BODY_BYTES = 64 * 1024

CHOICES = (
    "WAYBILL_TELEMETRY",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN",
)
"""Variables, in addition to the settings, that change a process's behaviour; none of them is a secret."""

Checks = Mapping[str, Callable[[], object]]


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """The state of each part that the service cannot work without, now or as it was last asked, by name."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


def configure_telemetry(name: str, settings: ServiceSettings, baggage_keys: Collection[str] = ()) -> None:
    """Set up the telemetry of one of our processes, or end it if the environment has wrong values for that.

    Log that the process starts, with its version and its settings.

    Baggage under `baggage_keys` becomes attributes of spans. If POD_UID is set, `service.instance.id` begins with it: a
    pod may have several processes, at the same time or one after another, and each is counted separately.
    """
    logs.configure(name)
    way = tracing.way()
    pod = os.environ.get("POD_UID")
    try:
        telemetry.configure(
            name,
            version=VERSION,
            namespace="waybill",
            baggage_keys=baggage_keys,
            logs="otlp",
            resource_attributes={"service.instance.id": f"{pod}.{uuid4().hex[:8]}"} if pod else {},
        )
    except ValueError as error:
        refuse(str(error))
    way.instrument_requests()
    chosen = {name: os.environ[name] for name in CHOICES if os.environ.get(name)}
    said = ", ".join(f"{key}={value}" for key, value in {**settings.open(), **chosen}.items())
    log.info("%s %s starts with %s", name, VERSION, said)


def new_app(
    name: str,
    settings: ServiceSettings,
    checks: Checks,
    *,
    public: bool = False,
    untraced: Collection[str] = (),
    keep_baggage: Callable[[str], str] | None = None,
) -> Flask:
    """Return a Flask app with tracing, problem documents for errors, a deadline and health checks.

    Call `configure_telemetry` first. `checks` are the parts that the service cannot work without, by name; each
    raises if its part does not answer. `untraced` are patterns of paths that get no spans. `keep_baggage` returns the
    part of a caller's baggage that a public service lets in.
    """
    app = Flask(name, static_folder=None)
    tracing.way().instrument_app(app, public=public, keep_baggage=keep_baggage, untraced=["startedz", *untraced])
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    problems.install(app)

    @app.before_request
    def start_the_clock() -> None:
        header = None if public else request.headers.get(deadline.HEADER)
        allowance = deadline.allowance(header, settings.request_deadline)
        patience = allowance + deadline.MARGIN if header is not None else None
        deadline.start(allowance - deadline.waited(request.headers.get(deadline.SENT_HEADER), patience))

    if not public:
        app.before_request(refuse_pages)
    limits.install(app, uncounted=("healthz", "startedz"))

    @app.get("/healthz")
    def healthz() -> ResponseReturnValue:
        """Report that the process is alive."""
        return jsonify(Health(status="ok").model_dump())

    @app.get("/readyz")
    def readyz() -> ResponseReturnValue:
        """Report whether the parts that the service cannot work without answer."""
        return _answer(_states(checks))

    answered: dict[str, str] = {}

    @app.get("/startedz")
    def startedz() -> ResponseReturnValue:
        """Return whether each of these parts has answered once since the process started.

        An orchestrator calls it to decide whether to send requests. If a part is down later, the answers show it.
        """
        states = _states({name: check for name, check in checks.items() if name not in answered})
        answered.update({name: state for name, state in states.items() if state == "ok"})
        return _answer(answered | states)

    return app


def refuse_pages() -> None:
    """Refuse what the page of a browser sends; only a service that is public has pages.

    The page of a stranger may have its own name point to this machine (DNS rebinding). With all that is more than a
    question, the browser says by the header Origin that a page sends it.
    """
    if "Origin" in request.headers:
        raise problems.Problem(403, detail="a page may not ask this service")


def end() -> None:
    """Log that this process ends, and send what its telemetry still holds."""
    # There is none if the process failed before its telemetry was set up.
    if resource := getattr(trace.get_tracer_provider(), "resource", None):
        log.info("%s %s ends", resource.attributes["service.name"], VERSION)
    telemetry.shutdown()


def _states(checks: Checks) -> dict[str, str]:
    """Return the current state of each part."""
    # Check them in parallel, since one that does not answer takes a while.
    with telemetry.ContextThreadPool() as pool:
        return dict(zip(checks, pool.map(_state, checks.values()), strict=True))


def _answer(states: dict[str, str]) -> ResponseReturnValue:
    ready = all(state == "ok" for state in states.values())
    readiness = Readiness(status="ok" if ready else "unavailable", checks=states)
    return jsonify(readiness.model_dump()), 200 if ready else 503


def _state(check: Callable[[], object]) -> str:
    try:
        with suppress_instrumentation():
            check()
    except Exception as error:
        return f"unavailable: {type(error).__name__}"
    return "ok"
