"""HTTP calls out: kept-alive connections, the request's deadline on every call, and the trust boundary."""

import time
from collections.abc import Collection, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
import urllib3
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.stop import stop_base

import telemetry
from chassis import deadline
from chassis.problems import TYPE_PREFIX, Problem, ProblemDocument, Unavailable

CONNECTIONS = 16
"""Connections kept open to each host. A worker that needs more at a time opens them for a single call."""

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 0.1
CHUNK_BYTES = 64 * 1024
MAX_BYTES = 1024 * 1024
"""The maximum size of an answer."""
RETRYABLE_STATUSES = frozenset((429, 502, 503, 504))
"""Statuses of answers that mean "not now"."""

Answer = TypeVar("Answer", bound=BaseModel)


class TransientError(Exception):
    """The service answered that it is unavailable at the moment."""


class TooLarge(requests.RequestException):
    """The answer is longer than the limit."""


class Client:
    """A client for one other service. Trace context and deadline are only sent to our own services."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        internal: bool = True,
        attempt_seconds: float | None = None,
        max_bytes: int = MAX_BYTES,
        adapter_class: type["Adapter"] | None = None,
    ) -> None:
        """Set up the client. Errors call the service `name`; no attempt takes longer than `attempt_seconds`.

        Answers longer than `max_bytes` are refused. `adapter_class` replaces the transport.
        """
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.internal = internal
        self.attempt_seconds = attempt_seconds
        self.attempts_once, self.attempts = self._attempts(1), self._attempts(ATTEMPTS)
        self.session = requests.Session()
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # No proxies and no .netrc from the environment: looking for them costs more than the call.
        self.session.trust_env = False
        # Uncompressed, because a small compressed body may be huge once unpacked.
        self.session.headers["Accept-Encoding"] = "identity"
        trusted = [base_url] if internal else []
        adapter = (adapter_class or Adapter)(max_bytes, trusted=trusted, pool_maxsize=CONNECTIONS)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)

    def call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        pass_on: Collection[str] = (),
        idempotent: bool = True,
    ) -> requests.Response:
        """Send a request and return the response if it is a success.

        An idempotent call is retried, up to three attempts in all and within the deadline, with a
        wait between them that doubles and has jitter: after a broken connection and, for other services,
        since ours retry themselves, after a timeout or 429, 502, 503, 504.

        Raises Problem if the service answers with one of the kinds of problem to `pass_on`; Unavailable if
        it answers with another error, or not within the deadline.
        """
        try:
            for attempt in self.attempts if idempotent else self.attempts_once:
                with attempt:
                    telemetry.resend_count.set(attempt.retry_state.attempt_number - 1)
                    response = self._send(method, path, json, dict(headers or {}))
                    if not self.internal and response.status_code in RETRYABLE_STATUSES:
                        raise TransientError
        except (requests.RequestException, TransientError) as error:
            raise Unavailable(self.name) from error
        finally:
            telemetry.resend_count.set(0)
        if not 200 <= response.status_code < 300:
            problem = _problem(response)
            if problem and problem.kind in pass_on:
                raise problem
            # Our own service may know better which part is missing.
            part = problem.members.get("part") if problem and self.internal else None
            raise Unavailable(part or self.name)
        return response

    def _attempts(self, most: int) -> Retrying:
        return Retrying(
            reraise=True,
            stop=stop_after_attempt(most) | _NoTimeLeft(),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=1),
            retry=retry_if_exception(lambda error: self._is_retryable(error)),
        )

    def _is_retryable(self, error: BaseException) -> bool:
        # An internal service that timed out has used up the shared deadline.
        if isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout):
            return not self.internal
        return isinstance(error, (requests.ConnectionError, TransientError))

    def _send(self, method: str, path: str, json: object, headers: dict[str, Any]) -> requests.Response:
        left = deadline.remaining()
        if self.internal:
            headers[deadline.HEADER] = str(int(max(left - deadline.MARGIN, 0.001) * 1000))
            headers[deadline.SENT_HEADER] = deadline.now_sent()
        timeout = min(left, self.attempt_seconds or left)
        return self.session.request(
            method, self.base_url + path, json=json, headers=headers, timeout=timeout, allow_redirects=False
        )

    def ping(self) -> None:
        """Raise if the service does not report that it is alive."""
        self.session.get(f"{self.base_url}/healthz", timeout=1).raise_for_status()

    def read(self, response: requests.Response, shape: type[Answer]) -> Answer:
        """Return the body of a response as a model. Raises Unavailable if it has another shape."""
        try:
            return shape.model_validate_json(response.content)
        except ValidationError as error:
            raise Unavailable(self.name) from error


def _problem(response: requests.Response) -> Problem | None:
    """Return the problem document in an answer, or None if the answer is something else."""
    if response.headers.get("Content-Type") != "application/problem+json":
        return None
    try:
        body = ProblemDocument.model_validate_json(response.content)
    except ValidationError:
        return None
    members = body.model_dump(exclude={"type", "title", "status", "kind", "trace_id"}, exclude_none=True)
    return Problem(response.status_code, body.type.removeprefix(TYPE_PREFIX), **members)


class Adapter(telemetry.StrictAdapter):
    """The transport of a client, which limits each answer."""

    def __init__(self, max_bytes: int, **options: Any) -> None:
        self.max_bytes = max_bytes
        super().__init__(**options)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request and read its answer; start no read after the timeout, since requests gives each a new one."""
        ends = time.monotonic() + options["timeout"]
        response = super().send(request, *args, **options)
        try:
            # `response.content` reads this; there is no public way to set it.
            response._content = self._read(response, ends)
        except urllib3.exceptions.HTTPError as error:
            slow = isinstance(error, urllib3.exceptions.ReadTimeoutError)
            raise (requests.ReadTimeout if slow else requests.ConnectionError)(error, request=request) from error
        finally:
            # The connection is kept if everything was read, and closed if not.
            response.close()
        return response

    def _read(self, response: requests.Response, ends: float) -> bytes:
        body = bytearray()
        while (left := ends - time.monotonic()) > 0:
            # urllib3 sets it for each request. It is None if everything was read, or if the server closes.
            if sock := getattr(response.raw.connection, "sock", None):
                sock.settimeout(left)
            chunk = response.raw.read1(CHUNK_BYTES)
            if not chunk:
                return bytes(body)
            body += chunk
            if len(body) > self.max_bytes:
                raise TooLarge(request=response.request)
        raise requests.ReadTimeout(request=response.request)


class _NoTimeLeft(stop_base):
    """Stop if the wait for the next attempt would outlast the deadline."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        try:
            return deadline.remaining() <= retry_state.upcoming_sleep
        except deadline.DeadlineExceeded:
            return True
