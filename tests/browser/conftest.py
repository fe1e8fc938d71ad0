"""The whole system, and a real Chromium. Without one, these tests are skipped."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.house import DATABASES, PATIENCE_SECONDS, SERVICES, House
from waybill.parts import all_parts

REFUSED = re.compile("Failed to load resource: the server responded with a status of [45]")
"""Chromium's message for every answer that is not a success, and for nothing else."""

Open = Callable[..., Page]
Change = Callable[..., None]
Without = Callable[[str], None]


@pytest.fixture(scope="package")
def house() -> Iterator[House]:
    """Every part. A test that changes one restores it."""
    with House() as house:
        house.start(*DATABASES, "jaeger", "collector")
        house.start(*SERVICES)
        yield house


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: on Debian, apt install chromium")
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def change(house: House) -> Iterator[Change]:
    """Start the gateway with other settings, None for an unset one; after the test it runs as before."""
    usual = house.parts["gateway"]

    def change(**settings: str | None) -> None:
        environment = {name: value for name, value in {**usual.environment, **settings}.items() if value is not None}
        house.parts["gateway"] = replace(usual, environment=environment)
        restart()

    def restart() -> None:
        house.stop("gateway")
        house.start("gateway")

    yield change
    if house.parts["gateway"] is not usual:
        house.parts["gateway"] = usual
        restart()


@pytest.fixture
def tail_sampling(house: House) -> Iterator[None]:
    """Make the Collector sample traces, four seconds after the first span of each."""
    usual = house.parts["collector"]
    settings = house.settings.model_copy(update={"sampling": "tail"})
    house.stop("collector")
    house.parts["collector"] = next(part for part in all_parts(settings) if part.name == "collector")
    house.start("collector", TAIL_SAMPLING_WAIT="4s")
    yield
    house.stop("collector")
    house.parts["collector"] = usual
    house.start("collector")


@pytest.fixture
def without(house: House) -> Iterator[Without]:
    """Stop a part; after the test it runs again."""
    stopped: list[str] = []

    def stop(name: str) -> None:
        house.stop(name)
        stopped.append(name)

    yield stop
    house.start(*stopped)


@pytest.fixture
def visit(house: House, browser: Browser, change: object, without: object) -> Iterator[Open]:
    """Open a page of the gateway. No test may cause an error there, break the policy, or use another host."""
    complaints: list[str] = []
    asked: list[str] = []
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    context.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("dialog", lambda dialog: complaints.append(dialog.message))
    context.on("request", lambda request: asked.append(request.url))

    def open_page(path: str | None = "/", *, scheme: str = "light", width: int = 1080) -> Page:
        page = context.new_page()
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        if path is not None:
            page.goto(house.url("gateway") + path)
        return page

    yield open_page
    context.close()
    assert [text for text in complaints if not REFUSED.match(text)] == []
    assert asked
    assert all(url.startswith(f"{house.url('gateway')}/") for url in asked), asked
