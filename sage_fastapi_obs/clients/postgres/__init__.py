"""Queries to PostgreSQL."""

from sage_fastapi_obs.clients.postgres.instrument import instrument_postgres

__all__ = ["instrument_postgres"]
