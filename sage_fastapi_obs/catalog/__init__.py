"""Every metric as data: the single definition that instruments, rules, dashboards and documents are made from."""

from sage_fastapi_obs.catalog.http import (
    HTTP_METRICS,
    KNOWN_METHODS,
    METHODS,
    OTHER_METHOD,
    REQUEST_METRICS,
    UNMATCHED,
    WEBSOCKET_METRICS,
    known_method,
)
from sage_fastapi_obs.catalog.internal import (
    ALERT_METRICS,
    HELD_LINES,
    LOG_METRICS,
    OPERATION_METRICS,
    SCRAPE_METRICS,
    SELF_METRICS,
    SPAN_METRICS,
)
from sage_fastapi_obs.catalog.metric import OVERFLOW, Alias, AliasGroup, CountCollector, Metric, build, register
from sage_fastapi_obs.catalog.runtime import CLIENT_METRICS, RUNTIME_METRICS
from sage_fastapi_obs.clients.grpc_metrics import GRPC_METRICS
from sage_fastapi_obs.clients.metrics import DEPENDENCY_METRICS
from sage_fastapi_obs.packs.business.metrics import BUSINESS_METRICS
from sage_fastapi_obs.packs.result.metrics import RESULT_METRICS
from sage_fastapi_obs.packs.sage.metrics import SAGE_METRICS
from sage_fastapi_obs.packs.security.metrics import SECURITY_METRICS
from sage_fastapi_obs.packs.textbook.metrics import TEXTBOOK_METRICS

__all__ = [
    "ALERT_METRICS",
    "ALWAYS",
    "CATALOG",
    "HELD_LINES",
    "HTTP_METRICS",
    "KNOWN_METHODS",
    "LOG_METRICS",
    "METHODS",
    "OPERATION_METRICS",
    "OTHER_METHOD",
    "OVERFLOW",
    "PACKS",
    "REQUEST_METRICS",
    "RUNTIME_METRICS",
    "SCRAPE_METRICS",
    "SELF_METRICS",
    "SPAN_METRICS",
    "UNMATCHED",
    "WEBSOCKET_METRICS",
    "Alias",
    "AliasGroup",
    "CountCollector",
    "Metric",
    "build",
    "known_method",
    "register",
]

_SAGE_CORE = frozenset({"sage_handshakes_completed_total", "sage_sessions_active", "sage_handshake_duration_seconds"})

PACKS: dict[str, tuple[Metric, ...]] = {
    "http": (*REQUEST_METRICS, *HTTP_METRICS, *WEBSOCKET_METRICS),
    "runtime": (*CLIENT_METRICS, *RUNTIME_METRICS),
    "sage": SAGE_METRICS,
    "sage-core": tuple(metric for metric in SAGE_METRICS if metric.name in _SAGE_CORE),
    "textbook": TEXTBOOK_METRICS,
    "security": SECURITY_METRICS,
    "dependencies": DEPENDENCY_METRICS,
    "grpc": GRPC_METRICS,
    "result": RESULT_METRICS,
    "business": BUSINESS_METRICS,
}
"""Metrics that are switched on together, by the name that `metrics.packs` knows; `sage-core` is the first part of `sage`."""
ALWAYS = (*SELF_METRICS, *LOG_METRICS, *SPAN_METRICS, *ALERT_METRICS, *OPERATION_METRICS)
"""Metrics that need no pack."""
CATALOG = (*(metric for pack, metrics in PACKS.items() if pack != "sage-core" for metric in metrics), *ALWAYS)
"""All of them."""
