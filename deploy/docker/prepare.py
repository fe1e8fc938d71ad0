"""Prepare the volumes, before anything else starts: the passwords of the databases, and who may write what.

The passwords are made up once for each installation, and each is handed only to those who need it. Every folder below
/secrets is a volume: `postgres` holds the passwords of all roles, `valkey` its own, and a service's the URLs that it
connects to.
"""

import os
import secrets
from pathlib import Path

ROOT = Path("/secrets")
OWNERS = ("order", "inventory", "payment", "fulfilment")
USERS_OF_VALKEY = ("order-relay", "inventory", "fulfilment")

VOLUMES = Path("/volumes")
USER = 10001
"""The user of the Collector's image, which has no shell to do this itself, and of Jaeger's. The volumes of the other
images belong to whom they should.
"""


def main() -> None:
    """Do what has not been done yet."""
    for volume in VOLUMES.iterdir():
        os.chown(volume, USER, USER)
    make_passwords(ROOT)


def make_passwords(root: Path) -> None:
    """Make those that are not there. Those that are there stay, since the database knows it."""
    if not (root / "postgres" / "password").exists():
        for owner in OWNERS:
            password = secrets.token_urlsafe(24)
            name = f"waybill_{owner}"
            _write(root / "postgres" / name, password)
            _write(root / owner / "database_url", f"postgresql+psycopg://{name}:{password}@postgres:5432/{name}")
        # Last: it says that the others are whole.
        _write(root / "postgres" / "password", secrets.token_urlsafe(24))
    if not (root / "valkey" / "password").exists():
        password = secrets.token_urlsafe(24)
        for user in USERS_OF_VALKEY:
            _write(root / user / "valkey_url", f"redis://:{password}@valkey:6379/0")
        _write(root / "valkey" / "valkey.conf", f"requirepass {password}\n")
        _write(root / "valkey" / "password", password)
    # It works on the database of order.
    _write(root / "order-relay" / "database_url", (root / "order" / "database_url").read_text())


def _write(path: Path, text: str) -> None:
    # A start that was interrupted may have left one, which nobody may write.
    path.unlink(missing_ok=True)
    path.write_text(text)
    # Readable for the owner's user id, whatever it is there: who else is in that container anyway?
    path.chmod(0o444)


if __name__ == "__main__":
    main()
