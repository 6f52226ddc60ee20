"""What Kubernetes loads: deployments with probes, what the Prometheus operator scrapes and judges, and Helm values."""

import re
from collections.abc import Iterable
from typing import Any

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule
from sage_fastapi_obs.alert_rules.monitoring_health import MONITORING
from sage_fastapi_obs.catalog.monitoring_programs import MONITORING_NAMESPACE
from sage_fastapi_obs.catalog.services import APP_PORT, METRICS_PORT_NAME, Services, distinct, metrics_port, service_name
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export import alertmanager, environment, prometheus
from sage_fastapi_obs.export.all_rules import alerts, concerned, recordings
from sage_fastapi_obs.export.kubernetes_discovery import permissions, pods
from sage_fastapi_obs.export.yaml import dumped
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.sources import ENV_PREFIX

_FOLDER = "deploy/k8s"
_OPERATOR = "monitoring.coreos.com/v1"
_SECRET = "alertmanager-secrets"  # noqa: S105 - its name
"""Secret that the operator mounts into Alertmanager."""
TOKEN = "token"  # noqa: S105 - its name
"""Key of the token in its secret."""
_SCRAPED = {"monitoring": "enabled"}
"""Label of Services that are scraped."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
USER = 10_001
"""Nobody in particular, but not root."""
_PAUSE_SECONDS = 5
"""How long a pod goes on serving before the signal: until it gets no more requests, because then its server stops listening."""


def files(services: Services) -> dict[str, str]:
    """Return all files by their paths."""
    written = {
        "deployment": [part for one in distinct(services) for part in (_deployment(one), _service(one))],
        "service-monitor": _monitors(services),
        "prometheus-rules": _rules(services),
        "prometheus-values": [_prometheus_values()],
        "alertmanager-values": [_alertmanager_values(services)],
        "prometheus-config": [*permissions(), _map("prometheus-config", {"prometheus.yml": _config(services)})],
        "alert-rules": [_map("alert-rules", _rule_files(services))],
    }
    return {
        f"{_FOLDER}/{name}.yaml": dumped(*documents, comment=_COMMENTS.get(name, "")) for name, documents in written.items()
    }


_COMMENTS = {
    "deployment": "Credentials come from a secret, by the keys of secretKeyRef, such as token:\n"
    "kubectl create secret generic NAME-monitoring --from-literal=token=...",
    "prometheus-values": "For the chart prometheus-community/kube-prometheus-stack.",
    "alertmanager-values": f"For the chart prometheus-community/kube-prometheus-stack.\n"
    f"kubectl -n {MONITORING_NAMESPACE} create secret generic {_SECRET} "
    "--from-file=slack_webhook_url --from-file=pagerduty_routing_key",
    "prometheus-config": "For a Prometheus without its operator: mount it with alert-rules in rules/, and let it run as the\n"
    "service account prometheus. It finds pods by their label app.kubernetes.io/name, those of Prometheus, Alertmanager\n"
    f"and node-exporter in the namespace {MONITORING_NAMESPACE}, those of Fluent Bit in logging.",
    "alert-rules": "For a Prometheus without its operator.",
}


def _object_name(service: Settings) -> str:
    """Write a service's name as objects are called; raises `SettingsError` where it cannot be a label."""
    name = service_name(service)
    if not _LABEL.fullmatch(name):
        raise SettingsError(
            f"service.name={name!r} cannot be a label in Kubernetes: use letters, digits, dashes, dots, underscores"
        )
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _named(service: Settings) -> dict[str, Any]:
    version = re.sub(r"[^A-Za-z0-9._-]", "-", service.service.version)
    labels = {"app.kubernetes.io/name": service_name(service), "app.kubernetes.io/version": version, **_SCRAPED}
    return {"name": _object_name(service), "namespace": service.export.namespace, "labels": labels}


def _chosen(service: Settings) -> dict[str, str]:
    return {"app.kubernetes.io/name": service_name(service)}


def _ports(service: Settings) -> dict[str, int]:
    return {"http": APP_PORT, METRICS_PORT_NAME: metrics_port(service)}


def _deployment(service: Settings) -> dict[str, Any]:
    metadata = _named(service)
    scraped = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(metrics_port(service)),
        "prometheus.io/path": service.metrics.path,
    }
    pod = {"metadata": {"labels": metadata["labels"], "annotations": scraped}, "spec": _pod(service)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"replicas": 2, "selector": {"matchLabels": _chosen(service)}, "template": pod},
    }


def _pod(service: Settings) -> dict[str, Any]:
    return {
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 30,
        "containers": [_container(service)],
    }


def _container(service: Settings) -> dict[str, Any]:
    health = f"{service.monitoring.prefix}/health"
    # One port may have two names, but only once in a list of a container's ports.
    ports = {number: name for name, number in reversed(_ports(service).items())}
    return {
        "name": _object_name(service),
        "image": service.export.image or f"{_object_name(service)}:{service.service.version}",
        "ports": [{"name": name, "containerPort": number} for number, name in sorted(ports.items())],
        "env": _environment(service),
        "startupProbe": _probe(f"{health}/live", 2, 30),
        "livenessProbe": _probe(f"{health}/live", 10, 3),
        "readinessProbe": _probe(f"{health}/ready", 5, 2),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_PAUSE_SECONDS)]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _probe(path: str, period: int, failures: int) -> dict[str, Any]:
    asked = {"path": path, "port": "http"}
    return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def _environment(service: Settings) -> list[dict[str, Any]]:
    # Kubernetes would replace $(NAME).
    plain = {name: value.replace("$(", "$$(") for name, value in environment.variables(service).items()}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(_from_secret(service, name) for name in environment.credentials(service)),
    ]


def _from_secret(service: Settings, variable: str) -> dict[str, Any]:
    key = TOKEN if variable == environment.TOKEN else variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": _secret(service), "key": key}}}


def _service(service: Settings) -> dict[str, Any]:
    # The target by number: where both are one port, only one of its names is known to the container.
    ports = [{"name": name, "port": number, "targetPort": number} for name, number in _service_ports(service).items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(service),
        "spec": {"selector": _chosen(service), "ports": ports},
    }


def _service_ports(service: Settings) -> dict[str, int]:
    ports = _ports(service)
    return {METRICS_PORT_NAME: ports["http"]} if ports["http"] == ports[METRICS_PORT_NAME] else ports


def _monitors(services: Services) -> list[dict[str, Any]]:
    """Let the services of a namespace be scraped alike, as far as they can be."""
    found: dict[tuple[str, str, str], list[Settings]] = {}
    for one in services:
        found.setdefault((one.export.namespace, one.metrics.path, _token_secret(one)), []).append(one)
    spaces = [namespace for namespace, _, _ in found]
    return [_monitor(some, is_alone=spaces.count(namespace) == 1) for (namespace, _, _), some in found.items()]


def _monitor(services: Services, *, is_alone: bool) -> dict[str, Any]:
    """Describe how services with one path and one token are scraped; `is_alone`: they are all of their namespace."""
    first, key = services[0], "app.kubernetes.io/name"
    namespace = first.export.namespace
    some = {} if is_alone else {"matchExpressions": [{"key": key, "operator": "In", "values": [*map(service_name, services)]}]}
    name = f"{_short(namespace)}-services" if is_alone else f"{_object_name(first)}-service"
    return {
        "apiVersion": _OPERATOR,
        "kind": "ServiceMonitor",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"jobLabel": key, "selector": {"matchLabels": _SCRAPED, **some}, "endpoints": [_endpoint(first)]},
    }


def _endpoint(service: Settings) -> dict[str, Any]:
    # The operator calls a target as its object in Kubernetes is called, which may not be quite the name of the service.
    called = {"sourceLabels": ["__meta_kubernetes_service_label_app_kubernetes_io_name"], "targetLabel": "service"}
    copied = {"sourceLabels": ["route"], "regex": "(.+)", "targetLabel": "path"}
    secret = _token_secret(service)
    return {
        "port": METRICS_PORT_NAME,
        "interval": "30s",
        "path": service.metrics.path,
        **({"authorization": {"credentials": {"name": secret, "key": TOKEN}}} if secret else {}),
        "relabelings": [called],
        "metricRelabelings": [copied],
    }


def _token_secret(service: Settings) -> str:
    """Name the secret with the token of a service's pages; empty where none is asked for."""
    return _secret(service) if service.monitoring.access == "token" else ""


def _secret(service: Settings) -> str:
    return f"{_object_name(service)}-monitoring"


def _short(namespace: str) -> str:
    return namespace.removesuffix("-prod")


def _rules(services: Services) -> list[dict[str, Any]]:
    """Put the rules into the namespace of the services they are about; the operator reads those of all."""
    recorded = recordings(services)
    places: dict[str, list[ExportedRule]] = {MONITORING_NAMESPACE: []} if recorded else {}
    for alert in _beside_the_chart(alerts(services)):
        spaces = {one.export.namespace for one in concerned(alert, services)}
        places.setdefault(spaces.pop() if len(spaces) == 1 else MONITORING_NAMESPACE, []).append(alert)
    return [
        _rule(namespace, prometheus.grouped(some, recorded if namespace == MONITORING_NAMESPACE else [], services))
        for namespace, some in sorted(places.items())
    ]


def _beside_the_chart(found: Iterable[ExportedRule]) -> list[ExportedRule]:
    """Leave out what kube-prometheus-stack brings itself: its programs have other labels, and rules of their own."""
    return [alert for alert in found if alert.group != MONITORING]


def _rule(namespace: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    metadata = {"name": f"{_short(namespace)}-rules", "namespace": namespace}
    return {"apiVersion": _OPERATOR, "kind": "PrometheusRule", "metadata": metadata, "spec": {"groups": groups}}


def _prometheus_values() -> dict[str, Any]:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
    spec = {
        "serviceMonitorSelectorNilUsesHelmValues": False,
        "podMonitorSelectorNilUsesHelmValues": False,
        "ruleSelectorNilUsesHelmValues": False,
        "retention": "30d",
        "scrapeInterval": prometheus.INTERVAL,
        "evaluationInterval": prometheus.INTERVAL,
        "enableFeatures": ["exemplar-storage"],
        "storageSpec": {"volumeClaimTemplate": {"spec": claim}},
        "additionalScrapeConfigs": [_pods()],
    }
    return {"prometheus": {"prometheusSpec": spec}}


def _pods() -> dict[str, Any]:
    """Scrape pods that ask for it by annotation, at the port and path that they name."""
    annotation = "__meta_kubernetes_pod_annotation_prometheus_io"
    address = {
        "source_labels": ["__meta_kubernetes_pod_ip", f"{annotation}_port"],
        "regex": r"(.+);(\d+)",
        "replacement": "$1:$2",
        "target_label": "__address__",
    }
    return {
        "job_name": "kubernetes-pods",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": [
            {"source_labels": [f"{annotation}_scrape"], "regex": "true", "action": "keep"},
            # Those that a ServiceMonitor finds would be scraped twice.
            {"source_labels": ["__meta_kubernetes_pod_label_monitoring"], "regex": "enabled", "action": "drop"},
            {"source_labels": [f"{annotation}_path"], "regex": "(.+)", "target_label": "__metrics_path__"},
            address,
            {
                "source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
                "regex": "(.+)",
                "target_label": "service",
            },
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ],
    }


def _alertmanager_values(services: Services) -> dict[str, Any]:
    config = alertmanager.configuration(services, secrets=f"/etc/alertmanager/secrets/{_SECRET}")
    # The chart names a receiver of its own in its defaults, which Helm would lay under ours.
    return {"alertmanager": {"config": config, "alertmanagerSpec": {"secrets": [_SECRET]}}}


def _config(services: Services) -> str:
    return dumped(prometheus.configuration(services, pods))


def _rule_files(services: Services) -> dict[str, str]:
    written = prometheus.files(services)
    start = "prometheus/rules/"
    return {path.removeprefix(start): text for path, text in written.items() if path.startswith(start)}


def _map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": MONITORING_NAMESPACE},
        "data": data,
    }
