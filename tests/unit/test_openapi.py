"""Compare the description of the API with the app's routes, its models and the documents."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Flask

from chassis.problems import BUSY, IN_FLIGHT
from services.gateway import api, openapi
from services.gateway.clients import ORDER_PENDING, Inventory, Orders, Payments
from tests.documents import ROOT, blocks

GATEWAY = ROOT / "services/gateway"
NOWHERE = "http://127.0.0.1:9"
MAKE = """
import json, sys
from services.gateway import create_app
app = create_app()
description = app.test_client().get("/openapi.json").json
print(json.dumps([description, [[rule.rule, *rule.methods] for rule in app.url_map.iter_rules()], list(sys.modules)]))
"""
ASSETS = "/assets/<path:filename>"
"""Files of the pages, which are not part of the API."""
IMPLIED = {"HEAD", "OPTIONS"}

Json = dict[str, Any]


@pytest.fixture(scope="module", params=[{}, {"JAEGER_URL": NOWHERE}], ids=["with an index", "with pages"])
def made(request: pytest.FixtureRequest) -> tuple[Json, list[list[str]], list[str]]:
    """The description and the routes of an app, and the modules that its process has loaded."""
    urls = dict.fromkeys(("ORDER_URL", "INVENTORY_URL", "PAYMENT_URL"), NOWHERE)
    # In a new process, since a process sets up its telemetry once.
    environment = os.environ | urls | request.param | {"OTEL_SDK_DISABLED": "true", "WAYBILL_SCENARIOS": "on"}
    run = subprocess.run(
        [sys.executable, "-c", MAKE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    description, routes, modules = json.loads(run.stdout.splitlines()[-1])
    return description, routes, modules


@pytest.fixture
def description(made: tuple[Json, list[list[str]], list[str]]) -> Json:
    return made[0]


def test_the_gateway_loads_no_client_of_a_database_or_a_cache(made: tuple[Json, list[list[str]], list[str]]) -> None:
    _, _, modules = made
    assert {"requests", "exhibition.faults.calls"} <= {*modules}
    assert not {"psycopg", "redis", "sqlalchemy"} & {*modules}


def test_what_is_described_is_what_there_is(made: tuple[Json, list[list[str]], list[str]]) -> None:
    description, routes, _ = made
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), method)
        for path, *methods in routes
        for method in set(methods) - IMPLIED
        if path != ASSETS
    }
    assert served == {(path, method.upper()) for path, item in description["paths"].items() for method in item}


def test_it_is_openapi_3_1(description: Json) -> None:
    assert description["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(description).validate()
    for schema in description["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_every_reference_leads_somewhere(description: Json) -> None:
    for reference in set(references(description)):
        found = description
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_operation_says_what_it_is_for(description: Json) -> None:
    ids = [operation["operationId"] for item in description["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert all(operation["summary"] for item in description["paths"].values() for operation in item.values())


def test_the_kinds_of_problems_that_are_described_are_those_that_there_are() -> None:
    described = {kind for text in openapi.REFUSALS.values() for kind in re.findall(r"`([a-z]+(?:-[a-z]+)*)`", text)}
    code = "\n".join(path.read_text() for path in [*(ROOT / "chassis").glob("*.py"), *GATEWAY.glob("*.py")])
    for name, kind in {"BUSY": BUSY, "IN_FLIGHT": IN_FLIGHT, "ORDER_PENDING": ORDER_PENDING}.items():
        code = re.sub(rf"\b{name}\b", f'"{kind}"', code)
    raised = re.findall(r'(?:Problem|document)\(\s*\d+, "([a-z-]+)"', code)
    passed_on = [
        kind for kinds in re.findall(r"pass_on=[\[(](.*?)[\])]", code) for kind in re.findall(r'"(.*?)"', kinds)
    ]
    # A lookup of a payment does not use it.
    assert described == {*raised, *passed_on} - {"payment-not-found"}


def test_each_kind_of_problem_has_an_example(description: Json) -> None:
    responses = description["components"]["responses"]
    problem = validator(description, "ProblemDocument")
    for status, response in responses.items():
        examples = response["content"]["application/problem+json"]["examples"]
        kinds = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", response["description"]))
        assert {name for name in examples if name != "about-blank"} == kinds
        assert examples
        for example in examples.values():
            assert problem.is_valid(example["value"])
            assert example["value"]["status"] == int(status)


def test_an_answer_has_an_example_of_its_own_shape(description: Json) -> None:
    contents = [
        response["content"]["application/json"]
        for item in description["paths"].values()
        for operation in item.values()
        for response in operation["responses"].values()
        if "application/json" in response.get("content", {})
    ]
    models = [content for content in contents if "$ref" in content["schema"]]
    assert models
    for content in models:
        name = content["schema"]["$ref"].rpartition("/")[2]
        assert list(validator(description, name).iter_errors(content["example"])) == [], name


def test_its_own_example_is_an_order(description: Json) -> None:
    examples = description["components"]["schemas"]["OrderRequest"]["examples"]
    assert examples
    assert all(orders(description).is_valid(example) for example in examples)


def test_every_operation_has_a_tag_that_is_described_and_needs_no_key(description: Json) -> None:
    tags = {tag["name"] for tag in description["tags"]}
    used = {tag for item in description["paths"].values() for operation in item.values() for tag in operation["tags"]}
    assert used
    assert used <= tags
    assert description["security"] == []
    assert description["servers"]


@pytest.mark.parametrize("document", ["README.md", "docs/scenarios.md"])
def test_what_a_document_sends_is_an_order(description: Json, document: str) -> None:
    commands = [line for block in blocks(ROOT / document, "sh") for line in block.splitlines() if "curl" in line]
    sent = [json.loads(words[words.index("-d") + 1]) for words in map(shlex.split, commands) if "-d" in words]
    assert sent
    assert all(orders(description).is_valid(body) for body in sent)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": [], "payment_token": "tok_visa"},
        {"items": [{"sku": "tea", "quantity": 1}], "payment_token": "tok_visa"},
        {"items": [{"sku": "TEA-ASSAM", "quantity": 1001}], "payment_token": "tok_visa"},
        {"items": [{"sku": "TEA-ASSAM", "quantity": 1}], "payment_token": "tok_visa", "coupon": 1},
    ],
)
def test_what_the_api_refuses_is_no_order(description: Json, body: Json) -> None:
    assert not orders(description).is_valid(body)


def test_a_changed_model_changes_the_description(monkeypatch: pytest.MonkeyPatch) -> None:
    class OrderRequest(api.OrderRequest):
        coupon: str

    class PlacedOrder(api.PlacedOrder):
        discount: int

    name = "gateway.post_order"
    changed = replace(openapi.OPERATIONS[name], body=OrderRequest, answers={201: PlacedOrder})
    monkeypatch.setitem(openapi.OPERATIONS, name, changed)
    app = Flask("gateway", static_folder=None)
    app.register_blueprint(api.create_blueprint(Orders(NOWHERE), Inventory(NOWHERE), Payments(NOWHERE)))
    schemas = openapi.describe(app)["components"]["schemas"]
    assert "coupon" in schemas["OrderRequest"]["required"]
    assert schemas["PlacedOrder"]["properties"]["discount"] == {"type": "integer"}


def orders(description: Json) -> jsonschema_rs.Validator:
    """Return a validator of orders, made from the description."""
    return validator(description, "OrderRequest")


def validator(description: Json, name: str) -> jsonschema_rs.Validator:
    """Return a validator of a schema of the description."""
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}"} | description)


def references(node: object) -> Iterator[str]:
    """Yield every $ref below a node."""
    if isinstance(node, Mapping):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)
