"""Asks an app in every way, and notes what is seen."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from secrets import token_hex
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import REGISTRY

from sage_fastapi_obs.doctor.observations import GrownLabel, Observations, ShownSecret
from sage_fastapi_obs.doctor.request_cost import layer_costs
from sage_fastapi_obs.doctor.span_records import SpanRecords
from sage_fastapi_obs.inspection.app_layers import FoundRoute, metrics_package
from sage_fastapi_obs.inspection.inspected_app import InspectedApp
from sage_fastapi_obs.inspection.synthetic_requests import SYNTHETIC_REQUESTS, SyntheticRequest, ask, ask_synthetic
from sage_fastapi_obs.inspection.synthetic_routes import synthetic_routes
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.request.route import RouteTemplates

_OK = "/ok/1"
_CHUNKS = 20
"""Of the app's own streams: some have no end."""
_DIFFERENT = 12
"""Requests that differ in all that a label may be made of."""
_STRANGER, _HOST = "203.0.113.7", "shop.example"
_SECRETS = ("password", "api_key", "access_token")


async def examine(inspected: InspectedApp, *, with_lifespan: bool, call: bool) -> Observations:
    """Look at an app while it runs. `call`: also ask its own GET routes that take no parameters. Raises `LifespanError`."""
    seen = Observations(inspected)
    async with inspected.running(with_lifespan=with_lifespan):
        if inspected.starlette is not None:
            with synthetic_routes(inspected.starlette) as prefix:
                await _Examination(seen, prefix).run()
        seen.open_foreign_pages = [
            found for found in inspected.routes if metrics_package(found) and await _is_open(inspected, found)
        ]
        if call:
            routes = [found for found in inspected.routes if "GET" in found.methods and "{" not in found.path]
            more = _more(inspected)
            seen.called = [(found, await ask(inspected.app, found.path, leaves_after=_CHUNKS, more=more)) for found in routes]
    return seen


async def _is_open(inspected: InspectedApp, found: FoundRoute) -> bool:
    """Tell whether a page of metrics is served to anybody, and not another page in its place."""
    path = found.path + "/" * found.is_mount
    answer = await ask(inspected.app, path, more=_more(inspected), client=_STRANGER, host=_HOST)
    served = found.route.app if found.is_mount else found.route.endpoint
    return answer.status == 200 and answer.scope.get("endpoint") is served


def _more(inspected: InspectedApp) -> dict[str, Any]:
    """Return what a server adds to the scope of each request."""
    return {"state": dict(inspected.state)}


class _Examination:
    """One app with routes of ours in it."""

    def __init__(self, seen: Observations, prefix: str) -> None:
        self._seen = seen
        self._app = seen.inspected.app
        self._prefix = prefix
        self._more = _more(seen.inspected)
        self._spans = SpanRecords()
        self._templates = RouteTemplates(seen.inspected.starlette)

    async def run(self) -> None:
        """Ask, and note what is seen."""
        # The first request builds what all need.
        first = await ask(self._app, self._prefix + _OK, more=self._more)
        if isinstance(first.error, TimeoutError):
            self._seen.answers["ok"] = first
            return
        self._spans.watch(self._seen.inspected)
        for request in filter(self._is_for_ours, SYNTHETIC_REQUESTS):
            self._seen.answers[request.kind] = await ask_synthetic(self._app, self._prefix, request, more=self._more)
            if request.kind == "ok":
                self._seen.spans = self._spans.ended[:]
        await self._look_for_secrets()
        await self._look_for_growth()
        await self._knock()
        if self._seen.answers["ok"].status == 200:
            more = {**self._more, "app": self._seen.inspected.starlette}
            self._seen.costs = await layer_costs(self._app, self._prefix + _OK, more)

    def _is_for_ours(self, request: SyntheticRequest) -> bool:
        """Tell whether no route of the app itself would take a request, as one for all paths does."""
        template = self._templates.template_of(request.type, request.method, self._prefix + request.path)
        return template is None or template.startswith(self._prefix)

    async def _look_for_secrets(self) -> None:
        secret = token_hex(12)
        headers = {"authorization": f"Bearer {secret}", "cookie": f"session={secret}", "x-api-key": secret}
        query = "&".join(f"{name}={secret}" for name in _SECRETS)
        begin = len(self._spans.ended)
        await ask(self._app, self._prefix + _OK, query=query, headers=headers, more=self._more)
        places = [*_in_lines(secret, self._lines()), *_in_spans(secret, self._spans.ended[begin:])]
        self._seen.shown_secrets = [*dict.fromkeys(places)]

    def _lines(self) -> list[dict[str, Any]]:
        observability = self._seen.inspected.observability
        recent = None if observability is None else observability.logs.recent_lines
        if observability is None or recent is None:
            return []
        observability.logs.flush()
        return [json.loads(encoded) for *_, encoded in [*recent.entries]]

    async def _look_for_growth(self) -> None:
        before = self._label_values()
        paths = [f"{self._prefix}/ok/{{}}", *([f"{self._prefix}/{{}}"] if "not found" in self._seen.answers else [])]
        for number in range(_DIFFERENT):
            unique = f"{number}{token_hex(4)}"
            headers = {"user-agent": unique, "x-user-id": unique, "x-request-id": unique}
            for path in paths:
                await ask(self._app, path.format(unique), query=f"user={unique}", headers=headers, more=self._more)
        self._seen.grown = [
            GrownLabel(metric, label)
            for (metric, label), values in self._label_values().items()
            if len(values - before.get((metric, label), set())) >= _DIFFERENT
        ]

    def _label_values(self) -> dict[tuple[str, str], set[str]]:
        observability = self._seen.inspected.observability
        registry = REGISTRY if observability is None else observability.registry
        errors = InternalErrors() if observability is None else observability.internal_errors
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for reading in RegistryReader(registry, errors, *({REGISTRY} - {registry}))():
            for values, _ in reading.children:
                for label, value in zip(reading.labels, values, strict=True):
                    found[reading.name, label].add(value)
        return found

    async def _knock(self) -> None:
        """Ask for our pages as anybody could."""
        observability = self._seen.inspected.observability
        if observability is None:
            return
        settings = observability.settings
        for path in (settings.metrics.path, f"{settings.monitoring.prefix}/summary"):
            answer = await ask(self._app, path, more=self._more, client=_STRANGER, host=_HOST)
            if answer.status == 200 and self._is_ours(answer.scope):
                self._seen.open_pages = [*self._seen.open_pages, path]

    def _is_ours(self, scope: dict[str, Any]) -> bool:
        observability = self._seen.inspected.observability
        pages = () if observability is None else observability.router.routes
        return any(getattr(page, "endpoint", None) is scope.get("endpoint") for page in pages)


def _in_lines(secret: str, lines: Iterable[dict[str, Any]]) -> Iterator[ShownSecret]:
    for line in lines:
        data = line.get("data")
        fields = (
            {**line, **{f"data.{name}": value for name, value in data.items()}, "data": ""} if isinstance(data, dict) else line
        )
        yield from (ShownSecret(name, None) for name, value in fields.items() if secret in str(value))


def _in_spans(secret: str, spans: Iterable[ReadableSpan]) -> Iterator[ShownSecret]:
    for span in spans:
        scope = span.instrumentation_scope
        by = "" if scope is None else scope.name
        yield from (ShownSecret(name, by) for name, value in (span.attributes or {}).items() if secret in str(value))
