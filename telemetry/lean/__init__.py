from .sqlalchemy import instrument_engine

__all__ = ["instrument_engine"]
