"""The API of a bank. It is traced as well, by the bank; that its spans come to our receiver is for the tests' sake."""

from flask import Flask, request
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)


@app.post("/charges")
def charge() -> tuple[dict[str, str], int]:
    """Approve a card, but for two."""
    card = request.get_json()["card"]
    if card == "tok_broken":
        return {"title": "The bank is broken"}, 500
    return {"status": "declined" if card == "tok_declined" else "approved"}, 200
