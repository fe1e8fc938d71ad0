"""A shop whose every request is traced."""

from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

from tests.gallery import stock

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)


@app.get("/baskets/<int:number>")
def basket(number: int) -> dict[str, int]:
    return {"number": number}
