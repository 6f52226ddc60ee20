"""What Kubernetes loads: deployments with probes, what the Prometheus operator scrapes and judges, and Helm values."""

from typing import Any

from sage_fastapi_obs.export import alertmanager, prometheus
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.rules import alerts, concerned, recordings
from sage_fastapi_obs.export.services import METRICS_PORT_NAME, Services
from sage_fastapi_obs.export.yaml import dumped
from sage_fastapi_obs.settings import Settings

__all__ = ["files"]

FOLDER = "deploy/k8s"
MONITORING = "monitoring"
"""Namespace of Prometheus and Alertmanager, and of rules that are about services of several namespaces."""
OPERATOR = "monitoring.coreos.com/v1"
SECRET = "alertmanager-secrets"
"""Secret that the operator mounts into Alertmanager."""
SCRAPED = {"monitoring": "enabled"}
"""Label of Services that are scraped."""
USER = 10_001
"""Nobody in particular, but not root."""


def files(services: Services) -> dict[str, str]:
    """Return all files by their paths."""
    written = {
        "deployment": [part for one in of.distinct(services) for part in (_deployment(one), _service(one))],
        "service-monitor": _monitors(services),
        "prometheus-rules": _rules(services),
        "prometheus-values": [_prometheus_values()],
        "alertmanager-values": [_alertmanager_values(services)],
        "prometheus-config": [_map("prometheus-config", {"prometheus.yml": _config(services)})],
        "alert-rules": [_map("alert-rules", _rule_files(services))],
    }
    return {f"{FOLDER}/{name}.yaml": dumped(*documents, comment=_COMMENTS.get(name, "")) for name, documents in written.items()}


_COMMENTS = {
    "prometheus-values": "For the chart prometheus-community/kube-prometheus-stack.",
    "alertmanager-values": f"For the chart prometheus-community/kube-prometheus-stack.\n"
    f"kubectl -n {MONITORING} create secret generic {SECRET} --from-file=slack_webhook_url --from-file=pagerduty_routing_key",
    "prometheus-config": "For a Prometheus without its operator; mount it with alert-rules in rules/.",
    "alert-rules": "For a Prometheus without its operator.",
}


def _named(service: Settings) -> dict[str, Any]:
    name = of.name(service)
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/version": service.service.version, **SCRAPED}
    return {"name": name, "namespace": service.export.namespace, "labels": labels}


def _chosen(service: Settings) -> dict[str, str]:
    return {"app.kubernetes.io/name": of.name(service)}


def _ports(service: Settings) -> dict[str, int]:
    return {"http": of.port(service), METRICS_PORT_NAME: of.metrics_port(service)}


def _deployment(service: Settings) -> dict[str, Any]:
    metadata = _named(service)
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(of.metrics_port(service)), "prometheus.io/path": service.metrics.path}
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
        "name": of.name(service),
        "image": service.export.image or f"{of.name(service)}:{service.service.version}",
        "ports": [{"name": name, "containerPort": number} for number, name in sorted(ports.items())],
        "env": [{"name": name, "value": value} for name, value in _environment(service).items()],
        "startupProbe": _probe(f"{health}/live", 2, 30),
        "livenessProbe": _probe(f"{health}/live", 10, 3),
        "readinessProbe": _probe(f"{health}/ready", 5, 2),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def _probe(path: str, period: int, failures: int) -> dict[str, Any]:
    asked = {"path": path, "port": "http"}
    return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def _environment(service: Settings) -> dict[str, str]:
    return {
        "SERVICE_NAME": of.name(service),
        "APP_ENV": service.service.environment,
        "APP_VERSION": service.service.version,
        "SAGE_OBS_METRICS__PACKS": ",".join(service.metrics.packs),
        "SAGE_OBS_METRICS__PORT": str(service.metrics.port),
        "SAGE_OBS_MONITORING__ACCESS": service.monitoring.access,
    }


def _service(service: Settings) -> dict[str, Any]:
    # The target by number: where both are one port, only one of its names is known to the container.
    ports = [{"name": name, "port": number, "targetPort": number} for name, number in _service_ports(service).items()]
    return {"apiVersion": "v1", "kind": "Service", "metadata": _named(service), "spec": {"selector": _chosen(service), "ports": ports}}


def _service_ports(service: Settings) -> dict[str, int]:
    ports = _ports(service)
    return {METRICS_PORT_NAME: ports["http"]} if ports["http"] == ports[METRICS_PORT_NAME] else ports


def _by_namespace(services: Services) -> dict[str, list[Settings]]:
    found: dict[str, list[Settings]] = {}
    for one in services:
        found.setdefault(one.export.namespace, []).append(one)
    return found


def _monitors(services: Services) -> list[dict[str, Any]]:
    return [_monitor(namespace, path, some) for namespace, some in _by_namespace(services).items() for path in [some[0].metrics.path]]


def _monitor(namespace: str, path: str, services: Services) -> dict[str, Any]:
    copied = {"sourceLabels": ["route"], "regex": "(.+)", "targetLabel": "path"}
    scraped = {"port": METRICS_PORT_NAME, "interval": "30s", "path": path, "metricRelabelings": [copied]}
    return {
        "apiVersion": OPERATOR,
        "kind": "ServiceMonitor",
        "metadata": {"name": f"{_short(namespace)}-services", "namespace": namespace},
        "spec": {"jobLabel": "app.kubernetes.io/name", "selector": {"matchLabels": SCRAPED}, "endpoints": [scraped]},
    }


def _short(namespace: str) -> str:
    return namespace.removesuffix("-prod")


def _rules(services: Services) -> list[dict[str, Any]]:
    """Put the rules into the namespace of the services they are about; the operator reads those of all."""
    places: dict[str, set[str]] = {}
    for alert in alerts(services):
        spaces = {one.export.namespace for one in concerned(alert, services)}
        places.setdefault(spaces.pop() if len(spaces) == 1 else MONITORING, set()).add(alert.name)
    if recordings(services):
        places.setdefault(MONITORING, set())
    return [_rule(namespace, some, services) for namespace, some in sorted(places.items())]


def _rule(namespace: str, some: set[str], services: Services) -> dict[str, Any]:
    def stays(entry: dict[str, Any]) -> bool:
        return entry["alert"] in some if "alert" in entry else namespace == MONITORING

    groups = [{**group, "rules": [*filter(stays, group["rules"])]} for group in prometheus.rule_groups(services)]
    return {
        "apiVersion": OPERATOR,
        "kind": "PrometheusRule",
        "metadata": {"name": f"{_short(namespace)}-rules", "namespace": namespace},
        "spec": {"groups": [group for group in groups if group["rules"]]},
    }


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
            {"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "regex": "(.+)", "target_label": "service"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ],
    }


def _alertmanager_values(services: Services) -> dict[str, Any]:
    config = alertmanager.configuration(services, secrets=f"/etc/alertmanager/secrets/{SECRET}")
    # The chart names a receiver of its own in its defaults, which Helm would lay under ours.
    return {"alertmanager": {"config": config, "alertmanagerSpec": {"secrets": [SECRET]}}}


def _config(services: Services) -> str:
    return dumped(prometheus.configuration(services, alertmanager=f"alertmanager.{MONITORING}:9093"))


def _rule_files(services: Services) -> dict[str, str]:
    written = prometheus.files(services)
    start = "prometheus/rules/"
    return {path.removeprefix(start): text for path, text in written.items() if path.startswith(start)}


def _map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": MONITORING}, "data": data}
