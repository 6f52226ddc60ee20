"""Real servers, one of each for all tests of a process; tests that kill one have their own."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability as Stability
from servers import KafkaBroker, Postgres, Server, redis_server, running
from support import Watched


@pytest.fixture(scope="session")
def redis_at() -> Iterator[Server]:
    """Run Redis."""
    with running(redis_server()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_at() -> Iterator[Postgres]:
    """Run PostgreSQL."""
    with running(Postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_at() -> Iterator[KafkaBroker]:
    """Run the mock broker of librdkafka."""
    with running(KafkaBroker()) as broker:
        yield broker


@pytest.fixture
def stable_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenTelemetry's instrumentations use the names that are stable, which they decide once in a process."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "database,http")
    monkeypatch.setattr(Stability, "_initialized", False)
    monkeypatch.setattr(Stability, "_OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING", {})


@pytest.fixture
async def watched(watch: Callable[..., Watched]) -> AsyncIterator[Watched]:
    """Run an observability; at the end, nothing of it has failed."""
    made = watch()
    async with made.obs:
        yield made
    assert made.obs.internal_errors.counts == {}


@pytest.fixture(autouse=True)
def with_insight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests say why they are slow."""
    monkeypatch.setattr(Watched, "with_insight", True)
