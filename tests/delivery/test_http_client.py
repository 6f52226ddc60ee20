"""Clients for a single exchange: what is expensive in them is made once."""

import asyncio
from pathlib import Path

import httpx
import pytest

from sage_fastapi_obs.delivery import http_client as clients


def test_clients_share_what_they_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of several event loops; another certificate is trusted anew, and a missing one is an error each time."""
    made = []
    make = httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(make()) or made[-1])
    clients._tls_context.cache_clear()

    async def use() -> None:
        async with clients.http_client(1.0):
            pass

    for _ in range(3):
        asyncio.run(use())
    assert len(made) == 1
    with monkeypatch.context() as changed:
        changed.setenv("SSL_CERT_FILE", str(Path(__file__).with_name("nowhere.pem")))
        for _ in range(2):
            with pytest.raises(OSError, match="No such file"):
                asyncio.run(use())
    asyncio.run(use())
    assert len(made) == 1
    clients._tls_context.cache_clear()
