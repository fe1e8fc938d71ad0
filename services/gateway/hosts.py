"""Check the names under which the gateway is called, and the calling pages: https://fetch.spec.whatwg.org/#origin-header.

A stranger's page can point its own name to this machine (DNS rebinding). The browser then takes the gateway for
that page's own server, and gives the page its answers. But it sends the name, in the header Host.
"""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from flask import Flask, request

from chassis.problems import Problem

READING = frozenset(("GET", "HEAD", "OPTIONS"))
HEALTH = frozenset(("healthz", "readyz", "startedz"))
"""Endpoints that an orchestrator calls, under any name."""


def install(app: Flask, public_hosts: Collection[str]) -> None:
    """Refuse requests for a name that is not in `public_hosts`, unless it is localhost or an address.

    Also refuse requests from a page of another origin, unless they only read.
    """

    @app.before_request
    def refuse_strangers() -> None:
        if request.endpoint in HEALTH:
            return
        host = request.headers.get("Host")
        # Only HTTP/1.0 allows no Host header, and no browser uses that.
        if host is not None and not _is_ours(_parse(f"//{host}").hostname, public_hosts):
            raise Problem(421, detail="this is not its name: use one of PUBLIC_HOSTS, localhost or an address")
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in READING and not _is_own(origin, host or "", public_hosts):
            raise Problem(403, detail="a page of another origin may not do this")


def _is_ours(name: str | None, public_hosts: Collection[str]) -> bool:
    """Return whether the name is public, or cannot belong to a stranger."""
    name = (name or "").removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or name in public_hosts or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str, host: str, public_hosts: Collection[str]) -> bool:
    """Return whether a page belongs to the gateway. A proxy in front may use another name than the page."""
    page = _parse(origin)
    return bool(page.hostname) and (page.netloc.lower() == host.lower() or page.hostname in public_hosts)


def _parse(url: str) -> SplitResult:
    """Return the parts of a URL, all empty if it is invalid."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
