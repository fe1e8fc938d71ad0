"""Make up the passwords of the databases, once for each installation, and hand each to its owner only.

Runs before PostgreSQL starts. Every folder below /secrets is a volume: `postgres` holds the passwords of all roles,
and each service's holds the URL of its own database.
"""

import secrets
from pathlib import Path

ROOT = Path("/secrets")
OWNERS = ("order", "inventory", "payment", "fulfilment")


def main() -> None:
    """Write what is missing; what is there stays, since the database knows it."""
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
    # Readable for the owner's user id, whatever it is there: who else is in that container anyway?
    path.write_text(text)
    path.chmod(0o444)


if __name__ == "__main__":
    main()
