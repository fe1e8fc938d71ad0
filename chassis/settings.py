"""Settings that fail at the start: a wrong or missing value ends the process with the variable's name."""

import sys
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=60)]


SECRETS = Path("/run/secrets")
"""Where Docker and Kubernetes put secrets by default: a file `database_url` stands for DATABASE_URL."""


class ServiceSettings(BaseSettings):
    """What every service has to know; a service adds its own fields.

    Each is an environment variable, or a file of its name in lower case under /run/secrets.
    """

    model_config = SettingsConfigDict(secrets_dir=SECRETS if SECRETS.is_dir() else None)

    request_deadline: Seconds = 5.0
    """How long a request may take, with everything that it calls."""

    @classmethod
    def read(cls) -> Self:
        """Read the environment, once, in the app factory; a mistake ends the process with status 1."""
        try:
            return cls()
        except ValidationError as error:
            # Never the value: it may be a password.
            wrong = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            sys.exit("settings are wrong, set these environment variables: " + "; ".join(wrong))
