"""Calls that are told by hand."""

import asyncio

import pytest
from opentelemetry.trace import SpanKind
from support import Watched

from sage_fastapi_obs.clients.track import track_dependency


async def test_any_system_is_told(watched: Watched):
    """As a block or a decorator: a CLIENT span, a count and a time, under the names given."""

    @track_dependency("payments", "charge", currency="EUR")
    async def charge(amount: int) -> int:
        return amount

    assert await charge(5) == 5
    with pytest.raises(ValueError, match="no"), track_dependency("payments", "refund"):
        raise ValueError("no")
    async with track_dependency("payments", "charge"):
        await asyncio.sleep(0)
    first, refund, _ = watched.spans
    assert (first.name, first.kind) == ("payments charge", SpanKind.CLIENT)
    assert dict(first.attributes) == {"peer.service": "payments", "currency": "EUR"}
    assert refund.attributes["error.type"] == "ValueError"
    labels = {"system": "payments", "operation": "charge"}
    assert watched.value("dependency_calls_total", **labels, status="success") == 2
    assert watched.value("dependency_call_duration_seconds_count", **labels) == 2
    assert watched.value("dependency_calls_total", system="payments", operation="refund", status="failure") == 1


@pytest.mark.parametrize(
    ("system", "operation", "name", "labels"),
    [
        ("redis", "GET", "redis_commands_total", {"command": "GET"}),
        ("postgres", "select", "pg_queries_total", {"operation": "select"}),
        ("postgresql", "vacuum", "pg_queries_total", {"operation": "other"}),
        ("Kafka", "orders", "kafka_messages_produced_total", {"topic": "orders"}),
    ],
)
async def test_systems_with_metrics_of_their_own_count_there(
    watched: Watched, system: str, operation: str, name: str, labels: dict[str, str]
):
    """A call told by hand counts with those of watched clients."""
    with track_dependency(system, operation):
        pass
    assert watched.value(name, **labels, status="success") == 1
    assert not watched.series("dependency_calls_total")
