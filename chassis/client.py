"""HTTP calls out: kept-alive connections, the request's deadline on every call, and the trust boundary."""

from collections.abc import Collection, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar

import requests
from pydantic import BaseModel, ValidationError

import telemetry
from chassis import deadline
from chassis.problems import TYPE_PREFIX, Problem, Unavailable

CONNECTIONS = 16
"""Kept open to each host; a worker has 8 threads."""

Answer = TypeVar("Answer", bound=BaseModel)


class Client:
    """The way to one other service. Trace context and deadline go with the call only where it is ours."""

    def __init__(self, name: str, base_url: str, *, ours: bool = True) -> None:
        """`name` is what errors call the service."""
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.ours = ours
        self.session = requests.Session()
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # No proxies and no .netrc from the environment: looking for them costs more than the call.
        self.session.trust_env = False
        adapter = telemetry.StrictAdapter([base_url] if ours else [], pool_maxsize=CONNECTIONS)
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
    ) -> requests.Response:
        """Send a request and return the response, which is a success.

        Raises Problem where the service answers with one of the kinds of problem to `pass_on`; Unavailable where
        it answers with another error, or not within the deadline.
        """
        response = self._send(method, path, json, dict(headers or {}))
        if not response.ok:
            raise _problem(response, pass_on) or Unavailable(self.name)
        return response

    def read(self, response: requests.Response, shape: type[Answer]) -> Answer:
        """The body of a response as a model. Raises Unavailable where it has another shape."""
        try:
            return shape.model_validate_json(response.content)
        except ValidationError as error:
            raise Unavailable(self.name) from error

    def _send(self, method: str, path: str, json: object, headers: dict[str, Any]) -> requests.Response:
        left = deadline.remaining()
        if self.ours:
            headers[deadline.HEADER] = str(int(max(left - deadline.MARGIN, 0.001) * 1000))
        try:
            return self.session.request(
                method, self.base_url + path, json=json, headers=headers, timeout=left, allow_redirects=False
            )
        except requests.RequestException as error:
            raise Unavailable(self.name) from error

    def ping(self) -> None:
        """Raise where the service does not answer that it lives."""
        self.session.get(f"{self.base_url}/healthz", timeout=1).raise_for_status()


def _problem(response: requests.Response, kinds: Collection[str]) -> Problem | None:
    """The problem document that a service answered with, where it is of one of these kinds."""
    if response.headers.get("Content-Type") != "application/problem+json":
        return None
    body = response.json()
    kind = str(body.get("type")).removeprefix(TYPE_PREFIX)
    return Problem(response.status_code, kind, body.get("detail")) if kind in kinds else None
