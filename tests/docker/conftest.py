"""The stack is brought up once for all tests, and taken down whatever comes of them."""

import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.docker.stack import Stack, docker, free_port


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack, healthy; taken down with its data when the tests end, also when they fail or are interrupted."""
    require_docker()
    # Without this, SIGTERM would end the process before the lines behind `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = Stack(free_port(), free_port())
    take_down = partial(stack.compose, "down", "--volumes", "--remove-orphans")
    # What a killed run may have left.
    take_down()
    try:
        try:
            stack.up()
        except AssertionError as error:
            # Every test would fail, and say all of this.
            pytest.exit(str(error), returncode=1)
        yield stack
    finally:
        take_down()


def require_docker() -> None:
    """End the tests, as failed, where they cannot run: to skip them would say that all is well."""
    try:
        docker("version")
        docker("compose", "version")
    except (AssertionError, FileNotFoundError):
        pytest.exit(
            "These tests need a running Docker Engine with Compose v2, and `docker version` or `docker compose version`"
            " fails: start or install it, or set DOCKER_HOST to where it listens.",
            returncode=1,
        )
