"""A basket whose price is asked for again if prices is overloaded."""

import os
from contextvars import ContextVar

import requests
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.trace import Span

from tests.gallery import stock

resend_count: ContextVar[int] = ContextVar("resend_count", default=0)


def say_resend_count(span: Span, _request: requests.PreparedRequest) -> None:
    if resend_count.get():
        span.set_attribute("http.request.resend_count", resend_count.get())


stock.configure(request_hook=say_resend_count)
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
session = requests.Session()


@app.get("/basket")
def basket() -> dict[str, int]:
    return price("TEA").json()


def price(sku: str) -> requests.Response:
    for attempt in range(3):
        resend_count.set(attempt)
        answer = session.get(f"{os.environ['PRICES_URL']}/prices/{sku}", timeout=10)
        if answer.status_code != 503:
            break
    return answer
