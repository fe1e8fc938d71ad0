"""A shop that reads its stock from PostgreSQL. Its engine is made first, as in a module that others import."""

import os

from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from sqlalchemy import create_engine, text

from tests.gallery import stock

engine = create_engine(os.environ["DATABASE_URL"])

stock.configure()
app = Flask(__name__)
FlaskInstrumentor().instrument_app(app)
SQLAlchemyInstrumentor().instrument()


@app.get("/stock")
def in_stock() -> dict[str, int]:
    with engine.connect() as connection:
        return {"products": connection.scalar(text("SELECT count(*) FROM pg_class"))}
