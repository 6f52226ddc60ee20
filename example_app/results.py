"""Users and orders with results: steps that give a Success or a Failure, told of, timed and counted without exceptions."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException
from pydantic import BaseModel, Field

from sage_fastapi_obs.monitoring import (
    MetricType,
    check_sla_compliance,
    circuit_breaker_monitoring,
    collect_flux_result_metric,
    collect_metric,
    collect_result_metric,
    create_logging_mono,
    log_result_operation,
)
from sage_fastapi_obs.monitoring.metrics import SlaCheck
from sage_fastapi_obs.packs.result import Failure, FluxResult, MonoResult, Result, Success

__all__ = ["api"]

api = APIRouter(prefix="/results", tags=["results"])
SERVICE = "user_service"
PRICES = {"tea": 3.2, "coffee": 4.8, "cocoa": 4.1}
CATEGORIES = {"tea": "leaves", "coffee": "beans", "cocoa": "powder"}
MOST_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something could not be done, and the status that says so."""

    status: int
    detail: str

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class User:
    id: int
    name: str
    locked: bool = False
    orders: int = 0


USERS = {1: User(1, "ada"), 2: User(2, "grace"), 3: User(3, "linus", locked=True)}


async def fetch_user(user_id: int) -> Result[User, Problem]:
    await asyncio.sleep(0.001)
    return Success(USERS[user_id]) if user_id in USERS else Failure(Problem(404, "no such user"))


async def validate_user(user: User) -> Result[User, Problem]:
    return Failure(Problem(423, "user is locked")) if user.locked else Success(user)


async def enrich_user(user: User) -> Result[User, Problem]:
    await asyncio.sleep(0.001)
    return Success(User(user.id, user.name, orders=len(user.name)))


@log_result_operation("user_service.get_user")
async def get_user(user_id: int) -> Result[User, Problem | Exception]:
    """Fetch, check and complete a user."""
    started = time.perf_counter()
    result = await (
        MonoResult.from_async_result(lambda: fetch_user(user_id))
        .bind_async_result(validate_user)
        .bind_async_result(enrich_user)
        .timeout(2.0)
        .to_result()
    )
    collect_result_metric("user_service.get_user", result, _since(started), labels={"service": SERVICE})
    return result


@api.get("/users/{user_id}")
async def read_user(user_id: int) -> User:
    match await get_user(user_id):
        case Success(user):
            return user
        case Failure(error):
            raise _refusal(error)


@api.post("/users/batch")
async def read_users(user_ids: Annotated[list[int], Body(max_length=100)]) -> dict[str, Any]:
    """Read many users, a few at a time; those that cannot be read do not keep the others back."""
    started = time.perf_counter()
    users = await FluxResult.from_iterable_async(user_ids, get_user).batch_collect(batch_size=10, max_concurrent=3)
    collect_flux_result_metric("user_batch", users, _since(started))
    return {
        "users": users.successes(),
        "problems": [str(error) for error in users.failures()],
        "success_rate": users.success_rate,
    }


class NewOrder(BaseModel):
    item: str
    count: int = Field(default=1, gt=0)
    card: str = Field(pattern=r"[0-9]{16}")


async def validate_order(order: NewOrder) -> Result[NewOrder, Problem]:
    return Success(order) if order.item in PRICES else Failure(Problem(404, "nothing of that name"))


async def charge_payment(order: NewOrder) -> Result[NewOrder, Problem]:
    await asyncio.sleep(0.002)
    return Failure(Problem(402, "the card is not good")) if order.card.endswith("0") else Success(order)


async def update_inventory(order: NewOrder) -> Result[NewOrder, Problem]:
    return Failure(Problem(409, "not so many")) if order.count > MOST_AT_ONCE else Success(order)


async def send_confirmation(order: NewOrder) -> Result[str, Problem]:
    return Success(f"{order.count} x {order.item} for {_value(order):.2f}")


@log_result_operation("order_processing", redact=("card",))
async def process_order(order: NewOrder) -> Result[str, Problem | Exception]:
    """Take an order through its four steps, and count it if it went through all of them."""
    started = time.perf_counter()
    result = await (
        create_logging_mono(lambda: validate_order(order))
        .log_step("validation", "order is valid")
        .bind_async_result(charge_payment)
        .log_step("payment", "payment charged")
        .bind_async_result(update_inventory)
        .log_step("inventory", "inventory updated")
        .bind_async_result(send_confirmation)
        .log_step("confirmation", "confirmation sent")
        .log_performance("order_chain")
        .to_result()
    )
    collect_result_metric("order_processing", result, _since(started))
    if result.is_success():
        collect_metric("orders_processed_total", 1, MetricType.COUNTER)
        collect_metric("revenue_total", _value(order), MetricType.COUNTER)
        collect_metric("order_value", _value(order), MetricType.HISTOGRAM)
        collect_metric("orders_by_category", 1, MetricType.COUNTER, labels={"category": CATEGORIES[order.item]})
    else:
        await circuit_breaker_monitoring("order_processing", threshold=90)
    return result


@api.post("/orders", status_code=201)
async def place_order(order: NewOrder) -> dict[str, str]:
    match await process_order(order):
        case Success(confirmation):
            return {"confirmation": confirmation}
        case Failure(error):
            raise _refusal(error)


@api.get("/sla")
async def read_sla() -> SlaCheck:
    """Hold the operations of the last hour against what is promised."""
    return (await check_sla_compliance()).unwrap()


def _value(order: NewOrder) -> float:
    return PRICES[order.item] * order.count


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1_000


def _refusal(error: Problem | Exception) -> Exception:
    return HTTPException(error.status, error.detail) if isinstance(error, Problem) else error
