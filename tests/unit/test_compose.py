"""docker-compose.yml says the same as the tool and the documentation."""

import re

from tests.documents import ROOT, quoted, rows
from waybill.binaries.build import BUILDER_CONFIG, COLLECTOR_VERSION
from waybill.binaries.catalog import COLLECTOR, JAEGER, PROMETHEUS
from waybill.settings import Settings

COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCUMENT = ROOT / "docs/docker.md"


def test_a_port_is_published_where_the_tool_looks_for_it() -> None:
    published = {name: int(port) for name, port in re.findall(r"\$\{(WAYBILL_\w+_PORT):-(\d+)\}:", COMPOSE)}
    tool = {f"WAYBILL_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    assert published == {name: tool[name] for name in published}
    assert published == {quoted(variable)[0]: int(port) for variable, port, _ in rows(DOCUMENT, "Ports")}


def test_an_image_has_the_version_that_runs_without_docker() -> None:
    images = dict(re.findall(r"\$\{(\w+)_IMAGE:-\S+:v?([\d.]+)\}", COMPOSE))
    for binary in (COLLECTOR, JAEGER, PROMETHEUS):
        assert images[binary.variable] == binary.release.version


def test_the_document_names_the_images_that_are_used() -> None:
    used = dict(re.findall(r"\$\{(\w+_IMAGE):-(\S+)\}", COMPOSE))
    named = dict(re.findall(r"^(\w+_IMAGE)=(?:registry\.example\.com/)?([^@\n]+)", DOCUMENT.read_text(), re.MULTILINE))
    assert named == used


def test_every_version_of_the_collector_is_the_same() -> None:
    # Its comment says why it is an older version.
    lines = [line for line in BUILDER_CONFIG.read_text().splitlines() if "k8sattributes" not in line]
    builder = re.findall(r"(?:version: | v)(0\.\d+\.\d+)$", "\n".join(lines), re.MULTILINE)
    assert len(builder) > 15
    pages = [path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.name != "upstream.md"]
    named = re.compile(r"(?:otelcol-contrib`?|opentelemetry-collector-contrib:)[^\n]{0,12}?(\d+\.\d+\.\d+)")
    documented = [version for page in pages for version in named.findall(page.read_text())]
    assert len(documented) > 2
    assert {*builder, *documented, COLLECTOR.release.version} == {COLLECTOR_VERSION}
