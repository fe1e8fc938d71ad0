"""Tasks that the shop leaves to a worker."""

import os

import requests
from celery import Celery

celery = Celery("shop", broker=os.environ["BROKER_URL"])
carrier = requests.Session()


@celery.task(name="ship", autoretry_for=(requests.RequestException,), default_retry_delay=1, max_retries=3)
def ship(sku: str) -> None:
    carrier.get(f"{os.environ['CARRIER_URL']}/prices/{sku}", timeout=5).raise_for_status()
