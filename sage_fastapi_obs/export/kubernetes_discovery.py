"""How a Prometheus in Kubernetes finds every pod of a service without the operator, and the permission it needs for that."""

import re
from typing import Any

from sage_fastapi_obs.catalog.monitoring_programs import MONITORING_NAMESPACE
from sage_fastapi_obs.export.prometheus import ScrapeTarget

_ACCOUNT = "prometheus"
_LABEL = "__meta_kubernetes_pod_label_app_kubernetes_io_name"


def pods(target: ScrapeTarget) -> dict[str, Any]:
    """Have Prometheus ask Kubernetes for the pods. Behind the address of a Service each scrape would meet another one."""
    return {
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [target.namespace]}}],
        "relabel_configs": [
            {"source_labels": [_LABEL], "regex": re.escape(target.service).replace(r"\-", "-"), "action": "keep"},
            {
                "source_labels": ["__meta_kubernetes_pod_container_port_number"],
                "regex": str(target.port),
                "action": "keep",
            },
            # Pods that have ended keep their address for a while.
            {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Succeeded|Failed", "action": "drop"},
            {"target_label": "service", "replacement": target.service},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ],
    }


def permissions() -> list[dict[str, Any]]:
    """Return the account that Prometheus runs as, which may list pods."""
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": _ACCOUNT}}
    account = {"name": _ACCOUNT, "namespace": MONITORING_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {**role, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]},
        {
            **role,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", **account}],
        },
    ]
