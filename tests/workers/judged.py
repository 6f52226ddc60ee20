"""An app with one alert rule, whose workers are asked what they know of it."""

import os
from typing import Any

from fastapi import FastAPI

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

SETTINGS = Settings(
    service={"name": os.environ["SERVICE_OF_TEST"]},
    logging={"level": "warn", "output": os.environ["LINES_OF_TEST"]},
    store={"path": os.environ["STORE_OF_TEST"]},
    http={"exclude_paths": ["/seen", "/late"]},
    monitoring={"interval_seconds": 1.0},
    alerts={"defaults": False},
)
app = FastAPI()
obs = Observability(SETTINGS)
obs.install(app)
told = os.open(os.environ["TOLD_OF_TEST"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def rule(name: str, threshold: float) -> AlertRule:
    """Make a rule about failures of the last hour."""

    async def tell(notice: dict[str, Any]) -> None:
        os.write(told, f"{notice['name']} {notice['state']}\n".encode())

    return AlertRule(
        name=name,
        expression=Stat("http_requests_total", "increase", 3_600.0, {"status": "500"}),
        condition=AlertCondition.GREATER_THAN,
        threshold=threshold,
        callbacks=(tell,),
        resolved_callbacks=(tell,),
    )


obs.status.alerts.add(rule("failures", 10))


@app.get("/fail")
async def fail() -> None:
    """Fail."""
    raise LookupError


@app.get("/late/{pid}")
async def late(pid: int) -> bool:
    """Add a rule in one worker alone; tell whether this is the one."""
    if pid == os.getpid():
        obs.status.alerts.add(rule("late", 0))
    return pid == os.getpid()


@app.get("/seen")
def seen() -> dict[str, Any]:
    """Tell what this worker knows."""
    obs.status.refresh()
    failures = obs.status.view(3_600.0).counter("http_requests_total", {"status": "500"})
    return {
        "pid": os.getpid(),
        "leads": obs.status._judge.is_leader,
        "firing": [alert.rule.name for alert in obs.status.alerts.alerts("firing")],
        "failures": sum(one.increase for one in failures.values()),
        "errors": {**obs.internal_errors.counts},
        "problems": obs.status.review.problems(),
    }
