"""A small service that does things that the house's services do not: any requested statement, on real databases."""

import json
import os

import redis
from flask import Flask, request
from sqlalchemy import create_engine, text

import telemetry
from chassis import deadline
from chassis.client import Client


def create_app() -> Flask:
    """Return the app."""
    telemetry.configure("odd")
    app = Flask("odd")
    telemetry.instrument_app(app)
    telemetry.instrument_requests()
    telemetry.instrument_redis()
    engine = create_engine(os.environ["DATABASE_URL"], poolclass=telemetry.WaitTracingPool, pool_logging_name="odd")
    telemetry.instrument_engine(engine)
    valkey = redis.Redis.from_url(os.environ["VALKEY_URL"])

    @app.get("/")
    def index() -> str:
        return ""

    @app.post("/statement")
    def statement() -> str:
        with engine.connect() as connection:
            connection.exec_driver_sql(request.get_data(as_text=True))
        return ""

    @app.post("/select")
    def select() -> str:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return ""

    @app.post("/pipeline")
    def pipeline() -> str:
        commands = json.loads(request.get_data())
        with valkey.pipeline(transaction="transaction" in request.args) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            pipeline.execute()
        return ""

    @app.post("/call")
    def call() -> str:
        deadline.start(0.3)
        Client("the third party", request.get_data(as_text=True), internal=False).call("GET", "/?token=planted")
        return ""

    return app
