"""A switch that makes the shop misbehave for a while, and the alert that tells of it."""

import asyncio
from typing import Annotated

import httpx
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request

from sage_fastapi_obs import Observability
from sage_fastapi_obs.alerting.expressions import Ratio, Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule, Callback

__all__ = ["alert_rows", "cause", "install"]

NOBODY_LISTENS = "http://127.0.0.1:9"
ROUTE = {"route": "/api/orders", "method": "POST"}

api = APIRouter()


def install(app: FastAPI, obs: Observability, told: Callback) -> None:
    """Add the switch and the rule to the shop; `told`: who is notified of its alert."""
    app.include_router(api)
    failed = Stat("http_requests_total", where={**ROUTE, "status": "=~5.."}, window_seconds=10)
    placed = Stat("http_requests_total", where=ROUTE, window_seconds=10)
    obs.status.alerts.add(
        AlertRule(
            name="OrdersFail",
            expression=Ratio((failed,), (placed,)),
            condition=AlertCondition.GREATER_THAN,
            threshold=0.5,
            resolve_threshold=0.2,
            for_seconds=2,
            severity="critical",
            callbacks=(told,),
            resolved_callbacks=(told,),
            cooldown_seconds=0,
            annotations={"summary": "{{ $value | humanizePercentage }} of all orders fail"},
        )
    )


@api.post("/trouble", status_code=202)
async def make_trouble(request: Request, seconds: Annotated[int, Query(ge=1, le=600)] = 15) -> dict[str, int]:
    """Let the price list be out of reach for a while, so that every order fails."""
    state = request.app.state
    if getattr(state, "in_trouble", False):
        raise HTTPException(409, "there is trouble enough")
    state.in_trouble, working = True, state.prices
    state.prices = httpx.AsyncClient(base_url=NOBODY_LISTENS, timeout=2.0)

    def mend() -> None:
        state.in_trouble, state.prices = False, working

    asyncio.get_running_loop().call_later(seconds, mend)
    return {"seconds": seconds}


async def cause(url: str, after_seconds: float) -> None:
    """Make trouble once, some time after the start of the demo."""
    await asyncio.sleep(after_seconds)
    async with httpx.AsyncClient(base_url=url) as client:
        await client.post("/trouble")


async def alert_rows(client: httpx.AsyncClient) -> list[str]:
    """Show the alerts that are not inactive."""
    told = (await client.get("/monitoring/alerts")).json()
    shown = [*told["active_alerts"], *told["pending_alerts"], *told["resolved_alerts"]]
    return ["alerts:", *(f"  {one['state']:<9} {one['name']} ({one['severity']}) since {one['since'][11:19]}" for one in shown)]
