"""`/monitoring/workers`: the processes of the service, what each of them does, and how the last one died."""

import time
from collections.abc import Callable
from typing import Self

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.alerting.alerts import timestamp
from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.json_page import JsonPage, PageQuery, json_response
from sage_fastapi_obs.workers.other_workers import DeathSeen, Sibling, State, Workers

_PROBLEMS = {401: "A bearer token is needed.", 403: "Not open to this client.", 404: "Served on a port of its own."}


class ShownDeath(BaseModel):
    """How a worker died."""

    timestamp: str
    """When that was noticed."""
    reason: str
    """`oom`, `blocked`, `crash`, `killed` or `unknown`."""

    @classmethod
    def of(cls, death: DeathSeen) -> Self:
        """Take it from what is known of the worker."""
        return cls(timestamp=timestamp(death.at), reason=death.reason)


class ShownWorker(BaseModel):
    """One worker; times in seconds."""

    worker: int
    process_id: int
    state: State
    """`running`; `hanging`: its event loop does not turn; `stopped`: none of its threads runs; `dead`."""
    leader: bool
    """Whether it judges the rules."""
    age_seconds: float
    requests: int | None
    """How many have ended, by all workers that had this number."""
    in_flight: int
    memory_bytes: int | None
    heartbeat_age_seconds: float
    """Since its thread last ran."""
    loop_age_seconds: float
    """Since its event loop last turned."""
    last_death: ShownDeath | None
    """Of the last worker with this number that died."""

    @classmethod
    def of(cls, worker: Sibling, now: float, wall_now: float) -> Self:
        """Take it from what is known of the worker. `now`: of the monotonic clock, `wall_now`: Unix time."""
        return cls(
            worker=worker.number,
            process_id=worker.pid,
            state=worker.state(now),
            leader=worker.is_leader,
            age_seconds=round(max(0.0, wall_now - worker.started), 1),
            requests=worker.requests,
            in_flight=worker.in_flight,
            memory_bytes=worker.memory_bytes,
            heartbeat_age_seconds=round(max(0.0, now - worker.heartbeat), 1),
            loop_age_seconds=round(max(0.0, now - worker.turned), 1),
            last_death=None if worker.last_death is None else ShownDeath.of(worker.last_death),
        )


class WorkersResponse(BaseModel):
    """The workers of the service by their numbers, with the dead ones that nobody has replaced."""

    workers: list[ShownWorker]


def workers_page(access: Access, workers: Workers, wall_clock: Callable[[], float] = time.time) -> JsonPage:
    """Build the page."""

    async def answer(_query: PageQuery, _request: Request) -> Response:
        # In a thread, as there may be many of them.
        found = sorted(await in_page_thread(workers.find), key=lambda worker: worker.number)
        now, wall_now = workers.clock(), wall_clock()
        shown = [ShownWorker.of(worker, now, wall_now) for worker in found]
        return json_response(WorkersResponse(workers=shown), exclude_none=False)

    return JsonPage(
        *("/workers", "workers", "The processes of the service", answer, WorkersResponse),
        guard=access.rejection,
        problems=_PROBLEMS,
    )
