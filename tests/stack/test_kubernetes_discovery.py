"""Replicas of one service in Kubernetes: with the exported configuration each of them is found and counted.

Debian builds Prometheus without discovery in Kubernetes. VictoriaMetrics reads the same configuration.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from servers import free_port, need, program, query
from support import until

from sage_fastapi_obs import Settings
from sage_fastapi_obs.export import kubernetes

pytestmark = pytest.mark.stack

REPLICAS = ("127.0.0.2", "127.0.0.3")
SPACE = "shop-prod"


def pod(name: str, address: str, label: str, *, phase: str = "Running", port: int) -> dict[str, Any]:
    """Describe a pod as Kubernetes does, with the two ports of an exported deployment."""
    ports = [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": port}]
    return {
        "metadata": {"name": name, "namespace": SPACE, "uid": name, "labels": {"app.kubernetes.io/name": label}},
        "spec": {"nodeName": "one", "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": phase, "podIP": address, "hostIP": address},
    }


class Kubernetes(ThreadingHTTPServer):
    """Stands for the API server of Kubernetes, as far as a scraper asks it: lists pods, and tells of no changes."""

    daemon_threads = True

    def __init__(self, pods: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Listing)
        self.pods = pods
        self.closing = threading.Event()


class _Listing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, is_watch = urlsplit(self.path).path, "watch=" in self.path
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        if is_watch:
            self.server.closing.wait()
            return
        found = self.server.pods if path == f"/api/v1/namespaces/{SPACE}/pods" else []
        listed = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": found}
        self.wfile.write(json.dumps(listed).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Replica(ThreadingHTTPServer):
    """A replica that has answered a number of requests, which it shows; other pods are served as well."""

    daemon_threads = True

    def __init__(self, address: str, port: int, requests: int) -> None:
        super().__init__((address, port), _Metrics)
        self.requests = requests


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(f'http_requests_total{{route="/",status="200"}} {self.server.requests}\n'.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def all_serving(*servers: ThreadingHTTPServer) -> Iterator[None]:
    """Serve until the end of the block."""
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@contextmanager
def scraper(config: Path, folder: Path) -> Iterator[str]:
    """Run VictoriaMetrics with a configuration of Prometheus; yield its address."""
    address = f"127.0.0.1:{free_port()}"
    flags = [f"-httpListenAddr={address}", f"-storageDataPath={folder / 'data'}", "-search.latencyOffset=0s"]
    command = [need("victoria-metrics", "victoria-metrics"), f"-promscrape.config={config}", *flags]
    with program([*command, "-promscrape.config.strictParse=false"], folder / "scraper.log"):
        until(lambda: httpx.get(f"http://{address}/health").is_success, "VictoriaMetrics")
        yield f"http://{address}"


def test_each_replica_is_a_target(tmp_path: Path):
    """Both running pods of the service are scraped, each under its own name, and neither others' pods nor those that ended."""
    port = free_port()
    shop = Settings(
        service={"name": "shop"},
        metrics={"port": port},
        monitoring={"access": "port"},
        export={"namespace": SPACE, "monitored_by": []},
    )
    pods = [pod(f"shop-{number}", address, "shop", port=port) for number, address in enumerate(REPLICAS)]
    pods += [pod("shop-ended", "127.0.0.4", "shop", phase="Failed", port=port), pod("other", "127.0.0.5", "shop-2", port=port)]
    api = Kubernetes(pods)
    replicas = [Replica(address, port, 1000 * number) for number, address in enumerate(REPLICAS, 1)]
    (written,) = (
        document["data"]["prometheus.yml"]
        for document in yaml.safe_load_all(kubernetes.files([shop])["deploy/k8s/prometheus-config.yaml"])
        if document["kind"] == "ConfigMap"
    )
    config = yaml.safe_load(written)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for one in (*config["scrape_configs"], *config["alerting"]["alertmanagers"]):
        one["kubernetes_sd_configs"][0]["api_server"] = f"http://127.0.0.1:{api.server_port}"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with all_serving(api, *replicas), scraper(tmp_path / "prometheus.yml", tmp_path) as address:
        counted = "sum by (service) (http_requests_total)"
        until(lambda: query(address, "count(http_requests_total) == 2"), "both replicas")
        assert [(one["metric"], one["value"][1]) for one in query(address, counted)] == [({"service": "shop"}, "3000")]
        up = {one["metric"]["pod"]: one["metric"] for one in query(address, "up")}
        assert {name: labels["instance"] for name, labels in up.items()} == {
            f"shop-{number}": f"{replica}:{port}" for number, replica in enumerate(REPLICAS)
        }
        assert {(labels["job"], labels["service"], labels["namespace"]) for labels in up.values()} == {("shop", "shop", SPACE)}
        assert query(address, 'http_requests_total{path="/"}')
        api.closing.set()
