"""Read traces from Jaeger, with limits."""

import json
import threading
from contextlib import suppress

import requests
from opentelemetry.instrumentation.utils import suppress_instrumentation

from chassis.client import Client, TooLarge
from exhibition.viewer.waterfall import Waterfall
from telemetry.traces import RAW_TRACES, traces_from_json

SECONDS = 2.0
MAX_BYTES = 8 * 1024 * 1024
READERS = 2
"""The number of threads that may read at once, since a thread that waits for Jaeger cannot take an order."""


class Unreadable(Exception):
    """Jaeger's answer cannot be shown; the message says why."""


class Traces:
    """Reads traces from one Jaeger. This is not traced, since looking at traces would make more of them."""

    def __init__(self, url: str, public_url: str) -> None:
        """Set up the reader. `public_url` is the address for a browser of what we find at `url`."""
        self._client = Client("Jaeger", url, internal=False, max_bytes=MAX_BYTES)
        self._public_url = public_url.rstrip("/")
        self._has_web_ui: bool | None = None
        self._readers = threading.BoundedSemaphore(READERS)

    def find(self, trace_id: str) -> Waterfall | None:
        """Return the spans of a trace that have arrived, None while there are none. Raises Unreadable."""
        status, body = self._get(f"/api/v3/traces/{trace_id}")
        if status == 404:
            return None
        if status != 200:
            raise Unreadable(f"Jaeger answered with HTTP status {status}.")
        try:
            found = traces_from_json(json.loads(body)["result"].get("resourceSpans", []))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise Unreadable("The server at Jaeger's address is not Jaeger 2.13 or newer.") from error
        return Waterfall(found[0]) if found else None

    def link(self, trace_id: str) -> str | None:
        """Return the URL of a trace in Jaeger's web UI; None if there is no web UI, or Jaeger does not answer."""
        if self._has_web_ui is None:
            with suppress(Unreadable):
                status, body = self._get("/")
                if status == 200:
                    self._has_web_ui = b"jaeger-ui-root" in body
        return f"{self._public_url}/trace/{trace_id}" if self._has_web_ui else None

    def _get(self, path: str) -> tuple[int, bytes]:
        """Return status and body, unless too many already wait for Jaeger. Raises Unreadable."""
        if not self._readers.acquire(blocking=False):
            raise Unreadable("Too many are looking at traces.")
        try:
            return self._read(path)
        finally:
            self._readers.release()

    def _read(self, path: str) -> tuple[int, bytes]:
        url = self._client.base_url + path
        try:
            with suppress_instrumentation():
                response = self._client.session.get(url, params=RAW_TRACES, timeout=SECONDS, allow_redirects=False)
        except TooLarge as error:
            raise Unreadable(f"The trace is larger than {MAX_BYTES // 1024 // 1024} MiB.") from error
        except requests.ReadTimeout as error:
            raise Unreadable("Jaeger does not answer in time.") from error
        except requests.RequestException as error:
            raise Unreadable("Jaeger does not answer. Is it running?") from error
        return response.status_code, response.content
