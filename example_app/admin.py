"""A mounted app of its own; it is watched by the one it is mounted on."""

from fastapi import FastAPI
from loguru import logger

__all__ = ["create_app"]


def create_app() -> FastAPI:
    """Build the back office."""
    app = FastAPI(title="Back office")

    @app.get("/reports/{year}")
    async def report(year: int) -> dict[str, int]:
        logger.info("report drawn up for {}", year)
        return {"year": year, "orders": year % 100}

    return app
