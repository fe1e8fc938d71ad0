"""Rules that a schema cannot express. schemathesis imports this file by its name, and calls its hooks and checks."""

import uuid
from typing import Any

import schemathesis

SOLD = ("TEA-ASSAM", "TEA-DARJEELING", "TEA-EARL-GREY", "TEA-GENMAICHA", "TEA-LAPSANG")

used_keys: set[str] = set()


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _options: dict[str, Any]) -> None:
    """Make a valid order name existing products, each once, with a new key."""
    if case.operation.label != "POST /orders" or case.meta is None:
        return
    if case.meta.generation.mode.is_positive:
        items = zip(SOLD, case.body["items"], strict=False)
        case.body = case.body | {"items": [item | {"sku": sku} for sku, item in items]}
        if case.headers.get("Idempotency-Key") in used_keys:
            case.headers["Idempotency-Key"] = str(uuid.uuid4())
    used_keys.add(case.headers.get("Idempotency-Key"))


@schemathesis.check
def a_problem_is_that_of_its_response(
    _context: schemathesis.CheckContext, response: schemathesis.Response, _case: schemathesis.Case
) -> None:
    """Check that a problem document has the status and the trace that the response has."""
    if response.headers.get("content-type") == ["application/problem+json"]:
        problem = response.json()
        assert problem["status"] == response.status_code
        if trace := response.headers.get("traceresponse"):
            assert problem["trace_id"] == trace[0].split("-")[1]
