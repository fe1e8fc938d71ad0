"""A browser may do little with any answer of the API."""

import pytest

from tests.house import House


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/products", 200), ("GET", "/nowhere", 404), ("DELETE", "/orders", 405), ("GET", "/healthz", 200)],
)
def test_an_answer_is_data_and_is_kept_nowhere(house: House, method: str, path: str, status: int) -> None:
    answer = house.session.request(method, house.url("gateway") + path, timeout=30)
    assert answer.status_code == status
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_file_of_the_pages_may_be_kept(house: House) -> None:
    answer = house.session.get(f"{house.url('gateway')}/assets/shop.js", timeout=30)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] != "no-store"
