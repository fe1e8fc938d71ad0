"""The folder in parts and under another name: each library's file can be deleted, with the library."""

import shutil
from pathlib import Path

import pytest

from tests.telemetry.process import ROOT, prints, run

FOLDER = ROOT / "telemetry"
LIBRARIES = ("flask", "requests", "sqlalchemy", "redis")
BESIDE = {"sqlalchemy": ("pools", "statements"), "redis": ("commands",)}
"""Files that only serve a library's file."""
USES = {
    "flask": """
from flask import Flask
app = Flask("shop")
{name}.instrument_app(app)
app.add_url_rule("/", "index", lambda: "")
app.test_client().get("/")
""",
    "requests": """
import requests
{name}.instrument_requests()
session = requests.Session()
session.mount("http://", {name}.StrictAdapter(trusted=["http://127.0.0.1:9"]))
try:
    session.get("http://127.0.0.1:9/")
except requests.ConnectionError:
    pass
""",
    "sqlalchemy": """
from sqlalchemy import create_engine, text
engine = create_engine("sqlite://", poolclass={name}.WaitTracingPool)
{name}.instrument_engine(engine)
with engine.connect() as connection:
    connection.execute(text("SELECT 1"))
""",
    "redis": """
import redis
{name}.instrument_redis()
try:
    redis.Redis(port=9).get("basket")
except redis.ConnectionError:
    pass
""",
}
SPANS = {"flask": "GET /", "requests": "GET", "sqlalchemy": "SELECT", "redis": "GET"}
SET_UP = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent!r} or name.startswith(tuple(f"{{each}}." for each in {absent!r})):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import {name}
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory = InMemorySpanExporter()
{name}.configure("shop", spans=None, metrics=None, span_processors=[SimpleSpanProcessor(memory)])
"""
TELL = "\nprint(*(span.name for span in memory.get_finished_spans()), sep=', ')"


def absent(*libraries: str) -> list[str]:
    return [name for library in libraries for name in (library, f"opentelemetry.instrumentation.{library}")]


@pytest.mark.parametrize("library", [*LIBRARIES, "streams"])
def test_without_a_library_and_its_files_the_others_work(library: str, tmp_path: Path) -> None:
    # In lean/ too.
    gone = [f"{name}.py" for name in (library, *BESIDE.get(library, ()))]
    shutil.copytree(FOLDER, tmp_path / "telemetry", ignore=shutil.ignore_patterns("__pycache__", *gone))
    others = [each for each in LIBRARIES if each != library]
    code = SET_UP + "".join(USES[each] for each in others) + TELL
    names = prints(code.format(name="telemetry", absent=absent(library)), tmp_path)
    assert names == ", ".join(SPANS[each] for each in others)


def test_the_core_needs_the_api_the_sdk_and_the_exporter_and_nothing_else(tmp_path: Path) -> None:
    gone = [f"{library}.py" for library in (*LIBRARIES, "streams", "testing", "traces")]
    shutil.copytree(FOLDER, tmp_path / "telemetry", ignore=shutil.ignore_patterns("__pycache__", *gone))
    without = ["opentelemetry.instrumentation", "opentelemetry.processor", "wrapt", *absent(*LIBRARIES)]
    code = """
import logging
telemetry.gauge("shop.queue", lambda: [], unit="1", description="")
from telemetry import boundary, metrics, threads
from opentelemetry import trace
with trace.get_tracer("t").start_as_current_span("one"), telemetry.ContextThreadPool() as pool:
    pool.submit(trace.get_tracer("t").start_span, "two").result().end()
telemetry.shutdown()
"""
    # The exporter over HTTP has requests, and reads the environment of instrumentations.
    assert prints((SET_UP + code + TELL).format(name="telemetry", absent=without), tmp_path) == "two, one"


def test_lean_needs_no_instrumentation(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "telemetry", ignore=shutil.ignore_patterns("__pycache__"))
    without = ["opentelemetry.instrumentation", "opentelemetry.util.http", "opentelemetry.processor", "wrapt"]
    set_up = "\nfrom telemetry import lean\nfor way in lean.__all__: setattr(telemetry, way, getattr(lean, way))"
    uses = "".join(USES[library] for library in LIBRARIES)
    assert (
        prints((SET_UP + set_up + uses + TELL).format(name="telemetry", absent=without), tmp_path)
        == "GET /, GET, SELECT, GET"
    )


def test_the_folder_works_under_another_name_within_a_package(tmp_path: Path) -> None:
    name = "acme.observability.tracing"
    place = tmp_path / name.replace(".", "/")
    shutil.copytree(FOLDER, place, ignore=shutil.ignore_patterns("__pycache__"))
    for package in (place.parent, place.parent.parent):
        (package / "__init__.py").touch()
    uses = "".join(USES[library] for library in LIBRARIES)
    code = SET_UP + uses + TELL + f"\nfrom {name} import streams, testing\nprint('telemetry' in sys.modules)"
    assert prints(code.format(name=name, absent=["telemetry"]), tmp_path) == "GET /, GET, SELECT, GET\nFalse"


@pytest.mark.parametrize("package", ["telemetry", "telemetry.lean"])
def test_a_library_that_is_not_there_is_named_with_what_to_do(package: str) -> None:
    code = SET_UP + "from telemetry import lean\n" + f"{package}.instrument_redis()"
    said = run(code.format(name="telemetry", absent=absent("redis"))).stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: {package}.instrument_redis cannot be imported: ")
    assert said.endswith("The README of the folder says which packages each library needs.")


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    assert prints("import telemetry; print(hasattr(telemetry, 'instrument_everything'))", ROOT) == "False"


def test_the_model_of_a_trace_is_read_without_the_sdk() -> None:
    code = "import sys, telemetry.traces; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert prints(code, ROOT) == "[]"
