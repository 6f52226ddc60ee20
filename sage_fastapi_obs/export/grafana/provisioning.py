"""Where Grafana finds its data and its dashboards, and how one leads to the other."""

from collections.abc import Iterable
from typing import Any

from sage_fastapi_obs.export.yaml import dumped

_TRACE_URL = "${__value.raw}"
_TRACE_ID = r'"trace_id":"(\w+)"'

_PROMETHEUS: dict[str, Any] = {
    "name": "Prometheus",
    "uid": "prometheus",
    "type": "prometheus",
    "access": "proxy",
    "url": "http://prometheus:9090",
    "isDefault": True,
    "jsonData": {
        "httpMethod": "POST",
        # The interval of scrapes: the shortest that $__rate_interval builds on.
        "timeInterval": "15s",
        "exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": "jaeger", "urlDisplayLabel": "Trace"}],
    },
}
_LOKI: dict[str, Any] = {
    "name": "Loki",
    "uid": "loki",
    "type": "loki",
    "access": "proxy",
    "url": "http://loki:3100",
    "jsonData": {
        "maxLines": 1000,
        "derivedFields": [
            {
                "name": "trace",
                "matcherType": "regex",
                "matcherRegex": _TRACE_ID,
                "datasourceUid": "jaeger",
                "url": _TRACE_URL,
                "urlDisplayLabel": "Trace",
            }
        ],
    },
}
_JAEGER: dict[str, Any] = {
    "name": "Jaeger",
    "uid": "jaeger",
    "type": "jaeger",
    "access": "proxy",
    "url": "http://jaeger:16686",
    "jsonData": {
        "tracesToLogsV2": {
            "datasourceUid": "loki",
            "spanStartTimeShift": "-1m",
            "spanEndTimeShift": "1m",
            "tags": [{"key": "service.name", "value": "service"}],
            "filterByTraceID": False,
            "customQuery": True,
            "query": '{${__tags}} |= "${__trace.traceId}"',
        },
        "tracesToMetrics": {
            "datasourceUid": "prometheus",
            "spanStartTimeShift": "-5m",
            "spanEndTimeShift": "5m",
            "tags": [{"key": "service.name", "value": "service"}],
            "queries": [
                {"name": "Request rate", "query": "sum by (route) (rate(http_requests_total{$__tags}[5m]))"},
                {
                    "name": "p95",
                    "query": "histogram_quantile(0.95, "
                    "sum by (route, le) (rate(http_request_duration_seconds_bucket{$__tags}[5m])))",
                },
            ],
        },
        "nodeGraph": {"enabled": True},
    },
}
_ELASTICSEARCH: dict[str, Any] = {
    "name": "Elasticsearch",
    "uid": "elasticsearch",
    "type": "elasticsearch",
    "access": "proxy",
    "url": "http://elasticsearch:9200",
    "jsonData": {
        "index": "ai-textbook-*",
        "timeField": "@timestamp",
        "logMessageField": "message",
        "logLevelField": "level",
        "dataLinks": [{"field": "trace_id", "datasourceUid": "jaeger", "url": _TRACE_URL, "urlDisplayLabel": "Trace"}],
    },
}
_FOLDER = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "sage-fastapi-obs",
            "folder": "Observability",
            "type": "file",
            "disableDeletion": True,
            "allowUiUpdates": False,
            "updateIntervalSeconds": 30,
            "options": {"path": "/var/lib/grafana/dashboards"},
        }
    ],
}


def provisioning_files() -> dict[str, str]:
    """Return data sources, linked from exemplar to trace to lines, and the folder of dashboards; texts by path."""
    sources = {"apiVersion": 1, "prune": True, "datasources": [_PROMETHEUS, _LOKI, _JAEGER, _ELASTICSEARCH]}
    return {
        "grafana/provisioning/datasources/stack.yml": _text(sources),
        "grafana/provisioning/dashboards/folder.yml": _text(_FOLDER),
    }


def kustomization(boards: Iterable[str]) -> str:
    """Write what makes a ConfigMap of each dashboard, by its name; the chart kube-prometheus-stack loads those with a label."""
    maps = [{"name": f"dashboard-{name}", "files": [f"dashboards/{name}.json"]} for name in boards]
    return dumped(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "monitoring",
            "generatorOptions": {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}},
            "configMapGenerator": maps,
        },
        # An annotation with all that was applied, as kubectl keeps it otherwise, is too small for a dashboard.
        comment="kubectl apply --server-side -k grafana",
    )


def _text(content: dict[str, Any]) -> str:
    """Write `$` twice: provisioning would replace `$name` by the environment."""
    return dumped(content).replace("$", "$$")
