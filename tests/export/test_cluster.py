"""What the repository has for a cluster beside the manifests of services: the way of lines, and dashboards."""

import json
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from demo import ROOT, SERVICES
from servers import need

from sage_fastapi_obs.export import grafana

FOLDER = ROOT / "deploy/k8s"
LOGS = ("fluent-bit", "fluent-bit-config", "fluentd", "fluentd-config")


def documents(name: str) -> dict[str, Any]:
    """Read a file's documents by their kinds."""
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text())}


def config(name: str, file: str) -> str:
    return str(documents(name)["ConfigMap"]["data"][file])


def sections(text: str, kind: str) -> list[dict[str, str]]:
    """Read the sections of a kind of Fluent Bit's configuration."""
    found = re.findall(rf"^\[{kind}\]\n((?: +.*\n|\n)*)", text, re.MULTILINE)
    return [dict(re.findall(r"^ +([\w.-]+) +(.+)$", section, re.MULTILINE)) for section in found]


FLUENT_BIT = config("fluent-bit-config", "fluent-bit.conf")


@pytest.mark.parametrize("name", LOGS)
def test_kubernetes_takes_the_way_of_lines(name: str):
    """Each object meets the strict schema of the newest Kubernetes, which refuses unknown keys."""
    for document in yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_fluent_bit_finds_what_it_reads_and_where_it_writes():
    """All paths of its configuration are mounted, those that it writes to can be written to, and they outlive the pod."""
    pod = documents("fluent-bit")["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (tail,) = sections(FLUENT_BIT, "INPUT")
    assert str(Path(tail["Path"]).parent).startswith("/var/log")
    assert mounts["/var/log"]["readOnly"] is True
    state = mounts[str(Path(tail["DB"]).parent)]
    assert not state.get("readOnly")
    assert volumes[state["name"]]["hostPath"]["type"] == "DirectoryOrCreate"
    assert volumes[mounts["/fluent-bit/etc"]["name"]]["configMap"]["name"] == "fluent-bit-config"
    assert container["command"][-1] == "/fluent-bit/etc/fluent-bit.conf"
    assert sections(FLUENT_BIT, "SERVICE")[0]["Parsers_File"] in documents("fluent-bit-config")["ConfigMap"]["data"]
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["fluent-bit"]["image"]
    assert container["image"] == image.removesuffix("-debug")


def test_fluent_bit_may_ask_for_pods():
    """Its account is the one that may read pods and namespaces, and nothing else."""
    found = documents("fluent-bit")
    account = found["ServiceAccount"]["metadata"]
    assert found["DaemonSet"]["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]
    bound = found["ClusterRoleBinding"]
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}]
    assert bound["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    (rule,) = found["ClusterRole"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": ["get", "list", "watch"]}
    spaces = {one["metadata"].get("namespace", "logging") for kind, one in found.items() if not kind.startswith("ClusterRole")}
    assert spaces == {"logging"} == {documents("fluent-bit-config")["ConfigMap"]["metadata"]["namespace"]}


def test_lines_of_customer_id_reach_fluentd():
    """Fluent Bit sends those of its pods, and no others, to the address of Fluentd, under a tag that it takes."""
    (to,) = (output for output in sections(FLUENT_BIT, "OUTPUT") if output["Name"] == "forward")
    ours = "kube.var.log.containers.customer-id-5d8f-x2x_customer-id-prod_customer-id-0123abcd.log"
    assert fnmatchcase(ours, to["Match"])
    for other in ("fluentd-0_customer-id-prod_fluentd-01.log", "shop-1_shop_customer-id-01.log"):
        assert not fnmatchcase(f"kube.var.log.containers.{other}", to["Match"])
    found = documents("fluentd")
    service, workload = found["Service"], found["StatefulSet"]
    assert to["Host"] == f"{service['metadata']['name']}.{service['metadata']['namespace']}"
    text = config("fluentd-config", "fluent.conf")
    listening = re.search(r"@type forward\n +bind 0\.0\.0\.0\n +port (\d+)", text)
    assert listening is not None
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert {int(to["Port"]), service["spec"]["ports"][0]["port"], container["ports"][0]["containerPort"]} == {int(listening[1])}
    assert f"<match {to['Tag']}.**>" in text
    assert service["spec"]["selector"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    (buffer,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "buffer")
    assert Path(re.findall(r"path (/.+)", text)[0]).is_relative_to(buffer)
    assert (
        f"USER {workload['spec']['template']['spec']['securityContext']['runAsUser']}"
        in (ROOT / "deploy/logging/fluentd.Dockerfile").read_text().splitlines()
    )


def test_lines_are_in_s3_within_five_minutes():
    """The time that a file is filled for and the wait for late lines are shorter together."""
    text = (ROOT / "deploy/logging/fluentd.conf").read_text()
    minutes = [int(number) for number in re.findall(r"^ +timekey(?:_wait)? (\d+)m$", text, re.MULTILINE)]
    assert len(minutes) == 2
    assert sum(minutes) < 5


def test_a_cluster_loads_the_dashboards():
    """Each becomes a ConfigMap, with the label that Grafana's sidecar looks for, small enough for the API."""
    made = subprocess.run(
        [need("kubectl", "kubernetes-client"), "kustomize", ROOT / "grafana"], capture_output=True, text=True, check=True
    )
    maps = [*yaml.safe_load_all(made.stdout)]
    found = {file: json.loads(text) for one in maps for file, text in one["data"].items()}
    assert found == {
        path.rpartition("/")[2]: json.loads(text)
        for path, text in grafana.files(SERVICES).items()
        if "/dashboards/" in path and path.endswith("json")
    }
    for one in maps:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert len(str(one["data"])) < 1_000_000


def test_prometheus_looks_for_fluent_bit_where_it_is():
    """A Prometheus without its operator asks for pods in the namespace of the DaemonSet, if it scrapes them."""
    written = yaml.safe_load(config("prometheus-config", "prometheus.yml"))
    asked = [
        space
        for job in written["scrape_configs"]
        if job["job_name"] == "fluent-bit"
        for found in job["kubernetes_sd_configs"]
        for space in found["namespaces"]["names"]
    ]
    assert set(asked) <= {documents("fluent-bit")["DaemonSet"]["metadata"]["namespace"]}
