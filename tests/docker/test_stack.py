"""`docker compose up`, for real: orders and their traces, and the promises about the stack."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.fulfilment.dead_letters import ALL
from tests.docker.stack import Stack, docker, wait_until
from tests.documents import ROOT, blocks
from waybill.registry import OWNERS, SERVICES, SHIPPED, Service
from waybill.registry import PARTS as PARTS_OF_THE_TOOL

# The first test waits for images to be fetched and built.
pytestmark = pytest.mark.timeout(1800)

PARTS = {"edge", "otel-collector", *PARTS_OF_THE_TOOL} - {"collector", "prometheus"}
PUBLISHED = {
    ("edge", "8000/tcp"),
    ("jaeger", "16686/tcp"),
    ("jaeger", "8890/tcp"),
    ("otel-collector", "8888/tcp"),
    ("otel-collector", "8889/tcp"),
}
FEWEST_SPANS, MOST_SPANS = 23, 25
"""The spans of a completed order; there are two more if the cache does not have the price."""


def test_a_completed_order_is_one_whole_trace_of_six_services_without_a_warning(stack: Stack) -> None:
    answer = stack.place_order()
    assert answer.status_code == 201
    trace_id = answer.json()["trace_id"]
    trace = stack.find_trace(trace_id, SHIPPED, FEWEST_SPANS)
    assert trace.services == SHIPPED
    assert len(trace.spans) <= MOST_SPANS
    # The same request as the web UI's, with which Jaeger adds warnings, above all about clocks.
    as_shown = stack.get("jaeger", f"/api/v3/traces/{trace_id}")
    assert as_shown.status_code == 200
    assert "@jaeger@warnings" not in as_shown.text
    page = stack.get("gateway", f"/traces/{trace_id}")
    assert page.status_code == 200
    assert trace_id in page.text


def test_the_shop_page_and_what_it_loads_are_served(stack: Stack) -> None:
    page = stack.get("gateway", "/")
    assert page.status_code == 200
    assets = re.findall(r'"(/assets/[^"]+)"', page.text)
    assert assets
    for asset in assets:
        assert stack.get("gateway", asset).status_code == 200, asset


def test_an_outdated_image_is_rebuilt(stack: Stack) -> None:
    built = docker("image", "inspect", "--format", "{{.Id}}", "waybill:local")
    docker("tag", stack.containers()["valkey"]["Image"], "waybill:local")
    stack.up()
    assert docker("image", "inspect", "--format", "{{.Id}}", "waybill:local") == built
    assert stack.containers()["gateway"]["Image"] == built.strip()


@pytest.mark.parametrize(
    ("sku", "payment_token", "status", "services"),
    [
        ("TEA-EARL-GREY", "tok_declined", 402, {"gateway", "order", "inventory", "payment"}),
        ("TEA-SOLD-OUT", "tok_visa", 409, {"gateway", "order", "inventory"}),
    ],
)
def test_a_refused_order_is_a_whole_trace_of_the_services_that_it_reached(
    stack: Stack, sku: str, payment_token: str, status: int, services: set[str]
) -> None:
    answer = stack.place_order(sku, payment_token)
    assert answer.status_code == status
    assert stack.find_trace(answer.json()["trace_id"], services).services == services


def test_every_part_runs_and_is_healthy_if_its_image_has_a_health_check(stack: Stack) -> None:
    states = {name: container["State"] for name, container in stack.containers().items()}
    assert set(states) == PARTS
    assert {name for name, state in states.items() if "Health" not in state} == {"otel-collector"}
    assert {state["Health"]["Status"] for name, state in states.items() if name != "otel-collector"} == {"healthy"}


def test_the_gateway_and_what_shows_telemetry_are_published_and_only_on_127_0_0_1(stack: Stack) -> None:
    bindings = {
        (name, port, binding["HostIp"])
        for name, container in stack.containers().items()
        for port, published in container["NetworkSettings"]["Ports"].items()
        for binding in published or []
    }
    assert bindings == {(name, port, "127.0.0.1") for name, port in PUBLISHED}


def test_no_other_address_of_this_machine_answers(stack: Stack) -> None:
    interfaces = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    others = {address.address for address in interfaces if address.family == socket.AF_INET} - {"127.0.0.1"}
    # Prometheus and the samplers belong to profiles that do not run here.
    for port in (port for name, port in stack.ports.items() if not name.startswith(("prometheus", "sampler_"))):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        for address in others | {"127.0.0.2"}:
            with pytest.raises(OSError, match=r"refused|timed out|assign"):
                socket.create_connection((address, port), timeout=2)


def test_no_password_is_in_an_image_an_environment_a_command_or_a_log(stack: Stack) -> None:
    passwords = passwords_of(stack)
    assert len(passwords) == len({"the superuser", *OWNERS, "Valkey"})
    image = docker("image", "inspect", "waybill:local") + docker("image", "history", "--no-trunc", "waybill:local")
    said = docker("inspect", *stack.compose("ps", "--all", "--quiet").split()) + image + stack.compose("logs")
    assert "postgres" in said
    assert [password for password in passwords if password in said] == []


def test_no_password_is_on_a_command_line_while_the_databases_are_made(stack: Stack) -> None:
    # Replaces psql, and prints its arguments.
    records = 'psql() { echo "$@"; }; export -f psql; bash /docker-entrypoint-initdb.d/create_databases.sh'
    called = stack.compose("exec", "--env", "POSTGRES_USER=postgres", "postgres", "bash", "-c", records)
    assert "waybill_order" in called
    assert [password for password in passwords_of(stack) if password in called] == []


def test_the_logs_of_all_services_can_be_copied_out(stack: Stack, tmp_path: Path) -> None:
    trace_id = stack.place_order().json()["trace_id"]
    (block,) = [block for block in blocks(ROOT / "docs/docker.md", "sh") if " cp " in block]
    copy, show = block.splitlines()
    *arguments, here = copy.removeprefix("docker compose").split()
    assert here == "."
    command = show.replace("<trace_id>", trace_id).split()
    assert command[0] == ".venv/bin/waybill"

    def shown() -> str:
        stack.compose(*arguments, str(tmp_path))
        words = [str(tmp_path / word) if word == "logs.jsonl" else word for word in command[1:]]
        tool = [sys.executable, "-m", "waybill", *words]
        return subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    wait_until(lambda: "is completed" in shown(), shown)


@pytest.mark.parametrize("service", [each for each in SERVICES if each.database], ids=lambda service: service.name)
def test_a_service_has_only_the_secret_of_its_own_database_and_cannot_change_it(stack: Stack, service: Service) -> None:
    urls = ["database_url", "valkey_url"] if service.valkey else ["database_url"]
    assert stack.compose("exec", service.name, "ls", "/run/secrets").split() == urls
    owner = service.database
    url = stack.compose("exec", service.name, "cat", "/run/secrets/database_url")
    assert url.startswith(f"postgresql+psycopg://waybill_{owner}:")
    with pytest.raises(AssertionError, match="cannot touch"):
        stack.compose("exec", "--user", "root", service.name, "touch", "/run/secrets/database_url")


def test_a_service_cannot_enter_the_database_of_another(stack: Stack) -> None:
    enter = (
        "import sys, psycopg; from pathlib import Path;"
        "url = Path('/run/secrets/database_url').read_text().replace('+psycopg', '');"
        "psycopg.connect(url, dbname=sys.argv[1])"
    )
    stack.compose("exec", "payment", "python", "-c", enter, "waybill_payment")
    for other in ("waybill_order", "waybill_inventory", "waybill_fulfilment", "postgres", "template1"):
        with pytest.raises(AssertionError, match="permission denied for database"):
            stack.compose("exec", "payment", "python", "-c", enter, other)


def test_nobody_plants_a_shipment_without_the_password_of_valkey(stack: Stack) -> None:
    plant = "valkey-cli xadd orders '*' payload '{}' 2>&1 || true"
    assert "NOAUTH" in stack.compose("exec", "valkey", "sh", "-c", plant)


def test_messages_that_were_put_aside_are_seen_to_as_the_page_says(stack: Stack) -> None:
    page = (ROOT / "docs/queue.md").read_text()
    (command,) = re.findall(r"`docker compose (exec fulfilment python -m \S+) list`", page)
    assert "0 messages were put aside." in stack.compose(*command.split(), "list")
    assert "0 messages were sent back." in stack.compose(*command.split(), "replay", ALL)


def test_a_service_has_as_many_workers_as_it_is_told(stack: Stack) -> None:
    stack.up("--no-deps", "gateway", WEB_CONCURRENCY="2")
    try:
        processes = docker("top", stack.containers()["gateway"]["Id"], "-eo", "pid,args")
        assert stack.place_order().status_code == 201
    finally:
        stack.up()
    assert processes.count("gunicorn --config") == len(["master", "worker", "worker"])


def passwords_of(stack: Stack) -> list[str]:
    """Return the passwords of all database roles, and Valkey's."""
    each = 'for secret in /run/secrets/*; do cat "$secret"; echo; done'
    valkey = stack.compose("exec", "valkey", "cat", "/run/secrets/password")
    return [*stack.compose("exec", "postgres", "sh", "-c", each).split(), valkey.strip()]
