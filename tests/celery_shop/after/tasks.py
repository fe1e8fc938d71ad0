"""Tasks that the shop leaves to a worker."""

import os

import requests
from celery import Celery
from celery.exceptions import Retry
from celery.signals import task_retry, worker_process_init, worker_process_shutdown
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor

import telemetry

celery = Celery("shop", broker=os.environ["BROKER_URL"])
carrier = requests.Session()


def name_reason(reason: Retry, **_: object) -> None:
    trace.get_current_span().set_attribute("celery.retry.reason", type(reason.exc).__name__)


@worker_process_init.connect(weak=False)
def begin(**_: object) -> None:
    telemetry.configure("worker")
    telemetry.instrument_requests()
    CeleryInstrumentor().instrument()
    # After the instrumentation's own, which writes the text of the exception to the span.
    task_retry.connect(name_reason, weak=False)


@worker_process_shutdown.connect(weak=False)
def end(**_: object) -> None:
    telemetry.shutdown()


@celery.task(name="ship", autoretry_for=(requests.RequestException,), default_retry_delay=1, max_retries=3)
def ship(sku: str) -> None:
    carrier.get(f"{os.environ['CARRIER_URL']}/prices/{sku}", timeout=5).raise_for_status()
