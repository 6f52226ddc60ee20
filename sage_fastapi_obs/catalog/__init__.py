"""Every metric as data: the single definition that instruments, rules, dashboards and documents are made from."""

from sage_fastapi_obs.catalog.all_metrics import ALWAYS, CATALOG, PACKS
from sage_fastapi_obs.catalog.http import (
    HTTP_METRICS,
    KNOWN_METHODS,
    OTHER_METHOD,
    REQUEST_LABELS,
    REQUEST_METRICS,
    SLOW_REQUESTS,
    UNMATCHED,
    WEBSOCKET_METRICS,
    RequestLabel,
    known_method,
)
from sage_fastapi_obs.catalog.internal import (
    ALERT_METRICS,
    HELD_LINES,
    LOG_METRICS,
    OPERATION_METRICS,
    PUSH_METRICS,
    RETENTION_METRIC,
    SCRAPE_METRICS,
    SELF_METRICS,
    SPAN_METRICS,
    STORE_METRIC,
)
from sage_fastapi_obs.catalog.metric import OLDER_WORDS, OVERFLOW, Alias, AliasGroup, CountCollector, Metric, build, register
from sage_fastapi_obs.catalog.runtime import RUNTIME_METRICS

__all__ = [
    "ALERT_METRICS",
    "ALWAYS",
    "CATALOG",
    "HELD_LINES",
    "HTTP_METRICS",
    "KNOWN_METHODS",
    "LOG_METRICS",
    "OLDER_WORDS",
    "OPERATION_METRICS",
    "OTHER_METHOD",
    "OVERFLOW",
    "PACKS",
    "PUSH_METRICS",
    "REQUEST_LABELS",
    "REQUEST_METRICS",
    "RETENTION_METRIC",
    "RUNTIME_METRICS",
    "SCRAPE_METRICS",
    "SELF_METRICS",
    "SLOW_REQUESTS",
    "SPAN_METRICS",
    "STORE_METRIC",
    "UNMATCHED",
    "WEBSOCKET_METRICS",
    "Alias",
    "AliasGroup",
    "CountCollector",
    "Metric",
    "RequestLabel",
    "build",
    "known_method",
    "register",
]
