"""Prepare the volumes, before anything else starts: the passwords of the databases, and who may write what.

The passwords are made up once for each installation, and each is handed to its owner only. Every folder below
/secrets is a volume: `postgres` holds the passwords of all roles, and each service's holds the URL of its own database.
"""

import os
import secrets
from pathlib import Path

ROOT = Path("/secrets")
OWNERS = ("order", "inventory", "payment", "fulfilment")

COLLECTOR = Path("/collector")
COLLECTOR_USER = 10001
"""Of its image, which has no shell to do this itself; the volumes of the other images belong to whom they should."""


def main() -> None:
    """Do what has not been done yet."""
    os.chown(COLLECTOR, COLLECTOR_USER, COLLECTOR_USER)
    _make_passwords()


def _make_passwords() -> None:
    # What is there stays, since the database knows it.
    if (ROOT / "postgres" / "password").exists():
        return
    for owner in OWNERS:
        password = secrets.token_urlsafe(24)
        name = f"waybill_{owner}"
        _write(ROOT / "postgres" / name, password)
        _write(ROOT / owner / "database_url", f"postgresql+psycopg://{name}:{password}@postgres:5432/{name}")
    # Last: it says that the others are whole.
    _write(ROOT / "postgres" / "password", secrets.token_urlsafe(24))


def _write(path: Path, text: str) -> None:
    # A start that was interrupted may have left one, which nobody may write.
    path.unlink(missing_ok=True)
    path.write_text(text)
    # Readable for the owner's user id, whatever it is there: who else is in that container anyway?
    path.chmod(0o444)


if __name__ == "__main__":
    main()
