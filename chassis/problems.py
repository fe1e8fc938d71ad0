"""Errors as problem documents, RFC 9457: `application/problem+json`, with the trace to look at."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from flask import Flask, Response, request
from opentelemetry import trace
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import SkipJsonSchema
from werkzeug.exceptions import HTTPException

from chassis import deadline

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:waybill:problem:"
RETRY_AFTER_SECONDS = 2
IN_FLIGHT = "idempotency-key-in-flight"
"""The only kind of problem, besides 503, that is temporary."""
BUSY = "busy"
"""The kind of problem of a request that was not started."""
MAX_ERRORS = 10
_DEPENDENCIES: dict[str, Callable[[Exception], bool]] = {}
"""The dependencies of this process, each with the errors that show that it is unavailable."""
CUT_OFF = "the body is cut off, or its chunks are broken"

Body = TypeVar("Body", bound=BaseModel)
TraceId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Omittable = SkipJsonSchema[None]
"""The value of an omitted member."""


class Fault(BaseModel):
    """A mistake in one field of a body."""

    pointer: str = Field(description="The place in the body: a JSON pointer as a URI fragment, RFC 6901, section 6.")
    detail: str


class ProblemDocument(BaseModel):
    """An error, RFC 9457. A member that does not apply is left out; a service may have members of its own."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="The kind of problem; `about:blank` if the status says enough.")
    title: str
    status: int
    detail: str | Omittable = Field(None, description="An explanation for people: the problem, and how to solve it.")
    errors: list[Fault] | Omittable = Field(None, description="The first ten wrong fields of the body.")
    part: str | Omittable = Field(None, description="The service that does not answer.")
    trace_id: TraceId | Omittable = Field(None, description="The trace to look at, if there is one.")


class Problem(Exception):
    """A refusal that the caller gets as a problem document."""

    def __init__(self, status: int, kind: str | None = None, detail: str | None = None, **members: Any) -> None:
        """Set up the problem. `kind` is the last part of its type, or None if the status says enough."""
        super().__init__(detail or kind or str(status))
        self.status = status
        self.kind = kind
        self.detail = detail
        self.members = members


class Unavailable(Exception):
    """A part that this service needs does not answer, or its answer makes no sense."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part


def read_body(model: type[Body]) -> Body:
    """Return the request's JSON body as a model, with strict types.

    Raises Problem: 408 if it does not arrive before the request's deadline, 413 over the app's
    MAX_CONTENT_LENGTH, 415 if it is not declared as JSON, 400 if it is not JSON, 422 with a JSON pointer
    (RFC 6901) to each wrong field.
    """
    if request.mimetype != "application/json":
        raise Problem(415, detail="send the body as application/json")
    try:
        return model.model_validate_json(_read(), strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        raise Problem(400, detail="the body is not valid JSON in UTF-8")
    raise invalid([(_path(fault["loc"]), fault["msg"]) for fault in faults])


def invalid(faults: list[tuple[tuple[int | str, ...], str]]) -> Problem:
    """Return a 422 problem that names each wrong field: its path in the body, and what is wrong with it."""
    errors = [{"pointer": _pointer(path), "detail": text} for path, text in faults[:MAX_ERRORS]]
    first = errors[0]
    return Problem(422, "invalid-request", f"{first['pointer']}: {first['detail']}", errors=errors)


def install(app: Flask) -> None:
    """Make every error of the app a problem document, and none of them a stack trace."""
    app.register_error_handler(Problem, _from_problem)
    app.register_error_handler(HTTPException, _from_http_exception)
    app.register_error_handler(Exception, _from_exception)


def document(status: int, kind: str | None = None, detail: str | None = None, **members: Any) -> Response:
    """Return a problem document as a response, with `Retry-After` if the problem is temporary."""
    context = trace.get_current_span().get_span_context()
    body = ProblemDocument(
        type=f"{TYPE_PREFIX}{kind}" if kind else "about:blank",
        title=kind.replace("-", " ").capitalize() if kind else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else None,
        **members,
    )
    response = Response(body.model_dump_json(exclude_none=True), status, content_type="application/problem+json")
    if status == HTTPStatus.SERVICE_UNAVAILABLE or kind == IN_FLIGHT:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def add_dependency(name: str, is_absent: Callable[[Exception], bool]) -> None:
    """Answer 503 to errors for which `is_absent` returns true: this dependency does not answer."""
    _DEPENDENCIES[name] = is_absent


def failed_dependency(error: Exception) -> str | None:
    """Return the dependency that failed, or None if the error is our bug."""
    if isinstance(error, Unavailable):
        return error.part
    if isinstance(error, deadline.DeadlineExceeded):
        return "a part that this request needs"
    return next((name for name, is_absent in _DEPENDENCIES.items() if is_absent(error)), None)


def _from_problem(problem: Problem) -> Response:
    return document(problem.status, problem.kind, problem.detail, **problem.members)


def _from_http_exception(error: HTTPException) -> Response:
    response = document(error.code or 500, detail=error.description if error.code in (404, 405, 413) else None)
    # Keep them: a 405 must have Allow, for example.
    for name, value in error.get_headers(request.environ):
        if name != "Content-Type":
            response.headers[name] = value
    return response


def _from_exception(error: Exception) -> Response:
    span = trace.get_current_span()
    span.record_exception(error)
    part = failed_dependency(error)
    if part is None:
        log.error("unexpected error", exc_info=error)
        return document(500, detail="an error of ours; the trace shows where")
    log.warning("no answer from %s", part)
    return document(503, "unavailable", f"{part} does not answer; {_what_to_do()}", part=part)


def _what_to_do() -> str:
    if request.method == "POST" and "Idempotency-Key" not in request.headers:
        return (
            "it may have been carried out all the same; sent again without an Idempotency-Key, it is carried out again"
        )
    return "nothing is lost, try again"


def _read() -> bytes:
    try:
        body = request.get_data()
        # If chunks are too long in total, the first 64 KiB are read without an error; only the next read raises.
        if request.content_length is None:
            request.stream.read(1)
    except deadline.DeadlineExceeded as error:
        raise Problem(408, detail="the body did not come in time") from error
    except HTTPException:
        raise
    except Exception as error:
        # The server has its own exceptions for chunks that are broken.
        raise Problem(400, detail=CUT_OFF) from error
    # If the connection ends, the body ends without an error, and the part before it may be complete JSON.
    if request.content_length is not None and len(body) < request.content_length:
        raise Problem(400, detail=CUT_OFF)
    return body


def _path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the path of an error. pydantic adds "[key]" to the name of a member."""
    return location[:-1] if location[-1:] == ("[key]",) else location


def _pointer(path: tuple[int | str, ...]) -> str:
    """Return a JSON pointer as a URI fragment, RFC 6901, section 6."""
    return "#" + "".join("/" + quote(str(part).replace("~", "~0").replace("/", "~1")) for part in path)
