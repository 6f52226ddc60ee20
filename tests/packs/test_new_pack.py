"""A pack is one folder: what is in it is on the page, in the rules and on a dashboard, and nothing else is changed for it."""

import subprocess
import sys
from pathlib import Path

PARCELS = {
    "__init__.py": '"""Parcels."""',
    "metrics.py": '''"""What happens to parcels."""
from sage_fastapi_obs.catalog.metric import counter
METRICS = (counter("parcels_lost_total", "Parcels that nobody can find.", {"kind": ("bag", "box")}),)
''',
    "api.py": '''"""Parcels."""
from sage_fastapi_obs.operations.count import count
def parcel_lost(kind):
    """Count a parcel."""
    count("parcels_lost_total", kind)
''',
    "alert_rules.py": '''"""When parcels are lost."""
from sage_fastapi_obs.alert_rules.exported_rule import RuleGroup, threshold_alert
from sage_fastapi_obs.alerting.rules import Stat
from sage_fastapi_obs.catalog.services import with_pack
PARCELS = RuleGroup("parcels", "Parcels", "parcels", "parcels")
def alerts(services):
    """Return the alerts."""
    lost = threshold_alert("ParcelsLost", Stat("parcels_lost_total", "increase"), 3, group=PARCELS, severity="warning")
    return [lost.about("Parcels are lost", "More than three in 5 minutes.")] if with_pack(services, "parcels") else []
''',
    "dashboard.py": '''"""Parcels."""
from sage_fastapi_obs.dashboards.layout import Dashboard, Row
from sage_fastapi_obs.dashboards.panels import PanelBuilder, choices
panel = PanelBuilder()
def dashboards(services):
    """Return the dashboard."""
    lost = panel.rate("Parcels lost", "parcels_lost_total", ["kind"]).about("Parcels per second.")
    return (Dashboard("parcels", "Parcels", "What is lost.", (Row("Now", (lost,)),), choices("parcels_lost_total"), ()),)
''',
}
USE = """
import sys
import sage_fastapi_obs.packs

sage_fastapi_obs.packs.__path__.append(sys.argv[1])

from prometheus_client import generate_latest
from sage_fastapi_obs import Observability, Settings, SettingsError
from sage_fastapi_obs.export.exporters import EXPORTERS
from sage_fastapi_obs.export.tables import metrics_table
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.packs.parcels.api import parcel_lost

settings = Settings(service={"name": "post"}, metrics={"packs": ["http", "parcels"]}, logging={"enabled": False})
obs = Observability(settings)
obs.start()
parcel_lost("box")
print(generate_latest(obs.registry).decode())
for name in ("prometheus", "alertmanager", "grafana"):
    for path, text in EXPORTERS[name]([settings]).items():
        print(path, text)
print(metrics_table(PACKS["parcels"]))
try:
    Settings(metrics={"packs": ["parcel"]})
except SettingsError as refused:
    print(refused)
"""


def test_a_pack_is_added_by_its_folder(tmp_path: Path):
    """Its metric, rule with its test, dashboard, table and name in messages come from the folder alone."""
    (tmp_path / "parcels").mkdir()
    for name, text in PARCELS.items():
        (tmp_path / "parcels" / name).write_text(text)
    done = subprocess.run([sys.executable, "-c", USE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'parcels_lost_total{kind="box"} 1.0' in done.stdout
    assert "prometheus/rules/parcels.yml" in done.stdout
    assert "dashboard: http://localhost:3000/d/parcels" in done.stdout
    assert "- name: ParcelsLost" in done.stdout.partition("prometheus/tests/parcels.yml")[2]
    assert "sum by (kind) (rate(parcels_lost_total{" in done.stdout.partition("grafana/dashboards/parcels.json")[2]
    assert "| `parcels_lost_total` | counter | `kind` (bag, box) |" in done.stdout
    assert "metrics.packs.0: must be a pack: http, runtime, dependencies, grpc, business, parcels, result," in done.stdout


def test_only_the_export_loads_rules_and_dashboards():
    """A service that serves imports no rules and dashboards of packs."""
    code = (
        "import sys\n"
        "from sage_fastapi_obs import Observability, Settings\n"
        "Observability(Settings(metrics={'packs': ['http', 'textbook']}, logging={'enabled': False})).start()\n"
        "ours = [name for name in sys.modules if name.startswith('sage_fastapi_obs.')]\n"
        "print([name for name in ours if name.endswith(('alert_rules', '.dashboard', '.export', '.dashboards'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
