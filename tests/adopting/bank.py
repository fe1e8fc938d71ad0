"""The API of a bank. The bank traces it too; its spans only come to our receiver for the tests."""

from flask import Flask, request
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.post("/charges")
def charge() -> tuple[dict[str, str], int]:
    """Approve a card, with two exceptions."""
    card = request.get_json()["card"]
    if card == "tok_broken":
        return {"title": "The bank is broken"}, 500
    return {"status": "declined" if card == "tok_declined" else "approved"}, 200
