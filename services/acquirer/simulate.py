"""Faults of the acquirer that a request can ask for, as the sandboxes of payment companies do."""

import threading
import time
from collections import Counter
from collections.abc import Callable

from flask import Response, jsonify

SLOW_SECONDS = 1.0
TOO_LONG_SECONDS = 3.0
ERRORS_BEFORE_RECOVERY = 2

_attempts: Counter[str] = Counter()
_lock = threading.Lock()


def _be_slow(_key: str) -> None:
    time.sleep(SLOW_SECONDS)


def _fail_twice(key: str) -> Response | None:
    with _lock:
        _attempts[key] += 1
        failing = _attempts[key] <= ERRORS_BEFORE_RECOVERY
        if not failing:
            del _attempts[key]
    return _unavailable() if failing else None


def _never_answer(_key: str) -> Response:
    # Longer than anybody waits, but not much longer, since there are only a few threads.
    time.sleep(TOO_LONG_SECONDS)
    return _unavailable()


def _unavailable() -> Response:
    response = jsonify(error="try again later")
    response.status_code = 503
    return response


SIMULATIONS: dict[str, Callable[[str], Response | None]] = {
    "slow": _be_slow,
    "errors-then-recovers": _fail_twice,
    "timeout": _never_answer,
}
