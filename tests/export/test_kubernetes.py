"""Manifests: the published schemas of Kubernetes take them, and what they say of a service is what it does."""

from typing import Any

import kubernetes_validate
import pytest
import yaml
from demo import ROOT, SERVICES, service

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export import alertmanager, kubernetes, prometheus
from sage_fastapi_obs.export.all_rules import alerts

FILES = {
    path.removeprefix("deploy/k8s/").removesuffix(".yaml"): [*yaml.safe_load_all(text)]
    for path, text in kubernetes.files(SERVICES).items()
}
BUILT_IN = [(name, document) for name in ("deployment", "prometheus-config", "alert-rules") for document in FILES[name]]


def exported(*services: Any) -> dict[str, list[Any]]:
    files = kubernetes.files(services)
    return {path.removeprefix("deploy/k8s/").removesuffix(".yaml"): [*yaml.safe_load_all(text)] for path, text in files.items()}


@pytest.mark.parametrize(
    "document",
    [document for _, document in BUILT_IN],
    ids=[f"{document['kind']} {document['metadata']['name']}" for _, document in BUILT_IN],
)
def test_kubernetes_takes_its_own_kinds(document: dict[str, Any]):
    """Deployments, services and config maps meet the strict schema of the newest Kubernetes, which refuses unknown keys."""
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_ports_are_found_by_their_names():
    """What a monitor and a probe refer to by name, the service and the container have."""
    for deployment, serving, monitor in zip(
        FILES["deployment"][::2], FILES["deployment"][1::2], FILES["service-monitor"], strict=True
    ):
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        assert {one["name"]: one["containerPort"] for one in container["ports"]} == {"http": 8000, "metrics": 9090}
        assert monitor["spec"]["endpoints"][0]["port"] in {one["name"] for one in serving["spec"]["ports"]}
        assert serving["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= serving["metadata"]["labels"].items()
        assert monitor["metadata"]["namespace"] == serving["metadata"]["namespace"] == deployment["metadata"]["namespace"]
        probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
        assert [one["path"].rpartition("/")[2] for one in probes] == ["live", "live", "ready"]
        assert {one["port"] for one in probes} == {"http"}


def test_pods_pause_before_they_are_asked_to_end():
    """For less than they are given to end."""
    for deployment in FILES["deployment"][::2]:
        pod = deployment["spec"]["template"]["spec"]
        program, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep"
        assert 0 < int(seconds) < pod["terminationGracePeriodSeconds"]


def test_one_port_for_everything_has_one_name():
    """Metrics that are served with the rest are found at the same port."""
    shop = exported(service(monitoring={"access": "open", "prefix": "/watch"}, metrics={"path": "/numbers"}))
    deployment, serving = shop["deployment"]
    kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": 8000}]
    assert serving["spec"]["ports"] == [{"name": "metrics", "port": 8000, "targetPort": 8000}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/watch/health/ready", "port": "http"}
    assert deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] == "/numbers"
    assert shop["service-monitor"][0]["spec"]["endpoints"][0]["path"] == "/numbers"


def test_a_token_comes_from_a_secret():
    """A service whose pages want a token gets it, and Prometheus sends it."""
    shop = exported(service(monitoring={"access": "token", "token": "not-to-be-written-anywhere"}), service("other"))
    environment = shop["deployment"][0]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert environment[-1] == {
        "name": "SAGE_OBS_MONITORING__TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "shop-monitoring", "key": "token"}},
    }
    monitors = {one["metadata"]["name"]: one["spec"] for one in shop["service-monitor"]}
    assert monitors["shop-service"]["endpoints"][0]["authorization"] == {
        "credentials": {"name": "shop-monitoring", "key": "token"}
    }
    assert "authorization" not in monitors["other-service"]["endpoints"][0]
    assert monitors["other-service"]["selector"]["matchExpressions"] == [
        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["other"]}
    ]
    assert "not-to-be-written-anywhere" not in str(shop)
    scraped = prometheus.configuration([service(monitoring={"access": "token"})])["scrape_configs"][0]
    assert scraped["authorization"] == {"credentials_file": "secrets/shop-token"}


def test_every_rule_is_in_one_object():
    """All alerts and recordings reach the operator once, next to the services that they are about."""
    placed = [
        (entry.get("alert") or entry["record"], tuple(entry.get("labels", {}).items()), document["metadata"]["namespace"])
        for document in FILES["prometheus-rules"]
        for group in document["spec"]["groups"]
        for entry in group["rules"]
    ]
    assert len({one[:2] for one in placed}) == len(placed)
    own = [group for group in prometheus.rule_groups(SERVICES) if group["name"] != "monitoring"]
    assert len(placed) == sum(len(group["rules"]) for group in own)
    where = {name: namespace for name, _, namespace in placed}
    assert where["NoTextbooksCreated"] == "ai-textbook-prod"
    assert where["HighLatency"] == "customer-id-prod"
    assert where["HighErrorRate"] == where["service:http_requests:rate5m"] == "monitoring"
    assert {document["apiVersion"] for document in FILES["prometheus-rules"]} == {"monitoring.coreos.com/v1"}
    # The chart has rules of its own for the programs that it brings.
    assert {name for name, _, _ in placed} >= {alert.name for alert in alerts(SERVICES) if alert.group.name != "monitoring"}


def test_values_for_helm_are_as_documented():
    """Retention, storage, intervals and the annotated pods are those that were asked for."""
    spec = FILES["prometheus-values"][0]["prometheus"]["prometheusSpec"]
    assert (spec["retention"], spec["scrapeInterval"], spec["evaluationInterval"]) == ("30d", "15s", "15s")
    assert spec["serviceMonitorSelectorNilUsesHelmValues"] is spec["podMonitorSelectorNilUsesHelmValues"] is False
    claim = spec["storageSpec"]["volumeClaimTemplate"]["spec"]
    assert (claim["accessModes"], claim["resources"]["requests"]["storage"]) == (["ReadWriteOnce"], "50Gi")
    assert spec["additionalScrapeConfigs"][0]["job_name"] == "kubernetes-pods"
    config = FILES["alertmanager-values"][0]["alertmanager"]
    assert config["config"]["route"] == alertmanager.configuration(SERVICES)["route"]
    secret = config["alertmanagerSpec"]["secrets"][0]
    assert (
        config["config"]["receivers"][0]["slack_configs"][0]["api_url_file"]
        == f"/etc/alertmanager/secrets/{secret}/slack_webhook_url"
    )


def test_a_quota_lets_the_pods_of_its_namespace_in():
    """Whatever a quota counts of pods, each container says, or is given by a default: others are refused."""
    documents = [*yaml.safe_load_all((ROOT / "deploy/k8s/resource-quotas.yaml").read_text())]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    quota, defaults = documents
    namespace = quota["metadata"]["namespace"]
    assert defaults["metadata"]["namespace"] == namespace
    (given,) = defaults["spec"]["limits"]
    (pod,) = (one["spec"]["template"]["spec"] for one in FILES["deployment"][::2] if one["metadata"]["namespace"] == namespace)
    own = pod["containers"][0]["resources"]
    told = {"requests": {**given["defaultRequest"], **own["requests"]}, "limits": {**given["default"], **own["limits"]}}
    counted = [name.split(".") for name in quota["spec"]["hard"] if "." in name]
    assert [(kind, what) for kind, what in counted if what not in told[kind]] == []


def test_names_are_made_to_fit():
    """Names of objects are as Kubernetes wants them, and the label keeps the service's own; what cannot be one is refused."""
    deployment, serving = exported(service("My_Shop.v2"))["deployment"]
    kubernetes_validate.validate(serving, kubernetes_validate.latest_version(), strict=True)
    assert serving["metadata"]["name"] == "my-shop-v2"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/name"] == "My_Shop.v2"
    with pytest.raises(SettingsError, match=r"service\.name='my shop' cannot be a label in Kubernetes"):
        kubernetes.files([service("my shop")])


def test_config_maps_name_services_across_namespaces():
    """A Prometheus without its operator may look for pods, looks in the namespace of each service, and has all rules."""
    account, role, binding, mapped = FILES["prometheus-config"]
    written = yaml.safe_load(mapped["data"]["prometheus.yml"])
    asked = [*written["scrape_configs"], *written["alerting"]["alertmanagers"]]
    spaces = [one["kubernetes_sd_configs"][0]["namespaces"]["names"][0] for one in asked]
    assert spaces == [
        "sage-prod",
        "ai-textbook-prod",
        "customer-id-prod",
        "rfs-prod",
        *["monitoring"] * 3,
        "logging",
        "monitoring",
    ]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": account["kind"], **account["metadata"]}]
    rules = {path.rpartition("/")[2] for path in prometheus.files(SERVICES) if "/rules/" in path}
    assert set(FILES["alert-rules"][0]["data"]) == rules
