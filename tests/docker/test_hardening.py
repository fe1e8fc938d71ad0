"""Limits on the harm that a part can do to its host, and its restart after a crash."""

import json
from typing import Any

import pytest

from tests.docker.stack import Stack, docker, wait_until
from tests.docker.test_networks import OF_A_PROFILE

pytestmark = pytest.mark.timeout(1800)

IN_MEMORY = {"/tmp", "/dev/shm", "/dev/mqueue"}  # noqa: S108
WRITABLE = {
    "postgres": {"/var/lib/postgresql", "/run/postgresql"},
    "valkey": {"/data"},
    "otel-collector": {"/var/lib/otelcol"},
    "sampler-1": {"/var/lib/otelcol"},
    "jaeger": {"/badger"},
    "opensearch": {f"/usr/share/opensearch/{folder}" for folder in ("config", "data", "logs")},
    "prometheus": {"/prometheus"},
}
"""The other folders that a part may write to."""


def test_no_process_is_root_or_has_a_privilege_or_can_gain_one(probes: dict[str, Any]) -> None:
    for name, probe in probes.items():
        assert_unprivileged(name, probe)


def test_every_process_of_a_part_is_the_same_user(stack: Stack) -> None:
    for name, container in stack.containers().items():
        _heading, *processes = docker("top", container["Id"], "-eo", "pid,uid").splitlines()
        users = {process.split()[1] for process in processes}
        assert len(users) == 1, name
        assert users != {"0"}, f"{name} runs as root"


def test_a_part_writes_only_to_its_volume_and_a_small_temporary_folder(probes: dict[str, Any]) -> None:
    for name, probe in probes.items():
        assert_writes_little(name, probe)


def test_what_may_be_written_can_be(stack: Stack) -> None:
    assert not stack.compose("exec", "order", "sh", "-c", "echo > /tmp/probe && rm /tmp/probe")
    with pytest.raises(AssertionError, match="No space left on device"):
        stack.compose("exec", "order", "sh", "-c", "head -c 17M /dev/zero > /tmp/probe || { rm /tmp/probe; exit 1; }")


def test_memory_processes_and_logs_are_limited_for_every_part(stack: Stack) -> None:
    containers = stack.containers("--all")
    assert "prepare" in containers
    for name, container in containers.items():
        limits = container["HostConfig"]
        assert limits["Memory"], name
        assert limits["PidsLimit"] == 256, name
        assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}, name


def test_what_prepares_the_volumes_has_ended_and_had_one_privilege_and_no_network(stack: Stack) -> None:
    container = stack.containers("--all")["prepare"]
    assert container["State"]["Status"] == "exited"
    assert container["State"]["ExitCode"] == 0
    config = container["HostConfig"]
    assert config["CapDrop"] == ["ALL"]
    # Newer engines use its full name.
    assert [capability.removeprefix("CAP_") for capability in config["CapAdd"]] == ["CHOWN"]
    assert config["NetworkMode"] == "none"
    assert config["ReadonlyRootfs"]


def test_all_parts_are_killed_at_once_and_come_back_and_take_orders(stack: Stack) -> None:
    before = stack.containers()
    kill = "import os, sys; [os.kill(int(pid), 9) for pid in sys.argv[1:]]"
    pids = [str(container["State"]["Pid"]) for container in before.values()]
    # From a container beside them: Docker does not restart after `docker kill`, and PID 1 is immune from within.
    docker("run", "--rm", "--pid", "host", "--user", "root", "waybill:local", "python", "-c", kill, *pids)

    def restarted() -> bool:
        after = stack.containers()
        return set(after) == set(before) and all(
            container["RestartCount"] > before[name]["RestartCount"]
            and container["State"].get("Health", {"Status": "healthy"})["Status"] == "healthy"
            for name, container in after.items()
        )

    wait_until(restarted, lambda: stack.compose("ps", "--all"))
    wait_until(lambda: stack.place_order().status_code == 201, lambda: stack.compose("logs", "--tail", "3"))


def test_the_configuration_is_what_compose_reads_with_every_profile(stack: Stack) -> None:
    config = json.loads(stack.compose("--profile", "*", "config", "--format", "json"))
    assert {name for name, service in config["services"].items() if service.get("profiles")} == OF_A_PROFILE
    for name, service in config["services"].items():
        assert service["restart"] == ("no" if name == "prepare" else "unless-stopped"), name
        assert service.get("read_only"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name


def assert_unprivileged(name: str, probe: dict[str, Any]) -> None:
    status = probe["status"]
    assert "0" not in status["Uid"].split(), f"{name} runs as root"
    capabilities = {set_: status[set_] for set_ in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert {int(value, base=16) for value in capabilities.values()} == {0}, f"{name}: {capabilities}"
    assert status["NoNewPrivs"] == "1", name


def assert_writes_little(name: str, probe: dict[str, Any]) -> None:
    """Check that a part can only write to its volume and to memory."""
    assert probe["root"] == "EROFS", f"{name} can write to /"
    assert set(probe["writable"]) == IN_MEMORY | WRITABLE.get(name, set()), name
    # The edge stores answers for slow readers there.
    size = "65536k" if name == "edge" else "16384k"
    assert {f"size={size}"} <= set(probe["writable"]["/tmp"].split(",")), name  # noqa: S108
    assert {"size=65536k"} <= set(probe["writable"]["/dev/shm"].split(",")), name  # noqa: S108
