"""Products and their prices: a cache-aside on Valkey. Stock is never cached."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
from opentelemetry.instrumentation.utils import suppress_instrumentation
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine, Row, select
from sqlalchemy.dialects.postgresql import insert

from services.inventory.models import Product

log = logging.getLogger(__name__)

CACHE_SECONDS = 60
PLENTY = 1_000_000

SHELVES = [
    ("TEA-ASSAM", "Assam, second flush", 540, PLENTY),
    ("TEA-DARJEELING", "Darjeeling, first flush", 890, PLENTY),
    ("TEA-EARL-GREY", "Earl Grey", 495, PLENTY),
    ("TEA-GENMAICHA", "Genmaicha", 620, PLENTY),
    ("TEA-LAPSANG", "Lapsang souchong", 710, PLENTY),
    ("TEA-SOLD-OUT", "Jasmine pearls, sold out", 1250, 0),
]


@dataclass(frozen=True)
class Price:
    """The price of one piece, in minor units of an ISO 4217 currency."""

    name: str
    amount: int
    currency: str


PRICE = TypeAdapter(Price)


def read_prices(engine: Engine, skus: Sequence[str]) -> dict[str, Price]:
    """Return the price of each SKU that exists, from the database."""
    with engine.begin() as db:
        rows = db.execute(
            select(Product.sku, Product.name, Product.amount, Product.currency).where(Product.sku.in_(skus))
        )
        return {row.sku: Price(row.name, row.amount, row.currency) for row in rows}


Reader = Callable[[Engine, Sequence[str]], dict[str, Price]]


class Catalogue:
    """Return prices by SKU, from the cache if it has them, otherwise from the database."""

    def __init__(self, engine: Engine, cache: redis.Redis, read: Reader = read_prices) -> None:
        self.engine = engine
        self.cache = cache
        self.read = read

    def prices(self, skus: Sequence[str]) -> dict[str, Price]:
        """Return the price of each SKU that exists. If the cache does not answer, this is slower, but not wrong."""
        found = self._cached(skus)
        missing = [sku for sku in skus if sku not in found]
        if missing:
            read = self.read(self.engine, missing)
            if read:
                self._remember(read)
                found |= read
        return found

    def products(self) -> Sequence[Row[tuple[str, str, int, str, int]]]:
        """Return every product with its remaining quantity, by name."""
        with self.engine.begin() as db:
            return db.execute(
                select(Product.sku, Product.name, Product.amount, Product.currency, Product.available).order_by(
                    Product.name
                )
            ).all()

    def _cached(self, skus: Sequence[str]) -> dict[str, Price]:
        try:
            values: Any = self.cache.mget([f"product:{sku}" for sku in skus])
        except redis.RedisError:
            log.warning("the cache does not answer: reading from the database")
            return {}
        try:
            return {
                sku: PRICE.validate_json(value, strict=True) for sku, value in zip(skus, values, strict=True) if value
            }
        except ValidationError:
            log.warning("the cache has a value that is not a price: reading from the database")
            return {}

    def _remember(self, prices: dict[str, Price]) -> None:
        try:
            with self.cache.pipeline(transaction=False) as pipeline:
                for sku, price in prices.items():
                    pipeline.set(f"product:{sku}", json.dumps(asdict(price)), ex=CACHE_SECONDS)
                pipeline.execute()
        except redis.RedisError:
            log.warning("the cache does not answer: nothing was remembered")


def stock_shelves(engine: Engine) -> None:
    """Insert the demonstration's products into an empty table; existing products are not changed."""
    rows = [
        {"sku": sku, "name": name, "amount": amount, "currency": "EUR", "available": available}
        for sku, name, amount, available in SHELVES
    ]
    with suppress_instrumentation(), engine.begin() as db:
        db.execute(insert(Product).values(rows).on_conflict_do_nothing())
