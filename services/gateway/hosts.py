"""By which names the gateway is asked, and by whose pages: https://fetch.spec.whatwg.org/#origin-header.

A stranger's page can have its own name point to this machine (DNS rebinding): the browser then takes the gateway for
that page's own server, and hands its answers over. But it says the name, in the header Host.
"""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from flask import Flask, request

from chassis.problems import Problem

READING = frozenset(("GET", "HEAD", "OPTIONS"))
HEALTH = frozenset(("healthz", "readyz", "startedz"))
"""Endpoints that an orchestrator asks, by whatever name it knows."""


def install(app: Flask, public_hosts: Collection[str]) -> None:
    """Refuse what is asked by a name that is not in `public_hosts`, unless it is localhost or an address.

    Refuse also what a page of another origin sends, if it is more than a question.
    """

    @app.before_request
    def refuse_strangers() -> None:
        if request.endpoint in HEALTH:
            return
        host = request.headers.get("Host")
        # Only HTTP/1.0 has none, and no browser speaks that.
        if host is not None and not _is_ours(_parse(f"//{host}").hostname, public_hosts):
            raise Problem(421, detail="this is not its name: use one of PUBLIC_HOSTS, localhost or an address")
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in READING and not _is_own(origin, host or "", public_hosts):
            raise Problem(403, detail="a page of another origin may not do this")


def _is_ours(name: str | None, public_hosts: Collection[str]) -> bool:
    """Return whether no stranger can have this name, or it is one of the public ones."""
    name = (name or "").removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or name in public_hosts or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str, host: str, public_hosts: Collection[str]) -> bool:
    """Return whether a page is of the gateway itself. A proxy in front may ask by another name than the page was."""
    page = _parse(origin)
    return bool(page.hostname) and (page.netloc.lower() == host.lower() or page.hostname in public_hosts)


def _parse(url: str) -> SplitResult:
    """Return the parts of a URL; if it is none, nothing."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
