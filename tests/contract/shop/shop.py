"""The app whose contract is looked at; tests change its text."""

from fastapi import FastAPI

from sage_fastapi_obs import Observability, Settings, declare_counter, declare_histogram

PLACED = declare_counter("orders_placed_total", "Orders that were placed.", {"channel": ("web", "phone"), "country": ()})
REFUSED = declare_counter("orders_refused_total", "Orders that were refused.", ["country", "reason"])
PRICE = declare_histogram("order_price_euros", "Prices of orders.", ["channel"], buckets=(1, 10, 100, 1000))

settings = Settings(
    service={"name": "shop"},
    logging={"redact": ["iban"]},
    alerts={"rules": [{"name": "NoOrders", "metric": "http_requests_total", "condition": "<", "threshold": 1}]},
)
app = FastAPI()
Observability(settings).install(app)


@app.get("/orders/{order_id}")
def order(order_id: int) -> int:
    PLACED.inc(channel="web", country="KR")
    return order_id


@app.get("/carts")
def carts() -> str:
    return "none"
