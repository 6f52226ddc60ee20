"""A FastAPI app with a BaseHTTPMiddleware, OpenTelemetry's instrumentation and Sentry, without us and with us."""

import logging

import sentry_sdk
from fastapi import APIRouter, FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from sentry_sdk.transport import Transport
from starlette.middleware.base import BaseHTTPMiddleware

from sage_fastapi_obs import Observability, Settings

SENT = []


class Kept(Transport):
    """Sends nothing."""

    def capture_envelope(self, envelope):
        SENT.append(envelope)


trace.set_tracer_provider(TracerProvider())
sentry_sdk.init("https://key@sentry.example/1", transport=Kept)
router = APIRouter()


@router.get("/orders/{number}")
async def order(number: int) -> int:
    logging.getLogger("shop").warning("order %s read", number)
    with trace.get_tracer("shop").start_as_current_span("price") as span:
        span.set_attributes({"db.system": "postgresql", "db.statement": "SELECT price", "card": "4111"})
    return number


@router.get("/broken")
async def broken() -> None:
    raise RuntimeError("broken")


async def named(request, call_next):
    response = await call_next(request)
    response.headers["x-shop"] = "layers"
    return response


def build() -> FastAPI:
    built = FastAPI()
    built.include_router(router)
    built.add_middleware(BaseHTTPMiddleware, dispatch=named)
    FastAPIInstrumentor.instrument_app(built)
    return built


app, watched = build(), build()
Observability(Settings(store={"enabled": False}, workers={"enabled": False})).install(watched)
