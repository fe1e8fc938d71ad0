"""Authorizing a payment, once for each key."""

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

# The token of a test card, not a password of ours.
DECLINED_TOKEN = "tok_declined"  # noqa: S105  # nosec B105
KEPT = 100_000
"""The number of authorizations kept; older ones are dropped, so that the process does not grow for ever."""


class KeyReused(Exception):
    """The key was used before, with another request."""


@dataclass(frozen=True)
class Request:
    """A requested payment: an amount in minor units, and the token to charge."""

    amount: int
    currency: str
    token: str


@dataclass
class Authorization:
    """The answer to a request, and the headers that came with it."""

    request: Request
    status: str
    id: str = field(default_factory=lambda: f"auth_{uuid.uuid4().hex}")
    received_headers: list[list[str]] = field(default_factory=list)


class Ledger:
    """Every authorization, by its key."""

    def __init__(self) -> None:
        self.authorizations: OrderedDict[str, Authorization] = OrderedDict()
        self._lock = threading.Lock()

    def authorize(self, key: str, request: Request, headers: list[str]) -> tuple[Authorization, bool]:
        """Return the authorization under this key, and whether it is new. Raises KeyReused."""
        with self._lock:
            known = self.authorizations.get(key)
            if known is None:
                status = "declined" if request.token == DECLINED_TOKEN else "authorized"
                authorization = self.authorizations[key] = Authorization(request, status)
            elif known.request != request:
                raise KeyReused
            else:
                authorization = known
            authorization.received_headers.append(headers)
            if len(self.authorizations) > KEPT:
                self.authorizations.popitem(last=False)
            return authorization, known is None
