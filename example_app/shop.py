"""What the shop does: routers with prefixes, errors of every kind, streams, a socket, background work."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from loguru import logger
from opentelemetry import propagate
from pydantic import BaseModel, Field

from sage_fastapi_obs import CorrelationId, CurrentSpan, RequestId, RequestLogger, bind

__all__ = ["STOCK", "api", "live"]

STOCK = {1: "tea", 2: "coffee", 3: "cocoa", 4: "maté"}
PRICES = {1: 320, 2: 480, 3: 410, 4: 530}

items = APIRouter(prefix="/items")
orders = APIRouter(prefix="/orders")
api = APIRouter()
live = APIRouter()
warehouse = logging.getLogger("shop.warehouse")


def known_item(item_id: int, log: RequestLogger) -> int:
    """Look an item up; a sync dependency, whose bound fields are on every later line of the request."""
    log.bind(item=STOCK.get(item_id, "unknown"))
    if item_id not in STOCK:
        raise HTTPException(404, "no such item")
    return item_id


KnownItem = Annotated[int, Depends(known_item)]


@items.get("")
async def list_items() -> dict[int, str]:
    return STOCK


@items.get("/{item_id}")
def read_item(item_id: KnownItem) -> dict[str, str]:
    warehouse.info("counted %s", STOCK[item_id])
    return {"name": STOCK[item_id]}


@items.get("/{item_id}/price")
async def read_price(item_id: KnownItem) -> dict[str, int]:
    await asyncio.sleep(random.uniform(0.001, 0.01))
    return {"cents": PRICES[item_id]}


class Order(BaseModel):
    item_id: int
    count: int = Field(gt=0, le=100)


@orders.post("", status_code=201)
async def place_order(
    order: Order, request: Request, background: BackgroundTasks, log: RequestLogger, correlation_id: CorrelationId
) -> dict[str, int | str]:
    """Ask our own price list over HTTP, handing correlation id and trace on, and pack the parcel after the answer."""
    log.bind(item_id=order.item_id, count=order.count)
    if request.app.state.breaker.is_open:
        raise HTTPException(503, "no prices at the moment", {"Retry-After": "10"})
    headers = {"X-Correlation-ID": correlation_id}
    propagate.inject(headers)
    answer = await request.app.state.prices.get(f"/api/items/{order.item_id}/price", headers=headers)
    if answer.is_error:
        raise HTTPException(409, "not for sale")
    background.add_task(pack, order)
    log.info("order placed", cents=answer.json()["cents"] * order.count)
    return {"cents": answer.json()["cents"] * order.count, "correlation_id": correlation_id}


def pack(order: Order) -> None:
    """Take a moment, after the client has its answer."""
    time.sleep(random.uniform(0.005, 0.03))
    logger.info("parcel packed")
    if order.count == 13:
        raise RuntimeError("thirteen does not fit the box")


class Camera(BaseModel):
    location: str = Field(min_length=1, max_length=40)
    confidence: float = Field(default=0.9, ge=0, le=1)


@live.post("/identify")
async def identify(seen: Camera, log: RequestLogger, request_id: RequestId) -> dict[str, str]:
    """Recognise a guest."""
    customer = f"cust{sum(seen.location.encode()) % 900 + 100}"
    log.bind(customer_id=customer)
    log.event("Customer identified", customer_id=customer, location=seen.location, confidence=seen.confidence)
    return {"customer_id": customer, "request_id": request_id}


@live.get("/slow")
async def slow(span: CurrentSpan) -> dict[str, str]:
    span.add_event("thinking")
    await asyncio.sleep(random.uniform(0.2, 0.6))
    return {"answer": "42"}


@live.get("/boom")
async def boom() -> None:
    bind(fuse="short")
    raise ValueError("the kettle is on fire")


@live.get("/export")
async def export() -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        for item_id, name in STOCK.items():
            await asyncio.sleep(0.005)
            yield f"{item_id},{name},{PRICES[item_id]}\n"

    return StreamingResponse(rows(), media_type="text/csv")


@live.get("/events")
async def events() -> StreamingResponse:
    async def feed() -> AsyncIterator[str]:
        for number in range(5):
            await asyncio.sleep(0.05)
            yield f"data: {number}\n\n"

    return StreamingResponse(feed(), media_type="text/event-stream")


@live.websocket("/chat/{room}")
async def chat(socket: WebSocket, room: str, log: RequestLogger) -> None:
    if room == "closed":
        await socket.close(1008)
        return
    await socket.accept()
    log.info("joined", room=room)
    try:
        while True:
            await socket.send_text(f"{room}: {await socket.receive_text()}")
    except WebSocketDisconnect:
        log.info("left", room=room)


api.include_router(items)
api.include_router(orders)
