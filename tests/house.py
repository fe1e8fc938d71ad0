"""Waybill's parts as processes of a test: on free ports, in their own folder, started and ended at will."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import psutil
import psycopg
import redis
import requests

from tests.ports import free_port
from waybill import postgres, valkey
from waybill.parts import all_parts
from waybill.processes import lives
from waybill.registry import NAMES
from waybill.settings import Settings
from waybill.supervise import Part, last_lines, spawn

DATABASES = ("postgres", "valkey")
SERVICES = NAMES
PATIENCE_SECONDS = 60
T = TypeVar("T")

_shared = TemporaryDirectory(prefix="waybill-")


class House:
    """Parts of Waybill that run for a test. Use it as a context manager, which ends all parts."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Prepare, without starting anything. `environment` is added to every part's, and takes precedence."""
        # Not in pytest's own folder, which a second pytest closes to other users: PostgreSQL may run as another user.
        self._temporary = TemporaryDirectory(prefix="waybill-")
        self.folder = Path(self._temporary.name)
        subprocess.run(["cp", "-pR", _new_data(), self.folder / "data"], check=True)
        self.settings = Settings(state_dir=self.folder, **free_ports())
        self.environment = dict(environment or {})
        self.parts = {part.name: part for part in all_parts(self.settings)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._valkey_is_open = False
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The databases are needed until the last of the others has ended.
        self.stop_together(*(name for name in self.processes if name not in DATABASES))
        self.stop_together(*self.processes)
        self.session.close()
        self._temporary.cleanup()

    def start(self, *names: str, **environment: str) -> None:
        """Start parts in parallel and wait until each is ready; a part that ends instead fails the test."""
        for name in names:
            self._spawn(self.parts[name], environment)
        for name in names:
            self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Wait until a part answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.parts[name].ready():
            assert self.processes[name].poll() is None, f"{name} ended:\n{self.log(name)}"
            assert time.monotonic() < deadline, f"{name} did not become ready:\n{self.log(name)}"
            time.sleep(0.05)

    def stop(self, name: str) -> int:
        """Ask a part to end, wait until it has, and return its exit status."""
        self.session.close()
        self._ask_to_end(name)
        return self._wait_until_ended(name)

    def stop_together(self, *names: str) -> None:
        """Stop those of these parts that run, in parallel: each waits two seconds for clients with open connections."""
        self.session.close()
        running = [name for name in names if name in self.processes]
        for name in running:
            self._ask_to_end(name)
        for name in running:
            self._wait_until_ended(name)

    def _ask_to_end(self, name: str) -> None:
        if self.processes[name].poll() is None:
            self.processes[name].send_signal(self.parts[name].stop_signal)

    def _wait_until_ended(self, name: str) -> int:
        process = self.processes.pop(name)
        try:
            return process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill_group(process)
            raise AssertionError(f"{name} did not end:\n{self.log(name)}") from None

    def kill(self, name: str) -> None:
        """End a part, workers included, with SIGKILL."""
        self._kill_group(self.processes.pop(name))

    def workers(self, name: str) -> list[psutil.Process]:
        """Return the worker processes of a service, without their master."""
        return [child for child in psutil.Process(self.processes[name].pid).children() if lives(child)]

    def log(self, name: str) -> str:
        """Return the last output of a part."""
        return last_lines(self._log_file(name))

    def url(self, name: str) -> str:
        """Return the base URL of a service."""
        return self.settings.service_url(name)

    def order(
        self, sku: str = "TEA-EARL-GREY", *, token: str = "tok_visa", headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Place an order for two of a product at the gateway."""
        body = {"items": [{"sku": sku, "quantity": 2}], "payment_token": token}
        return self.session.post(f"{self.url('gateway')}/orders", json=body, headers=headers, timeout=30)

    def warm_cache(self) -> None:
        """Fill the cache with Earl Grey only, for a minute from now."""
        with self.valkey() as valkey:
            for key in valkey.scan_iter("product:*"):
                valkey.delete(key)
        assert self.order().status_code == 201

    def valkey(self) -> redis.Redis:
        """Return a client of Valkey."""
        client: redis.Redis = redis.Redis.from_url(self.valkey_url, decode_responses=True)
        return client

    @property
    def valkey_url(self) -> str:
        """Return the URL of Valkey, with its password if it requires one."""
        if self._valkey_is_open:
            return f"redis://127.0.0.1:{self.settings.valkey_port}/0"
        return valkey.url(postgres.passwords(self.folder / "data"), self.settings.valkey_port)

    def open_valkey(self) -> None:
        """Make Valkey start without a password, for services that do not have one."""
        part = self.parts["valkey"]
        self.parts["valkey"] = replace(part, command=[*part.command, "--requirepass", ""])
        self._valkey_is_open = True

    def query(self, service: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement in the database of a service."""
        passwords = postgres.passwords(self.folder / "data")
        url = postgres.url(service, passwords, self.settings.postgres_port).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def _spawn(self, part: Part, environment: Mapping[str, str]) -> None:
        assert part.name not in self.processes, f"{part.name} runs already"
        if part.prepare:
            part.prepare()
        self._log_file(part.name).parent.mkdir(parents=True, exist_ok=True)
        with self._log_file(part.name).open("ab") as log:
            wanted = {**part.environment, **self.environment, **environment}
            self.processes[part.name] = spawn(replace(part, environment=wanted), log)

    def _log_file(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition for as long as a busy machine may take; `what` describes it in the error."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.05)


@cache
def _new_data() -> str:
    """Return a fresh data folder of PostgreSQL, made once for all houses of a process, since that takes a second."""
    data = Path(_shared.name) / "data"
    data.mkdir()
    postgres.prepare(data, postgres.passwords(data))
    return str(data)


def free_ports() -> dict[str, int]:
    """Return a free port for each port field of the settings."""
    return {name: free_port() for name in Settings.model_fields if name.endswith("_port")}


def wait_for(answer: Callable[[], T], what: str) -> T:
    """Return the first answer that is true."""
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while not (found := answer()):
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.5)
    return found
