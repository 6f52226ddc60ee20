"""Faults as they are planted into a small app, two for each check: what is written, and what is set around it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

HEAD = """
from fastapi import FastAPI
from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings

app = FastAPI()

class Layer:
    def __init__(self, app, before=lambda scope: None):
        self.app = app
        self.before = before

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.before(scope)
        await self.app(scope, receive, send)

def burn(*_):
    import time
    until = time.thread_time() + 0.006
    while time.thread_time() < until:
        pass

def wait(*_):
    import time
    time.sleep(0.15)
"""
INSTALLED = """
Observability(Settings.from_env()).install(app)
"""
TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
"""


class Plant(NamedTuple):
    """One fault."""

    check: str
    told: str
    """A part of what has to be said."""
    code: str
    """Added to the app."""
    installed: bool = True
    """Whether the app is watched before that."""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})
    also: tuple[str, ...] = ()
    """Other checks that it may be a fault for, as by what this version of FastAPI does itself."""


PLANTS = {
    "no observability": Plant("not-watched", "nothing watches", "", installed=False),
    "switched off": Plant(
        *("not-watched", "the setting enabled is false"),
        "app.add_middleware(ObservabilityMiddleware, observability=Observability(Settings(enabled=False)))\n",
        installed=False,
    ),
    "catch-all": Plant(
        *("route-without-template", "the route /{rest:path} takes every path"),
        "@app.get('/{rest:path}')\ndef anything(rest): raise SystemExit('called')\n",
    ),
    "mounted framework": Plant(
        *("route-without-template", "all requests to WSGIMiddleware below /old are one route"),
        "from a2wsgi import WSGIMiddleware\napp.mount('/old', WSGIMiddleware(lambda environ, start: []))\n",
    ),
    "plain function": Plant(
        *("route-without-template", "no routes that are known"),
        "async def plain(scope, receive, send): raise SystemExit('called')\n"
        "app = ObservabilityMiddleware(plain, observability=Observability(Settings()))\n",
        installed=False,
    ),
    "decorated middleware": Plant(
        *("base-http-middleware", "add_header is a BaseHTTPMiddleware"),
        "@app.middleware('http')\nasync def add_header(request, call_next): return await call_next(request)\n",
    ),
    "middleware of a mounted app": Plant(
        *("base-http-middleware", "Old of the app mounted at /inner is a BaseHTTPMiddleware"),
        "from starlette.middleware.base import BaseHTTPMiddleware\n"
        "class Old(BaseHTTPMiddleware):\n"
        "    async def dispatch(self, request, call_next): return await call_next(request)\n"
        "inner = FastAPI()\ninner.add_middleware(Old)\napp.mount('/inner', inner)\n",
    ),
    "wrapped outside": Plant(
        *("middleware-order", "CORSMiddleware is wrapped around the watched app"),
        "from starlette.middleware.cors import CORSMiddleware\napp = CORSMiddleware(app, allow_origins=['*'])\n",
    ),
    "installed inside": Plant(
        *("middleware-order", "only the app that is mounted at /inner is watched"),
        "inner = FastAPI()\nObservability().install(inner)\napp.mount('/inner', inner)\n",
        installed=False,
    ),
    "instrumented, too": Plant(
        *("two-server-spans", "one request is 2 spans of this service, by"),
        TRACED + "app.add_middleware(OpenTelemetryMiddleware, tracer_provider=provider)\n"
        "Observability(Settings(tracing={'exporter': 'console'})).install(app)\n",
        installed=False,
        also=("unredacted-field",),
    ),
    "span of its own": Plant(
        *("two-server-spans", "one request is 2 spans of this service, by"),
        TRACED + "trace.set_tracer_provider(provider)\n"
        "class Own:\n"
        "    def __init__(self, app): self.app = app\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        with trace.get_tracer('own').start_as_current_span('own', kind=trace.SpanKind.SERVER):\n"
        "            await self.app(scope, receive, send)\n"
        "app.add_middleware(Own)\n",
        also=("unredacted-field",),
    ),
    "basicConfig": Plant(
        *("logging-twice", "StreamHandler of the logger root writes lines to stderr"),
        "import logging\nlogging.basicConfig()\n",
    ),
    "handler of one logger": Plant(
        *("logging-twice", "StreamHandler of the logger shop.orders writes lines to stderr"),
        "import logging\nlogging.getLogger('shop.orders').addHandler(logging.StreamHandler())\n",
    ),
    "sink": Plant(
        *("logging-twice", "of loguru writes every line to stdout a second time"),
        "import sys\nfrom loguru import logger\nlogger.add(sys.stdout)\n",
        environment={"SAGE_OBS_LOGGING__TAKEOVER": "false"},
    ),
    "structlog": Plant(
        *("logging-twice", "structlog prints its lines itself"),
        "import structlog\nstructlog.configure(logger_factory=structlog.PrintLoggerFactory())\n",
    ),
    "Sentry": Plant(
        *("sentry-loguru", "Sentry makes an event of each error that loguru writes"),
        "import sentry_sdk\nsentry_sdk.init(dsn='http://key@127.0.0.1:9/1')\n",
    ),
    "Sentry with an integration": Plant(
        *("sentry-loguru", "Sentry makes an event of each error that loguru writes"),
        "import sentry_sdk\nfrom sentry_sdk.integrations.loguru import LoguruIntegration\n"
        "sentry_sdk.init(dsn='http://key@127.0.0.1:9/1', default_integrations=False, integrations=[LoguruIntegration()])\n",
    ),
    "open pages": Plant(
        *("public-pages", "anybody may read /metrics and /monitoring/summary", ""),
        environment={"SAGE_OBS_MONITORING__ACCESS": "open"},
    ),
    "page of the client library": Plant(
        *("public-pages", "anybody may read the metrics that prometheus_client serves at /numbers"),
        "from prometheus_client import make_asgi_app\napp.mount('/numbers', make_asgi_app())\n",
    ),
    "page of the client library in place of ours": Plant(
        *("public-pages", "anybody may read the metrics that prometheus_client serves at /metrics"),
        "from prometheus_client import make_asgi_app\napp.mount('/metrics', make_asgi_app())\n",
        environment={"SAGE_OBS_MONITORING__ACCESS": "port"},
    ),
    "page of the client library by WSGI": Plant(
        *("public-pages", "anybody may read the metrics that prometheus_client serves at /numbers"),
        "from a2wsgi import WSGIMiddleware\nfrom prometheus_client import make_wsgi_app\n"
        "app.mount('/numbers', WSGIMiddleware(make_wsgi_app()))\n",
        installed=False,
        also=("not-watched",),
    ),
    "nothing is redacted": Plant(
        *("unredacted-field", "are shown in fields of log lines: data.password, data.api_key, data.access_token", ""),
        environment={"SAGE_OBS_LOGGING__REDACT_BUILTIN": "false"},
    ),
    "secret of another name": Plant(
        *("unredacted-field", "pin is a secret that /pay takes"),
        "from pydantic import BaseModel, SecretStr\n"
        "class Card(BaseModel):\n    pin: SecretStr\n    password: SecretStr\n"
        "class Order(BaseModel):\n    cards: list[Card]\n"
        "@app.post('/pay')\ndef pay(order: Order): raise SystemExit('called')\n",
    ),
    "captured headers": Plant(
        *("unredacted-field", "http.request.header.x_customer"),
        TRACED + "trace.set_tracer_provider(provider)\n"
        "class Capture(Layer):\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        headers = dict(scope.get('headers', ()))\n"
        "        trace.get_current_span().set_attribute('http.request.header.x_customer', str(headers))\n"
        "        await self.app(scope, receive, send)\n"
        "app.add_middleware(Capture)\n",
    ),
    "workers for themselves": Plant(
        *("worker-mode", "there are 4 workers, and each answers for itself", ""),
        environment={"WEB_CONCURRENCY": "4", "SAGE_OBS_WORKERS__ENABLED": "false"},
    ),
    "gunicorn's workers for themselves": Plant(
        *("worker-mode", "there are 3 workers, and each answers for itself", ""),
        environment={"GUNICORN_CMD_ARGS": "--bind :80 --workers=3", "SAGE_OBS_WORKERS__ENABLED": "false"},
    ),
    "files of the client library": Plant(
        *("worker-mode", "PROMETHEUS_MULTIPROC_DIR is set", ""), environment={"PROMETHEUS_MULTIPROC_DIR": "."}
    ),
    "preset of another environment": Plant(
        *("preset", "the preset 'dev' is in force, and the environment is 'staging'"),
        "Observability(Settings.dev(service={'environment': 'staging'})).install(app)\n",
        installed=False,
        arguments=("--force",),
    ),
    "environment that is not read": Plant(
        *("preset", "SAGE_OBS_LOGGING__LEVEL of the environment is not read"),
        "Observability(Settings()).install(app)\n",
        installed=False,
        environment={"SAGE_OBS_LOGGING__LEVEL": "debug"},
    ),
    "collector that is not there": Plant(
        *("exporter-unreachable", "tracing.otlp_endpoint: 127.0.0.1:9 cannot be reached", ""),
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ),
    "collector at another path": Plant(
        *("exporter-unreachable", "answers 404 at /v1/trace, which is no OTLP", ""),
        environment={"SAGE_OBS_TRACING__OTLP_ENDPOINT": "http://127.0.0.1:{port}/v1/trace"},
    ),
    "host that is not there": Plant(
        *("exporter-unreachable", "notify.webhook_url: nowhere.invalid:443 cannot be reached", ""),
        environment={"SAGE_OBS_NOTIFY__WEBHOOK_URL": "https://ada:s3cr3t@nowhere.invalid/x"},
    ),
    "receiver without a port": Plant(
        *("exporter-unreachable", "tracing.otlp_endpoint: nowhere.invalid:443 cannot be reached", ""),
        environment={"SAGE_OBS_TRACING__OTLP_ENDPOINT": "grpcs://nowhere.invalid"},
    ),
    "path as a label": Plant(
        *("label-growth", "the label path of seen_total has another value"),
        "from prometheus_client import Counter\n"
        "SEEN = Counter('seen_total', 'Requests', ['path'])\n"
        "app.add_middleware(Layer, before=lambda scope: SEEN.labels(scope['path']).inc())\n",
    ),
    "client as a label": Plant(
        *("label-growth", "the label agent of clients_total has another value"),
        "from sage_fastapi_obs import declare_counter\n"
        "class Clients:\n    seen = declare_counter('clients_total', 'Clients.', ['agent'])\n"
        "class Count(Layer):\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        Clients.seen.inc(agent=dict(scope['headers'])[b'user-agent'].decode())\n"
        "        await self.app(scope, receive, send)\n"
        "app.add_middleware(Count)\n",
    ),
    "layer that waits": Plant(
        *("loop-blocking", "blocked the event loop"),
        "app.add_middleware(Layer, before=wait)\n",
    ),
    "route that waits": Plant(
        *("loop-blocking", "async code of /report calls time.sleep at shop, line"),
        "from time import sleep\n@app.get('/report')\nasync def report():\n    sleep(3600)\n",
    ),
    "dependency that waits": Plant(
        *("loop-blocking", "async code of /report calls urllib.request.urlopen at shop, line"),
        "import urllib.request\nfrom fastapi import Depends\n"
        "async def user(): return urllib.request.urlopen('http://127.0.0.1:9')\n"
        "async def meant():\n    urllib.request.urlopen('http://127.0.0.1:9')  # noqa: ASYNC210\n"
        "@app.get('/report', dependencies=[Depends(user)])\ndef report(): raise SystemExit('called')\n"
        "@app.get('/other', dependencies=[Depends(meant)])\ndef other(): raise SystemExit('called')\n",
    ),
    "route that waits, called": Plant(
        *("loop-blocking", "a request to /report blocked the event loop"),
        "@app.get('/report')\nasync def report():\n    wait()\n",
        arguments=("--call",),
    ),
    "layer that computes": Plant(
        *("request-cost", "Layer takes"),
        "app.add_middleware(Layer, before=burn)\n",
    ),
    "function that computes": Plant(
        *("request-cost", "compute takes"),
        "@app.middleware('http')\nasync def compute(request, call_next):\n    burn()\n    return await call_next(request)\n",
        also=("base-http-middleware",),
    ),
    "layer that refuses": Plant(
        *("failing-request", "synthetic requests ended with 401: ok (for 200), not found (for 404), wrong method (for 405)"),
        "from starlette.responses import PlainTextResponse\n"
        "class Door:\n"
        "    def __init__(self, app): self.app = app\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        await PlainTextResponse('no', 401)(scope, receive, send)\n"
        "app.add_middleware(Door)\n",
    ),
    "route that another takes": Plant(
        *("failing-request", "GET /users/me never comes to its route: /users/{user} is declared before it"),
        "@app.get('/users/{user}')\ndef one(user): return user\n@app.get('/users/me')\ndef me(): raise SystemExit('called')\n",
        arguments=("--call",),
    ),
    "route that fails": Plant(
        *("failing-request", "GET /broken ended with 500 and ZeroDivisionError"),
        "@app.get('/broken')\ndef broken(): return 1 / 0\n",
        arguments=("--call",),
    ),
}
