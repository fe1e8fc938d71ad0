"""Prepare the volumes before anything else starts: the passwords of the databases, and the owners of the files.

The passwords are generated once per installation, and only the services that need one get it. Every folder below
/secrets is a volume: `postgres` has the passwords of all roles, `valkey` its own, and a service's the URLs that it
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
"""The user of the Collector's image, which has no shell to do this itself, and of Jaeger's. The volumes of other
images already have the right owner.
"""


def main() -> None:
    """Do the steps that have not been done yet."""
    for volume in VOLUMES.iterdir():
        os.chown(volume, USER, USER)
    make_passwords(ROOT)


def make_passwords(root: Path) -> None:
    """Generate the missing passwords. Existing ones are kept, since the database uses them."""
    if not (root / "postgres" / "password").exists():
        for owner in OWNERS:
            password = secrets.token_urlsafe(24)
            name = f"waybill_{owner}"
            _write(root / "postgres" / name, password)
            _write(root / owner / "database_url", f"postgresql+psycopg://{name}:{password}@postgres:5432/{name}")
        # Last, since it marks the others as complete.
        _write(root / "postgres" / "password", secrets.token_urlsafe(24))
    if not (root / "valkey" / "password").exists():
        password = secrets.token_urlsafe(24)
        for user in USERS_OF_VALKEY:
            _write(root / user / "valkey_url", f"redis://:{password}@valkey:6379/0")
        _write(root / "valkey" / "valkey.conf", f"requirepass {password}\n")
        _write(root / "valkey" / "password", password)
    # It uses the database of order.
    _write(root / "order-relay" / "database_url", (root / "order" / "database_url").read_text())


def _write(path: Path, text: str) -> None:
    # An interrupted start may have left one, which nobody may write.
    path.unlink(missing_ok=True)
    path.write_text(text)
    # Readable for everyone, since the user id in the other container is unknown, and nobody else is in it.
    path.chmod(0o444)


if __name__ == "__main__":
    main()
