"""Write the tables of `docs/alerts.md` and `docs/runbooks/` from the rules of the demo services.

With `--check` only say whether they are right.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from sage_fastapi_obs import Settings
from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule
from sage_fastapi_obs.alerting.expressions import duration
from sage_fastapi_obs.export.rules import alerts, recordings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "alerts.md"
SERVICES = ("sage-backend", "ai-textbook-core", "customer-id", "rfs-demo")
BEGIN, END = "<!-- written by scripts/document_alerts.py -->\n", "<!-- end of what is written -->\n"


def page() -> str:
    """Return the page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(tables())}\n{END}{rest.partition(END)[2]}"


def tables() -> Iterator[str]:
    """Yield the lines of all tables."""
    services = [Settings.from_env({}, path=ROOT / "deploy" / "services" / f"{name}.yaml") for name in SERVICES]
    found = alerts(services)
    for group in dict.fromkeys(alert.group for alert in found):
        # What is promised differently by each service is shown once.
        some = {(alert.name, alert.labels.get("window")): alert for alert in reversed(found) if alert.group == group}
        yield from (f"### {group.title}\n", "| alert | fires when | for | severity | elsewhere |", "|---|---|---|---|---|")
        yield from map(row, reversed(some.values()))
        yield ""
    yield from ("### Recorded\n", "| series | expression |", "|---|---|")
    yield from (f"| `{one['record']}` | {code(one['expr'])} |" for one in recordings(services))


def row(alert: ExportedRule) -> str:
    """Write an alert on one line."""
    elsewhere = f"`{alert.seed}`" if alert.seed else ""
    return f"| `{alert.name}` | {code(alert.expr)} | {duration(alert.for_seconds)} | {alert.severity} | {elsewhere} |"


def code(text: str) -> str:
    """Write an expression for a table, where a bar would end the cell."""
    return f"`{text}`".replace("|", "\\|")


def pages() -> dict[Path, str]:
    """Return all pages as they should be. A runbook is written beside its rule, and copied to where alerts link to."""
    runbooks = (ROOT / "sage_fastapi_obs").rglob("runbooks/*.md")
    return {PAGE: page(), **{ROOT / "docs" / "runbooks" / runbook.name: runbook.read_text() for runbook in runbooks}}


if __name__ == "__main__":
    for path, text in pages().items():
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"{path} is not what the rules say: run python scripts/document_alerts.py")
