"""The contract of an app, read from what it is built with: nothing of it is called."""

from collections.abc import Iterator
from dataclasses import replace

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from starlette.applications import Starlette

from sage_fastapi_obs.catalog import CATALOG, PACKS, Alias, Metric
from sage_fastapi_obs.contract.own_uses import own_rules, own_uses
from sage_fastapi_obs.contract.query_needs import needs_of
from sage_fastapi_obs.contract.rule_uses import recorded_in
from sage_fastapi_obs.contract.telemetry_contract import FORMAT, Contract, ContractError, MetricTerms
from sage_fastapi_obs.inspection.inspected_app import InspectedApp
from sage_fastapi_obs.inspection.synthetic_requests import ask
from sage_fastapi_obs.inspection.synthetic_routes import synthetic_routes
from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.line_format import LINE_FIELDS
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.operations.own_metrics import all_declared
from sage_fastapi_obs.settings import LoggingSettings, Settings
from sage_fastapi_obs.tracing.server_attributes import EXPLAINED

_OF_ERRORS = ("error.type", "error.message", "error.stack_trace")


async def contract_of(inspected: InspectedApp) -> Contract:
    """Read the contract of an app; raises `ContractError` where no `Observability` watches it."""
    observability, settings = inspected.observability, inspected.settings
    if observability is None or settings is None:
        raise ContractError(f"{inspected.name} has no Observability, so it promises nothing: add Observability().install(app)")
    rules = own_rules(settings, observability.status.alerts.rules)
    fields = _fields(settings.logging)
    contract = Contract(
        format=FORMAT,
        service=settings.service.name,
        metrics=dict(_metrics(observability)) if settings.metrics.enabled else {},
        routes=tuple(sorted({found.path for found in inspected.routes if not found.is_mount})),
        fields=fields,
        levels=tuple(level for level, number in LEVELS.items() if fields and number >= LEVELS[settings.logging.level]),
        attributes=tuple(sorted(await _attributes(settings))) if settings.tracing.enabled else (),
        hidden=_hidden(settings.logging),
        rules={name: rule.condition for name, rule in rules.items()},
    )
    uses = sorted(own_uses(settings, rules), key=lambda use: (use.kind, use.name, use.part, use.text))
    recorded = recorded_in(uses)
    return replace(contract, used_by=tuple(use for use in uses if needs_of(use, contract, recorded)[0]))


def _metrics(observability: Observability) -> Iterator[tuple[str, MetricTerms]]:
    """Yield what is registered, and what is declared and not yet used."""
    declared = {one.metric.name: one.metric for one in observability.instruments.known()}
    # Some of what the process says is there on some systems only.
    of_process = PACKS["runtime"] if "runtime" in observability.instruments.packs else ()
    # The instruments of what the app declares are only built when they are used.
    for metric in (*of_process, *(one for one in all_declared() if not one.pack)):
        declared.setdefault(metric.name, metric)
    yield from ((name, _terms(metric, metric.buckets)) for name, metric in declared.items())
    groups = observability.settings.metrics.alias_groups
    for reading in RegistryReader(observability.registry, observability.internal_errors)():
        _, older = CATALOG.by_alias.get(reading.name, (None, None))
        if older is not None and older.group in groups:
            continue
        known = declared.get(reading.name) or CATALOG.get(reading.name)
        if known is None:
            yield reading.name, MetricTerms(reading.kind, dict.fromkeys(sorted(reading.labels), ()), reading.bounds)
            continue
        yield reading.name, _terms(known, reading.bounds)
        for alias in known.aliases:
            if alias.group in groups:
                yield alias.name, _older_terms(known, alias, reading.bounds)


def _terms(metric: Metric, bounds: tuple[float, ...]) -> MetricTerms:
    return MetricTerms(metric.type, dict(metric.labels), bounds)


def _older_terms(metric: Metric, alias: Alias, bounds: tuple[float, ...]) -> MetricTerms:
    labels = {
        label: tuple(alias.values.get(label, {}).get(value, value) for value in alias.only.get(label, values))
        for label, values in metric.labels.items()
        if label not in alias.without
    }
    return MetricTerms(alias.type or metric.type, labels, tuple(bound * alias.factor for bound in bounds))


def _fields(logging: LoggingSettings) -> tuple[str, ...]:
    if not logging.enabled or not (logging.format == "json" or logging.elasticsearch_url or logging.otlp_endpoint):
        return ()
    aliases = logging.field_aliases
    nested = (f"{aliases.get('error', 'error')}{name.removeprefix('error')}" for name in _OF_ERRORS)
    return tuple(sorted([*(aliases.get(name, name) for name in LINE_FIELDS), *nested]))


def _hidden(logging: LoggingSettings) -> tuple[str, ...]:
    built_in = ("names that are always secret",) if logging.redact_builtin else ()
    shown_only = (
        () if logging.show_only is None else (f"all extra fields but {', '.join(sorted(logging.show_only)) or 'none'}",)
    )
    return (*sorted(logging.redact), *built_in, *shown_only)


async def _attributes(settings: Settings) -> set[str]:
    """Ask an app of our own with these settings, and return what its spans say."""
    names = _AttributeNames()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(names)
    # Nothing is found out that depends on the machine, and no line of ours goes where the app's lines go.
    changed = {"insight": {"enabled": False}, "logging": {"enabled": True}}
    sections = {name: getattr(settings, name).model_copy(update=update) for name, update in changed.items()}
    app, observability = Starlette(), Observability(settings.model_copy(update=sections), tracer_provider=provider)
    observability.install(app)
    async with observability:
        with synthetic_routes(app) as prefix:
            for path in ("/ok/1", "/raise"):
                await ask(app, prefix + path, query="page=1")
    explained = EXPLAINED if settings.insight.enabled else ()
    return names.found.union(explained)


class _AttributeNames(SpanProcessor):
    """Collects them where exporters are kept from sending."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def on_end(self, span: ReadableSpan) -> None:
        self.found.update(span.attributes or ())
