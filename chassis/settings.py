"""Settings that fail at the start: a wrong or missing value ends the process with the variable's name."""

import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


def _begins(*beginnings: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(beginnings):
            raise ValueError(f"begin it with {' or '.join(beginnings)}")
        return url

    return AfterValidator(check)


Seconds = Annotated[float, Field(gt=0, le=60)]
DatabaseUrl = Annotated[SecretStr, _begins("postgresql+psycopg://")]
ValkeyUrl = Annotated[SecretStr, _begins("redis://", "rediss://", "unix://")]
"""URLs are secrets, since they may contain a password."""

DO_NOT_RESTART = 3
"""The exit status of a worker that will never start, for gunicorn: with any other it restarts the worker for ever."""

SECRETS = Path("/run/secrets")
"""The folder into which Docker and Kubernetes mount secrets by default: a file `database_url` stands for DATABASE_URL.
"""


class ServiceSettings(BaseSettings):
    """Settings that every service has; a service adds its own fields.

    Each is an environment variable, or a file of its name in lower case under /run/secrets.
    """

    model_config = SettingsConfigDict(secrets_dir=SECRETS if SECRETS.is_dir() else None)

    request_deadline: Seconds = 5.0
    """The time that a request may take, including all calls."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment, once, in the app factory; a wrong value ends the process."""
        try:
            return cls()
        except ValidationError as error:
            # Never print the value: it may be a password.
            wrong = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            refuse("; ".join(wrong))

    def open(self) -> dict[str, str]:
        """Return the settings that may be shown, by variable: no secrets, and URLs without user and password."""
        shown = {name.upper(): value for name, value in self if value is not None and not isinstance(value, SecretStr)}
        return {name: re.sub("//[^/@]*@", "//", str(value)) for name, value in shown.items()}


def refuse(wrong: str) -> NoReturn:
    """End the process with one line that says which variable is wrong."""
    print("settings are wrong, set these environment variables:", wrong, file=sys.stderr, flush=True)  # noqa: T201
    sys.exit(DO_NOT_RESTART)
