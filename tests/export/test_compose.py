"""The compose file, the Dockerfile and the configuration of logs fit together, as far as that shows without containers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from demo import ROOT, SERVICES
from fastapi import FastAPI
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from servers import need

from example_app.app import _settings as app_settings
from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.export import kubernetes, prometheus

FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text())
COMPOSED: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILES = {
    None: {"prometheus", "alertmanager", "grafana", "jaeger", "loki", "fluent-bit", "node-exporter"},
    "demo": {"sage-backend", "ai-textbook-core", "customer-id", "rfs-demo", "traffic", "alert-sink"},
    "deps": {"redis", "postgres", "kafka"},
    "elastic": {"elasticsearch", "elasticsearch-setup", "kibana", "kibana-setup"},
    "s3": {"fluentd", "minio", "minio-setup"},
    "falco": {"falco", "falcosidekick"},
}
HOST_PORTS = {
    "sage-backend": {8000, 9090},
    "ai-textbook-core": {8001},
    "customer-id": {3001},
    "rfs-demo": {8002},
    "prometheus": {9091},
    "alertmanager": {9093},
    "grafana": {3000},
    "jaeger": {16686, 4317, 4318},
    "loki": {3100},
    "fluent-bit": {24224},
    "elasticsearch": {9200},
    "kibana": {5601},
    "minio": {9000, 9001},
}
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "deploy/logging/fluentd.Dockerfile"]
ONCE = {"elasticsearch-setup", "kibana-setup", "minio-setup"}
"""Services that do something and end."""
OPTIONAL = {
    "BIND",
    "LOGS",
    "ALERTMANAGER_CONFIG",
    "GRAFANA_PASSWORD",
    "POSTGRES_PASSWORD",
    "MINIO_USER",
    "MINIO_PASSWORD",
    "MONITORING_TOKEN",
}


def sources(service: dict[str, Any]) -> list[tuple[str, str]]:
    """List what is mounted from this folder, and how, with variables as they are by default."""
    mounts = [str(volume).split(":") for volume in map(by_default, service.get("volumes", ()))]
    return [(source, ":".join(rest[1:])) for source, *rest in mounts if source.startswith("./")]


def by_default(text: str) -> str:
    """Write a text as it is while no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_file_is_a_compose_file():
    """It validates against the schema of the compose specification."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_check_of_the_schema_can_fail(tmp_path: Path):
    """A key that compose does not know is refused."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("    mem_limit: 1g\n", "    memory: 1g\n"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_every_service_is_in_its_profile():
    """Without a profile there is the stack; each profile adds what it says."""
    found: dict[str | None, set[str]] = {}
    for name, service in COMPOSED.items():
        for profile in service.get("profiles", [None]):
            found.setdefault(profile, set()).add(name)
    assert found == PROFILES


@pytest.mark.parametrize("name", COMPOSED)
def test_a_service_is_pinned_limited_and_looked_after(name: str):
    """It has a version, a limit of memory, a restart, and a health check unless it ends by itself or has nothing to ask."""
    service = COMPOSED[name]
    if not service["image"].startswith("sage-fastapi-obs-"):
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", tag)
    assert service["mem_limit"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    own_image = service["image"].startswith("sage-fastapi-obs-example")
    assert "healthcheck" in service or own_image or name in ONCE | {"falco"}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_a_service_mounts_is_there(name: str):
    """Files and folders of this repository exist, and nothing can write to them."""
    for source, rest in sources(COMPOSED[name]):
        assert (ROOT / source).exists() or source == "./prometheus", source
        assert rest.split(":")[-1] == "ro" or rest.endswith("ro")


@pytest.mark.parametrize("logs", ["loki", "elastic", "s3"])
def test_each_way_of_logs_has_its_outputs(logs: str):
    """The variable LOGS chooses a file that exists, whose hosts are services of the stack."""
    text = (ROOT / f"deploy/logging/outputs-{logs}.conf").read_text()
    assert set(re.findall(r"^ +Host +(\S+)$", text, re.MULTILINE)) <= set(COMPOSED)
    assert re.findall(r"^ +Name +(\S+)$", text, re.MULTILINE)[0] == "loki"
    labels = re.search(r"^ +Labels +(.+)$", text, re.MULTILINE)
    assert labels is not None
    assert labels[1] == "$service, $environment, $level"


def test_ports_are_those_of_the_documents_and_only_for_this_machine():
    """Each service is published where the docs say, and on the loopback address unless BIND says otherwise."""
    found: dict[str, set[int]] = {}
    for name, service in COMPOSED.items():
        for port in map(by_default, service.get("ports", ())):
            address, host, _ = port.split(":")
            assert address == "127.0.0.1"
            found.setdefault(name, set()).add(int(host))
    assert found == HOST_PORTS
    everything = [port for ports in found.values() for port in ports]
    assert len(everything) == len(set(everything))


def test_every_variable_has_a_default():
    """The file can be read without any variable: compose reads all of it, also for profiles that are off."""
    assert {name for name, rest in re.findall(r"(?<!\$)\$\{(\w+)(:-)?", FILE.read_text()) if rest} == OPTIONAL
    assert re.findall(r"(?<!\$)\$\{\w+[^:}\w]", FILE.read_text()) == []
    assert re.findall(r"(?<!\$)\$\{\w+\}|\$\{\w+:\?", FILE.read_text()) == []


def test_no_password_is_one_that_everybody_knows():
    """Secrets come from variables without a default."""
    for service in COMPOSED.values():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY_ID|ROOT_USER", key):
                assert by_default(str(value)) == "", key


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.service.name)
def test_an_example_service_starts_with_its_settings(service: Any):
    """The file that a service is given exists and is its own, and Prometheus scrapes the port that it serves metrics on."""
    composed = COMPOSED[service.service.name]
    assert composed["environment"]["SAGE_OBS_FILE"] == f"deploy/services/{service.service.name}.yaml"
    scraped = yaml.safe_load(prometheus.files(SERVICES)["prometheus/prometheus.yml"])["scrape_configs"]
    targets = {target for job in scraped for config in job["static_configs"] for target in config["targets"]}
    assert f"{service.service.name}:{service.metrics.port}" in targets


def test_a_service_prints_where_its_live_page_is(monkeypatch, capsys):
    """The address is that of the metrics port on this machine; the token of the variable is not printed, one of its own is."""
    environment = COMPOSED["sage-backend"]["environment"]
    page = environment["EXAMPLE_PAGE"]
    assert f"127.0.0.1:{page.split(':')[2].split('/')[0]}:9090" in map(by_default, COMPOSED["sage-backend"]["ports"])
    monkeypatch.chdir(ROOT)
    for name in ("EXAMPLE_PAGE", "SAGE_OBS_FILE", "SAGE_OBS_MONITORING__TOKEN"):
        monkeypatch.setenv(name, by_default(environment[name]))
    settings = app_settings()
    assert settings.monitoring.access == "port"
    assert settings.monitoring.token is not None
    assert capsys.readouterr().out == f"the live page: {page} with the token {settings.monitoring.token.get_secret_value()}\n"
    monkeypatch.setenv("SAGE_OBS_MONITORING__TOKEN", "chosen-by-somebody")
    assert app_settings().monitoring.token == SecretStr("chosen-by-somebody")
    assert capsys.readouterr().out == f"the live page: {page}\n"


def test_what_a_web_page_could_do_to_prometheus_is_off():
    """A form on any page can post to a port of this machine: nothing there may delete, stop or configure."""
    command = " ".join(COMPOSED["prometheus"]["command"])
    assert "--web.enable-" not in command
    assert "--web.cors.origin" not in command


def test_only_alertmanager_is_given_its_secrets():
    """No other service sees the folder, and git does not take it up."""
    folder = ROOT / "prometheus" / "secrets"
    for name, service in COMPOSED.items():
        mounted = [ROOT / source for source, _ in sources(service)]
        assert any(folder.is_relative_to(path) or path.is_relative_to(folder) for path in mounted) == (
            name == "alertmanager"
        ), name
    assert "/prometheus/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    wanted = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
    assert "secrets/" not in str(wanted)


async def test_paths_of_health_checks_of_ours_exist():
    """What the image asks for is answered, and its commands are modules of the example."""
    path = re.search(r"8000'\)\}(/[\w/]+)", (ROOT / "Dockerfile").read_text())
    assert path is not None
    app = FastAPI()
    obs = Observability(Settings(logging={"enabled": False}))
    obs.install(app)
    async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        assert (await client.get(path[1])).status_code == 200
    modules = [word for each in COMPOSED.values() for word in each.get("command", ()) if str(word).startswith("example_app.")]
    assert modules
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_grafana_is_the_one_that_dashboards_are_tested_against():
    """The types that the tests take are those of the image's version."""
    pinned = json.loads((ROOT / "tests/stack/grafana/package.json").read_text())["dependencies"]
    assert COMPOSED["grafana"]["image"] == f"grafana/grafana:{pinned['@grafana/schema']}"


def test_the_image_is_small_and_nobody_is_root_in_it():
    """Two stages of a slim image; what is copied exists and is not ignored; the last user is none with a password."""
    text = (ROOT / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM python:[\d.]+-slim", text, re.MULTILINE)) == 2
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE)[-1] == str(kubernetes.USER)
    assert f"useradd --uid {kubernetes.USER} " in text
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).+$", text, re.MULTILINE)]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert source in kept


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_a_shell_script_is_clean(path: Path):
    """ShellCheck has nothing to say, and the script can be run."""
    need("shellcheck")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert path.stat().st_mode & 0o111


def installed(program: str) -> str:
    """Name a program that came with a package of the tests."""
    return str(Path(sys.executable).with_name(program))


@pytest.mark.parametrize("logs", ["loki", "elastic", "s3"])
def test_compose_takes_the_file_with_all_profiles(logs: str):
    """Docker Compose itself reads the file, with its variables, anchors and profiles, and finds the services that are there."""
    command = [installed("docker-compose"), "--file", str(FILE), "--profile", "*", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LOGS": logs})
    assert (done.returncode, done.stderr) == (0, "")
    services = json.loads(done.stdout)["services"]
    assert set(services) == set(COMPOSED)
    mounted = {volume["target"]: volume["source"] for volume in services["fluent-bit"]["volumes"]}
    assert mounted["/fluent-bit/etc/outputs.conf"] == str(ROOT / f"deploy/logging/outputs-{logs}.conf")


def test_compose_refuses_what_it_does_not_know(tmp_path: Path):
    """The check above can fail: a service that waits for one that is not there is refused."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("      prometheus: {condition", "      nobody: {condition"))
    done = subprocess.run(
        [installed("docker-compose"), "--file", str(wrong), "config"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "nobody" in done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dockerfile_is_clean(path: Path):
    """Hadolint, which runs ShellCheck on the commands, has nothing to say."""
    done = subprocess.run([installed("hadolint"), "--no-color", str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_s3_takes_the_life_cycle():
    """An S3 API stores the rule as it stands: lines of customer-id go after 90 days, and nothing else does."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        known = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "eu-central-1"}
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **known)
        s3.create_bucket(Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        rules = json.loads((ROOT / "deploy/logging/s3-lifecycle.json").read_text())
        s3.put_bucket_lifecycle_configuration(Bucket="logs", LifecycleConfiguration=rules)
        (kept,) = s3.get_bucket_lifecycle_configuration(Bucket="logs")["Rules"]
    finally:
        server.stop()
    assert (kept["Status"], kept["Filter"], kept["Expiration"]) == ("Enabled", {"Prefix": "customer-id/"}, {"Days": 90})
    assert f"path {kept['Filter']['Prefix']}" in (ROOT / "deploy/logging/fluentd.conf").read_text()
