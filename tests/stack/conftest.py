"""A Prometheus that has watched a busy service for a while, shared by the tests of a module that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import NAMES, ROOT, serving
from servers import free_port, need, program, prometheus, query
from support import until

CONFIG = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
%s
"""
RULES = """
groups:
  - name: always
    rules:
      - {alert: SomethingIsWrong, expr: "up{job='sage-backend'} == 1", labels: {severity: warning}}
      - {alert: Watchdog, expr: vector(1), labels: {severity: info}}
"""


def job(name: str, port: int) -> str:
    """Write a scrape of one service as the demo's configuration has it."""
    target = f'[{{targets: ["127.0.0.1:{port}"], labels: {{service: {name}}}}}]'
    return f"  - {{job_name: {name}, static_configs: {target}}}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have a service scraped under the names of all services of the demo, a host, and nothing; yield Prometheus' address.

    It ends with the module: both are busy all the time, and would compute beside all other tests of the session.
    """
    folder = tmp_path_factory.mktemp("dashboards")
    host = free_port()
    exporter = need("prometheus-node-exporter")
    flags = [
        f"--web.listen-address=127.0.0.1:{host}",
        "--collector.disable-defaults",
        "--collector.cpu",
        "--collector.filesystem",
    ]
    with serving("everything:create_app", folder, PYTHONPATH=f"{Path(__file__).parent}:{ROOT}") as port:
        (folder / "rules.yml").write_text(RULES)
        config = folder / "prometheus.yml"
        config.write_text(
            CONFIG % "\n".join([*(job(name, port) for name in NAMES), job("node-exporter", host), job("gone", free_port())])
        )
        with program([exporter, *flags], folder / "host.log"), prometheus(config, folder) as address:
            # Rates need several scrapes, and events of all kinds in between.
            busy = "count(count_over_time(up[1m]) > 12) == 6"
            until(lambda: query(address, busy), "scrapes")
            until(lambda: query(address, 'ALERTS{alertstate="firing"}'), "alert")
            yield address
