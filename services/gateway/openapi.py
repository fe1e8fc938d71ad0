"""The description of the public API: https://spec.openapis.org/oas/v3.1.1

Paths and methods come from the app's routes, texts from the docstrings of their functions, and shapes from the
models that these functions read and return. OPERATIONS has the rest.
"""

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, jsonify
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from chassis import problems
from chassis.app import VERSION, Health, Readiness
from chassis.problems import TYPE_PREFIX, Omittable
from exhibition.scenarios import DRILL, SCENARIO, SYNTHETIC
from services.gateway.api import (
    IDEMPOTENCY_KEY,
    Index,
    OrderRequest,
    PaidOrder,
    PlacedOrder,
    Scenarios,
    refuse_unknown_scenario,
)
from services.gateway.clients import Products
from services.gateway.examples import ANSWERS, PROBLEMS
from telemetry.traces import TRACE_ID

Json = dict[str, Any]
Model = type[BaseModel]

DESCRIPTION = """\
A shop that traces every order.

Amounts of money are integers in minor units, with an ISO 4217 currency. Errors are problem documents, RFC 9457.
The header `traceresponse`, from an editors' draft of the W3C, names the trace of a request, and `trace_id` the one of
an error. A `traceparent` that is sent here has no effect.

Another path is answered with 404, and another method with 405, as described in `#/components/responses`; but `HEAD` is
answered if `GET` is, and `OPTIONS` on each path. Every request can get four more answers, with a problem document: 414
and 431, without a trace, if the address or a header is longer than 8 KiB; 421, if the name in `Host` is not one of this
service; and 500, if the mistake is ours."""

REFUSALS = {
    400: "The body is not JSON, a header is not sound, or there is no such scenario (`unknown-scenario`).",
    402: "The payment was declined (`payment-declined`). Nothing was charged.",
    403: "The request came from a page of another origin.",
    404: "There is nothing here, or no order that has this id (`order-not-found`).",
    405: "The path has other methods.",
    408: "The body stopped coming; the service waits until the request's deadline, 5 seconds if not set otherwise.",
    409: "There is not enough of a product (`out-of-stock`), or the order under this Idempotency-Key is being "
    "processed right now (`idempotency-key-in-flight`): ask again after `Retry-After`.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not declared as `application/json`.",
    422: "The order is not as described, names a product twice or one that there is not (`invalid-request`); or its "
    "Idempotency-Key came before with another order (`idempotency-key-reused`).",
    503: "There is too much to do, and nothing was begun (`busy`); or a part does not answer (`unavailable`). An order "
    "that was accepted is kept, and processed later or when its "
    "Idempotency-Key is sent again (`order-pending`).",
}
"""Answers with a problem document; in brackets its type, without `urn:waybill:problem:`."""
REFUSAL_HEADERS = {
    405: {"Allow": "Allow"},
    409: {"Retry-After": "Retry-After-in-flight"},
    503: {"Retry-After": "Retry-After"},
}
"""The key of HEADERS, by name."""

HEADERS: Json = {
    "traceresponse": {
        "description": "The trace of this request: https://w3c.github.io/trace-context/#traceresponse-header, a draft.",
        "required": True,
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
    },
    "Allow": {
        "description": "The methods of the path.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "required": True,
        "schema": {"type": "integer"},
    },
}
HEADERS["Retry-After-in-flight"] = HEADERS["Retry-After"] | {"required": False}

PARAMETERS: Json = {
    "order_id": {
        "in": "path",
        "name": "order_id",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "trace_id": {
        "in": "path",
        "name": "trace_id",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{TRACE_ID.pattern}$"},
    },
    "Idempotency-Key": {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "The same key with the same order places it once, however often it is sent. Without a key each "
        "request is another order: after a 503, or no answer, the first one may exist and be charged, and a repeat "
        "makes a second one.",
        "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY.pattern},
        "example": "b0c6b1f4-5d3e-4b8f-9f57-0f6d9a1d2c3b",
    },
    "baggage": {
        "in": "header",
        "name": "baggage",
        "description": f"`{SCENARIO}=<name>` asks for a fault, one of `GET /scenarios`. "
        f"`{DRILL}=<name>` asks for it too, and no span tells it. `{SYNTHETIC}=true` marks what no customer asked "
        "for. All else in it is ignored.",
        "schema": {"type": "string"},
        "example": f"{SCENARIO}=n-plus-one",
    },
}

LINKS: Json = {"get_order": {"operationId": "get_order", "parameters": {"order_id": "$response.body#/id"}}}

PAGE: Json = {"text/html": {"schema": {"type": "string"}}}
DOCUMENT: Json = {"application/json": {"schema": {"type": "object"}}}


class ProblemDocument(problems.ProblemDocument):
    """An error, RFC 9457. A member that does not apply is left out."""

    order_id: str | Omittable = Field(None, description="The order in question.")
    sku: str | Omittable = Field(None, description="The product that is sold out, or of which there are too few.")


@dataclass(frozen=True)
class Operation:
    """The facts about an operation that its route and its function do not have."""

    answers: Mapping[int, Model | Json]
    """The model of the JSON that is sent, or another content, by status."""
    refusals: Sequence[int] = ()
    """Keys of REFUSALS."""
    body: Model | None = None
    headers: Sequence[str] = ()
    """Names of PARAMETERS."""
    links: Sequence[str] = ()
    """Names of LINKS; they apply to each of the answers."""
    traced: bool = True
    tag: str = "shop"
    """The name of one of TAGS."""


TAGS = {
    "shop": "Products and orders.",
    "faults": "Faults that a caller can ask for, in one request.",
    "pages": "For a browser.",
    "operation": "The paths of the API, and the health of the service.",
}

OPERATIONS = {
    "index": Operation({200: Index}, tag="operation"),
    "viewer.shop": Operation({200: PAGE, 503: PAGE}, tag="pages"),
    "gateway.list_products": Operation({200: Products}, [400, 503], headers=["baggage"]),
    "gateway.post_order": Operation(
        {200: PlacedOrder, 201: PlacedOrder},
        [400, 402, 403, 408, 409, 413, 415, 422, 503],
        body=OrderRequest,
        headers=["Idempotency-Key", "baggage"],
        links=["get_order"],
    ),
    "gateway.get_order": Operation({200: PaidOrder}, [400, 404, 503], headers=["baggage"]),
    "gateway.list_scenarios": Operation({200: Scenarios}, [400], tag="faults"),
    "openapi.describe_api": Operation({200: DOCUMENT}, [400], tag="operation"),
    "viewer.view_trace": Operation({200: PAGE, 503: PAGE}, [404], traced=False, tag="pages"),
    "healthz": Operation({200: Health}, traced=False, tag="operation"),
    "readyz": Operation({200: Readiness, 503: Readiness}, traced=False, tag="operation"),
    "startedz": Operation({200: Readiness, 503: Readiness}, traced=False, tag="operation"),
}
"""The operations by endpoint; an app may lack some of them."""


def mount(app: Flask) -> None:
    """Serve the description of the app's current routes, and of itself, at `/openapi.json`."""
    blueprint = Blueprint("openapi", __name__)
    blueprint.before_request(refuse_unknown_scenario)
    description: Json = {}

    @blueprint.get("/openapi.json")
    def describe_api() -> ResponseReturnValue:
        """Describe this API, in OpenAPI 3.1."""
        return jsonify(description)

    app.register_blueprint(blueprint)
    description |= describe(app)


def describe(app: Flask) -> Json:
    """Return the OpenAPI document of the operations that the app has routes to."""
    operations = {endpoint: each for endpoint, each in OPERATIONS.items() if endpoint in app.view_functions}
    paths: Json = {}
    for endpoint, operation in operations.items():
        for rule in app.url_map.iter_rules(endpoint):
            path = paths.setdefault(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                parameters = [*sorted(rule.arguments), *operation.headers]
                path[method.lower()] = _operation(operation, app.view_functions[endpoint], parameters)
    return {
        "openapi": "3.1.1",
        "info": {"title": "Waybill", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/", "description": "The gateway that sent this description."}],
        "security": [],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations.values()),
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "links": LINKS,
        },
    }


def _operation(operation: Operation, function: Callable[..., object], parameters: Sequence[str]) -> Json:
    text = inspect.getdoc(function) or ""
    answers = {
        str(status): _answer(status, content, operation.traced) | _refs("links", operation.links)
        for status, content in operation.answers.items()
    }
    # The shared responses name the trace.
    refusals = {
        str(status): _ref("responses", str(status)) if operation.traced else _refusal(status, traced=False)
        for status in operation.refusals
    }
    return {
        "operationId": function.__name__,
        "tags": [operation.tag],
        "summary": text.partition("\n")[0].rstrip("."),
        **({"description": text} if "\n" in text else {}),
        **({"parameters": [_ref("parameters", name) for name in parameters]} if parameters else {}),
        **({"requestBody": {"required": True, "content": _json(operation.body)}} if operation.body else {}),
        "responses": answers | refusals,
    }


def _answer(status: int, content: Model | Json, traced: bool) -> Json:
    return {
        "description": HTTPStatus(status).phrase,
        **_refs("headers", ["traceresponse"] if traced else []),
        "content": content if isinstance(content, dict) else _json(content, status),
    }


def _refusal(status: int, *, traced: bool = True) -> Json:
    headers = ({"traceresponse": "traceresponse"} if traced else {}) | REFUSAL_HEADERS.get(status, {})
    content = {"schema": _ref("schemas", ProblemDocument.__name__), "examples": _problems(status)}
    return {
        "description": REFUSALS[status],
        "headers": {name: _ref("headers", key) for name, key in headers.items()},
        "content": {"application/problem+json": content},
    }


def _problems(status: int) -> Json:
    """Return the examples of a refusal, by their kind."""
    found = [problem for problem in PROBLEMS if problem["status"] == status]
    return {problem["type"].removeprefix(TYPE_PREFIX).replace(":", "-"): {"value": problem} for problem in found}


def _json(model: Model, status: int | None = None) -> Json:
    example = ANSWERS.get((model, status))
    schema = {"schema": _ref("schemas", model.__name__)}
    return {"application/json": schema | ({"example": example} if example else {})}


def _refs(kind: str, names: Sequence[str]) -> Json:
    return {kind: {name: _ref(kind, name) for name in names}} if names else {}


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


class _Schemas(GenerateJsonSchema):
    """Plain schemas: without a title for each field, and with optional members where pydantic has None."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _schemas(operations: Collection[Operation]) -> Json:
    bodies = [operation.body for operation in operations if operation.body]
    contents = [content for operation in operations for content in operation.answers.values()]
    answers = [content for content in contents if not isinstance(content, dict)]
    inputs: list[tuple[Model, JsonSchemaMode]] = [(model, "validation") for model in bodies]
    inputs += [(model, "serialization") for model in answers]
    inputs += [(ProblemDocument, "serialization")]
    template = "#/components/schemas/{model}"
    _, schemas = models_json_schema(inputs, ref_template=template, schema_generator=_Schemas)
    shapes: Json = schemas["$defs"]
    return shapes
