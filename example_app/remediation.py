"""Common problems that the shop handles by itself, until a person does: fewer lines, an open breaker, less traffic.

Each action ends by itself, is not taken twice in a row, is logged and counted, and is taken back when its alert is over.
Alerts come from rules in this process, and from Alertmanager.
"""

import asyncio
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Request
from loguru import logger
from pydantic import BaseModel, Field, ValidationError

from sage_fastapi_obs import Observability, declare_counter
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Callback
from sage_fastapi_obs.monitoring import activate_circuit_breaker, reset_circuit_breaker

__all__ = ["Action", "Breaker", "Remediation", "install"]

MOST_ALERTS = 100
LONGEST_BODY_BYTES = 1_000_000
SHORTEST_TOKEN = 16


class Metrics:
    """What was done, from 0 on."""

    remediations = declare_counter(
        "remediations_total",
        "Actions against common problems.",
        {"action": ("fewer_lines", "open_breaker", "shed_load"), "outcome": ("begun", "refused", "ended")},
    )


@dataclass(frozen=True)
class Action:
    """What is done about an alert; it ends after `seconds` at the latest, and may begin again `pause_seconds` later."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: float
    pause_seconds: float


class Remediation:
    """Takes the action that belongs to an alert; runs on the event loop of the app, so nothing here waits for a lock."""

    def __init__(self, actions: Mapping[str, Action], clock: Callable[[], float] | None = None) -> None:
        """`actions`: by the names of alerts. `clock`: seconds, by default those of the event loop."""
        self._actions = actions
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._running: dict[str, asyncio.TimerHandle] = {}
        self._allowed_at: dict[str, float] = {}

    async def told(self, alert: Mapping[str, Any]) -> None:
        """Take the notice of a rule in this process: a callback for its alerts."""
        self.handle(alert["name"], is_over=alert["state"] == "resolved")

    def handle(self, alert: str, *, is_over: bool) -> None:
        """Begin the action of an alert, or end it; alerts without one are left to people."""
        if (action := self._actions.get(alert)) is None:
            return
        if is_over:
            self._end(action, "the alert is over")
        elif action.name not in self._running:
            self._begin(action, alert)

    def close(self) -> None:
        """Take back what is still done."""
        for action in self._actions.values():
            self._end(action, "the service stops")

    def _begin(self, action: Action, alert: str) -> None:
        now = self._clock()
        if now < self._allowed_at.get(action.name, now):
            Metrics.remediations.inc(action=action.name, outcome="refused")
            logger.bind(action=action.name, alert=alert).warning("remediation refused: it was done a short time ago")
            return
        action.begin()
        self._allowed_at[action.name] = now + action.seconds + action.pause_seconds
        later = asyncio.get_running_loop().call_later
        self._running[action.name] = later(action.seconds, self._end, action, "its time is over")
        Metrics.remediations.inc(action=action.name, outcome="begun")
        logger.bind(action=action.name, alert=alert, seconds=action.seconds).warning("remediation begun")

    def _end(self, action: Action, why: str) -> None:
        if (timer := self._running.pop(action.name, None)) is None:
            return
        timer.cancel()
        action.end()
        Metrics.remediations.inc(action=action.name, outcome="ended")
        logger.bind(action=action.name, why=why).warning("remediation ended")


class Breaker:
    """Lets calls of a dependency through, or none while it is open; others see its state in `circuit_breaker_status`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_open = False
        self._showing: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Let nothing through."""
        self.is_open = True
        self._show(activate_circuit_breaker(self._name))

    def close(self) -> None:
        """Let all calls through again."""
        self.is_open = False
        self._show(reset_circuit_breaker(self._name))

    def _show(self, change: Any) -> None:
        task = asyncio.ensure_future(change)
        self._showing.add(task)
        task.add_done_callback(self._showing.discard)


class Alert(BaseModel):
    """One alert of a webhook, as far as it matters here."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]


class Webhook(BaseModel):
    """What Alertmanager posts."""

    alerts: list[Alert] = Field(max_length=MOST_ALERTS)


def install(app: FastAPI, obs: Observability, token: str = "") -> Remediation:
    """Add the actions and their rules to an app, and the receiver of webhooks if there is a token for it."""
    if token and len(token) < SHORTEST_TOKEN:
        raise ValueError(f"the token of the webhook needs at least {SHORTEST_TOKEN} characters")
    obs.enable_pack(Metrics)
    remediation = Remediation(_actions(app, obs))
    for rule in _rules(remediation):
        obs.status.alerts.add(rule)
    if token:
        app.include_router(_receiver(remediation, obs.settings.service.name, token))
    return remediation


def _actions(app: FastAPI, obs: Observability) -> dict[str, Action]:
    app.state.breaker = breaker = Breaker("prices")
    shedding: set[str] = set()

    @obs.health.check("load", cache_seconds=0)
    async def takes_traffic() -> bool:
        return not shedding

    # More lines than can be written: debug lines that somebody has left on are the usual reason.
    fewer = Action("fewer_lines", lambda: obs.set_level("warn", seconds=300), lambda: obs.set_level(None), 300, 600)
    opened = Action("open_breaker", breaker.open, breaker.close, 10, 20)
    # Briefly, and seldom: if all instances did so at once, nobody would serve.
    shed = Action("shed_load", lambda: shedding.add("load"), shedding.clear, 20, 300)
    return {"LinesDropped": fewer, "OrdersFail": opened, "RequestsPileUp": shed, "HighResponseTime": shed}


def _rules(remediation: Remediation) -> list[AlertRule]:
    dropped = Stat("observability_log_lines_dropped_total", "increase", window_seconds=60)
    waiting = Stat("http_requests_in_flight", "last")
    return [
        _rule("LinesDropped", dropped, 0, 0, remediation.told),
        _rule("RequestsPileUp", waiting, 200, 10, remediation.told),
    ]


def _rule(name: str, watched: Stat, threshold: float, for_seconds: float, told: Callback) -> AlertRule:
    return AlertRule(
        name=name,
        expression=watched,
        condition=AlertCondition.GREATER_THAN,
        threshold=threshold,
        for_seconds=for_seconds,
        callbacks=(told,),
        resolved_callbacks=(told,),
        cooldown_seconds=0,
    )


def _receiver(remediation: Remediation, service: str, token: str) -> APIRouter:
    """Take webhooks of Alertmanager; alerts of other services are none of ours."""
    api = APIRouter(tags=["operation"])

    @api.post("/remediation", status_code=202)
    async def receive(request: Request) -> dict[str, int]:
        _check(request, token)
        ours = [alert for alert in (await _read(request)).alerts if alert.labels.get("service", service) == service]
        for alert in ours:
            remediation.handle(alert.labels.get("alertname", ""), is_over=alert.status == "resolved")
        return {"alerts": len(ours)}

    return api


def _check(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})


async def _read(request: Request) -> Webhook:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY_BYTES:
            raise HTTPException(413, "the webhook is too long")
    try:
        return Webhook.model_validate_json(body)
    except ValidationError:
        raise HTTPException(422, f"this is no webhook of Alertmanager with at most {MOST_ALERTS} alerts") from None
