"""A client for Jaeger's HTTP API (`/api/v3`), which is the same from Jaeger 2.13 on.

The API answers with OTLP in JSON, which telemetry.traces reads.
"""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode

import click
import requests

from . import web
from .traces import RAW_TRACES, Trace, traces_from_json

RAW_IN_SEARCH = {f"query.{name}": value for name, value in RAW_TRACES.items()}


class JaegerError(click.ClickException):
    """A request to Jaeger failed; the message says why and what to do, without the passwords of its address."""

    def __init__(self, message: str) -> None:
        super().__init__(web.without_passwords(message))


def whole(trace: Trace) -> bool:
    """Return whether a trace has exactly one root, all parents, and no warning from Jaeger."""
    return not trace.problems()


class Jaeger:
    """A client for one Jaeger. Every method that talks to it raises JaegerError if that fails."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        # A proxy from the environment could not reach our loopback address.
        self._session.trust_env = False
        # The variable that requests reads as well, for a Jaeger behind HTTPS.
        self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True

    def trace(self, trace_id: str) -> Trace | None:
        """Return the spans of one trace that have arrived; None while there are none."""
        return next(iter(self._traces(f"/api/v3/traces/{trace_id}", RAW_TRACES)), None)

    def find_traces(self, service: str, start: datetime, end: datetime, limit: int = 20) -> list[Trace]:
        """Return at most `limit` traces in which a service took part between two moments (with a time zone)."""
        return self._as_traces(self.find_otlp(service, start, end, limit))

    def find_otlp(self, service: str, start: datetime, end: datetime, limit: int) -> list[dict[str, Any]]:
        """Return the same traces as `find_traces`, as Jaeger sent them: the `resourceSpans` of OTLP in JSON."""
        earliest, latest = (moment.astimezone(UTC).isoformat() for moment in (start, end))
        # Jaeger 2.13 knows only the first spelling; newer ones prefer the second.
        query: dict[str, str | int] = {
            "query.service_name": service,
            "query.start_time_min": earliest,
            "query.start_time_max": latest,
            "query.num_traces": limit,
            "query.serviceName": service,
            "query.startTimeMin": earliest,
            "query.startTimeMax": latest,
            "query.searchDepth": limit,
            **RAW_IN_SEARCH,
        }
        return self._resource_spans("/api/v3/traces", query)

    def services(self) -> list[str]:
        """Return the sorted names of the services that Jaeger has spans of."""
        return sorted((self._json("/api/v3/services") or {}).get("services", []))

    def has_web_ui(self) -> bool:
        """Return whether this Jaeger shows traces in a browser: one built from Go modules serves a placeholder."""
        return "jaeger-ui-root" in self._get("/").text

    def wait_for_trace(
        self, trace_id: str, complete: Callable[[Trace], bool] = whole, timeout: float = 10.0
    ) -> Trace | None:
        """Ask until `complete` says yes, for at most `timeout` seconds.

        Returns the trace as it is then, which may be incomplete, or None if no span has arrived.
        """
        deadline = time.monotonic() + timeout
        while True:
            trace = self.trace(trace_id)
            if (trace and complete(trace)) or time.monotonic() >= deadline:
                return trace
            time.sleep(0.1)

    def link(self, trace_id: str) -> str:
        """Return the URL of a trace in the web UI."""
        return f"{self.url}/trace/{trace_id}"

    def search_link(self, service: str, operation: str, start: float, end: float) -> str:
        """Return the web UI's list of traces between two moments, in seconds since 1970, that have such a span."""
        query = {
            "service": service,
            "operation": operation,
            "start": round(start * 1e6),
            "end": round(end * 1e6),
            "limit": 100,
        }
        return f"{self.url}/search?{urlencode(query)}"

    def compare_link(self, trace_id: str, other_trace_id: str) -> str:
        """Return the URL of the comparison of two traces in the web UI."""
        return f"{self.url}/trace/{trace_id}...{other_trace_id}"

    def _traces(self, path: str, query: Mapping[str, str | int]) -> list[Trace]:
        return self._as_traces(self._resource_spans(path, query))

    def _resource_spans(self, path: str, query: Mapping[str, str | int]) -> list[dict[str, Any]]:
        answer = self._json(path, query) or {}
        try:
            return list(answer.get("result", {}).get("resourceSpans", []))
        except (AttributeError, TypeError) as error:
            raise self._without_traces(error) from error

    def _as_traces(self, resource_spans: list[dict[str, Any]]) -> list[Trace]:
        try:
            return traces_from_json(resource_spans)
        except ValueError as error:
            raise self._without_traces(error) from error

    def _without_traces(self, error: Exception) -> JaegerError:
        return JaegerError(f"The server at {self.url} is not Jaeger: its answer has no traces ({error!r}).")

    def _json(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any] | None:
        """Return the answer, or None for 404."""
        response = self._get(path, query)
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            status, text = response.status_code, response.text[:200]
            raise JaegerError(f"Jaeger at {self.url} answered {path} with HTTP {status}: {text}")
        try:
            return cast(dict[str, Any], response.json())
        except requests.JSONDecodeError as error:
            raise JaegerError(
                f"The server at {self.url} is not Jaeger 2.13 or newer. WAYBILL_JAEGER_PORT names its port."
            ) from error

    def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> requests.Response:
        try:
            return self._session.get(self.url + path, params=query, timeout=(2, 10))
        except requests.RequestException as error:
            raise JaegerError(f"Jaeger does not answer at {self.url}. Is it running? `make up` starts it.") from error
