"""The opt-in of the environment, and the resource."""

import os

import pytest

from telemetry import providers
from telemetry.conventions import SCHEMA_URL, opt_in_to_stable_names

VARIABLE = "OTEL_SEMCONV_STABILITY_OPT_IN"


@pytest.mark.parametrize(
    ("asked", "used"),
    [
        (None, "http,database"),
        ("", "http,database"),
        ("http,database", "http,database"),
        ("gen_ai_latest_experimental", "gen_ai_latest_experimental,http,database"),
        ("database/dup", "database/dup,http"),
        (" http/dup , database ", "http/dup,database"),
    ],
)
def test_the_stable_names_are_used_whatever_the_environment_asks_for_besides(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, used: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if asked is not None:
        monkeypatch.setenv(VARIABLE, asked)
    opt_in_to_stable_names()
    assert os.environ[VARIABLE] == used


def test_the_resource_names_its_version_of_the_conventions_and_a_namespace_if_there_is_one() -> None:
    without, within = (providers._resource("shop", "1.0", namespace, {}) for namespace in ("", "tea"))
    assert without.schema_url == within.schema_url == SCHEMA_URL
    assert "service.namespace" not in without.attributes
    assert within.attributes["service.namespace"] == "tea"
