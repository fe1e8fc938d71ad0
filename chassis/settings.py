"""Settings that fail at the start: a wrong or missing value ends the process with the variable's name."""

import sys
from typing import Annotated, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

Seconds = Annotated[float, Field(gt=0, le=60)]


class ServiceSettings(BaseSettings):
    """What every service has to know; a service adds its own fields. Each is an environment variable."""

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
