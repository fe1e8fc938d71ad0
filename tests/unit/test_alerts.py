"""Check and run the alerts with promtool, with windows for production and for a demonstration."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.documents import ROOT, quoted, rows
from waybill.binaries import find
from waybill.parts import DEMO_WINDOWS, alerts, targets
from waybill.settings import Settings

pytestmark = pytest.mark.processes

RULES = [rule for group in yaml.safe_load(alerts("production"))["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = Path(__file__).with_name("alerts.test.yaml")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([find("promtool"), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("windows", ["production", "demo"])
def test_promtool_finds_no_fault_in_the_rules_and_the_configuration(windows: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(alerts("demo" if windows == "demo" else "production"))
    (tmp_path / "prometheus.yaml").write_text((ROOT / "deploy/prometheus.yaml").read_text())
    (tmp_path / "targets.json").write_text((ROOT / "deploy/docker/targets.json").read_text())
    assert f"{len(RULES)} rules found" in promtool(
        "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "alerts.yaml"
    )
    assert "1 rule files found" in promtool("check", "config", "--lint=none", tmp_path / "prometheus.yaml")


def test_the_rules_fire_for_faults_and_for_nothing_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS)


def test_every_alert_is_fired_in_the_test_of_the_rules() -> None:
    tested = TESTS.read_text()
    assert not [rule["alert"] for rule in ALERTS if rule["alert"] not in tested]


def test_in_a_demonstration_no_window_is_that_of_production() -> None:
    production, demo = alerts("production"), alerts("demo")
    windows = re.compile(r"\[(\w+)\]|for: (\w+)")
    wanted = [DEMO_WINDOWS[a or b] for a, b in windows.findall(production)]
    assert [a or b for a, b in windows.findall(demo)] == wanted
    assert not set(re.findall(r"rate\d+[smh]", production)) & set(re.findall(r"rate\d+[smh]", demo))
    # Nothing else differs.
    assert re.sub(r"\d+[smhd]\b", "", demo) == re.sub(r"\d+[smhd]\b", "", production)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_names_a_search_that_leads_to_traces_and_a_page_that_is_there(rule: dict[str, dict[str, str]]) -> None:
    assert rule["annotations"]["jaeger"].startswith("/search?service=")
    assert (ROOT / rule["annotations"]["page"]).is_file()


def test_prometheus_reads_each_collector_of_two_tiers() -> None:
    count = {
        sampling: [len(group["targets"]) for group in targets(Settings(sampling=sampling))]
        for sampling in ("off", "two-tier")
    }
    assert count == {"off": [1, 1, 1], "two-tier": [1, 3, 1]}


def test_the_document_has_a_row_for_every_alert() -> None:
    documented = [quoted(row[0])[0] for row in rows(ROOT / "docs/metrics.md", "Alerts")]
    assert documented == list(dict.fromkeys(rule["alert"] for rule in ALERTS))
