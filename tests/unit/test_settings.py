"""The settings that a service shows when it starts."""

import pytest

from services.payment.settings import Settings


def test_settings_are_shown_without_secrets_and_without_what_a_url_has_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://payment:planted@127.0.0.1/payment")
    monkeypatch.setenv("ACQUIRER_URL", "https://user:planted@acquirer.example/v1")
    monkeypatch.setenv("REQUEST_DEADLINE", "2.5")
    assert Settings.read().open() == {"REQUEST_DEADLINE": "2.5", "ACQUIRER_URL": "https://acquirer.example/v1"}
