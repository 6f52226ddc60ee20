"""Orders: checked, paid, taken from stock and confirmed, in this order."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel

from sage_fastapi_obs import operation
from sage_fastapi_obs.packs.business import order_processed, transaction_completed

__all__ = ["Order", "OrderRefused", "Store", "api"]

api = APIRouter(tags=["orders"])
SHELVES = {"tea": 500, "coffee": 500, "cocoa": 20}
PRICES = {"tea": Decimal("3.20"), "coffee": Decimal("4.80"), "cocoa": Decimal("4.10")}
CATEGORIES = {"tea": "leaves", "coffee": "beans", "cocoa": "powder"}


class OrderRefused(Exception):
    """An order that cannot be carried out; the text says why."""


@dataclass(frozen=True, slots=True)
class Order:
    item: str
    count: int
    card: str

    @property
    def value(self) -> Decimal:
        return PRICES[self.item] * self.count

    @property
    def category(self) -> str:
        return CATEGORIES[self.item]


class Store:
    """What is on the shelves."""

    def __init__(self, shelves: Mapping[str, int] = SHELVES) -> None:
        self._full = dict(shelves)
        self._shelves = dict(shelves)

    def validate(self, order: Order) -> None:
        if order.item not in PRICES:
            raise OrderRefused("nothing of that name")
        if not 0 < order.count <= 100:
            raise OrderRefused("not so many")

    def charge(self, order: Order) -> str:
        """Charge the card; returns the number of the payment."""
        if not _is_card(order.card):
            raise OrderRefused("the card is not good")
        return uuid.uuid4().hex[:12]

    def take(self, order: Order) -> None:
        """Take it from the shelf, which is filled again when it is nearly empty."""
        left = self._shelves[order.item]
        if left < order.count:
            self._shelves[order.item] = self._full[order.item]
            raise OrderRefused("sold out")
        self._shelves[order.item] = left - order.count

    def confirm(self, order: Order, payment: str) -> str:
        return f"{order.count} x {order.item} for {order.value}, payment {payment}"


def _is_card(number: str) -> bool:
    """Tell whether the last digit of a card's number fits the others, by Luhn's rule."""
    if not (number.isascii() and number.isdigit() and len(number) == 16):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(number, 1)]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


class NewOrder(BaseModel):
    item: str
    count: int = 1
    card: str


@api.post("/orders", status_code=201)
async def place_order(new: NewOrder, request: Request) -> dict[str, str]:
    """Carry an order out, or say why not."""
    try:
        return {"confirmation": process(Order(new.item, new.count, new.card), request.app.state.store)}
    except OrderRefused as refused:
        raise HTTPException(409, str(refused)) from None


@operation("order_processing")
def process(order: Order, store: Store) -> str:
    """Take an order through all its steps; returns the confirmation."""
    with operation("order_validation"):
        store.validate(order)
    with operation("payment", item=order.item) as run:
        payment = store.charge(order)
        run.set(payment=payment)
    with operation("inventory_update"):
        store.take(order)
    transaction_completed()
    order_processed(float(order.value), order.category)
    return store.confirm(order, payment)
