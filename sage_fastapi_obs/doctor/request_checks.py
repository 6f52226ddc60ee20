"""What requests cost and how they end, as it was measured with those that were made."""

import ast
import inspect
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sage_fastapi_obs.causes import CAUSES
from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.inspection.app_layers import FoundRoute
from sage_fastapi_obs.inspection.synthetic_requests import SYNTHETIC_REQUESTS, SyntheticAnswer
from sage_fastapi_obs.request.fastapi_internals import dependants_of

_COSTLY_US = 2_000
"""Processor time of one layer for one request: several times what a whole request costs."""
_BLOCKING = (
    *(("time", "sleep"), ("os", "system"), ("subprocess", "run"), ("subprocess", "check_output"), ("subprocess", "check_call")),
    *(("urllib.request", "urlopen"), ("socket", "create_connection"), ("requests", "get"), ("requests", "post")),
    *(("requests", "put"), ("requests", "delete"), ("requests", "request"), ("httpx", "get"), ("httpx", "post")),
)
"""Functions that wait and let nothing else run meanwhile."""
_MEANT = "noqa: ASYNC"
"""How linters are told so."""


def label_growth(seen: Observations) -> Iterator[Fault]:
    """Find labels whose values are those of requests, so that series grow without end."""
    for metric, label in seen.grown:
        yield Fault(
            *("label-growth", f"the label {label} of {metric} has another value for each request or client"),
            "take a route or another word of few values for it, and put the value on the access line",
        )
    settings = seen.inspected.settings
    routes = len({found.path for found in seen.inspected.routes})
    if settings is not None and routes > settings.metrics.max_routes:
        yield Fault(
            *(
                "label-growth",
                f"there are {routes} routes, and all beyond {settings.metrics.max_routes} are counted as 'other'",
            ),
            "raise metrics.max_routes",
        )


def loop_blocking(seen: Observations) -> Iterator[Fault]:
    """Find what keeps the event loop from all other requests: what was measured, and what async routes call."""
    yield from _measured([*seen.answers.values(), *(answer for _, answer in seen.called)])
    for found in seen.inspected.routes:
        for function in filter(_is_async, _functions(found.route)):
            for name, line in _blocking_calls(function):
                yield Fault(
                    *("loop-blocking", f"async code of {found.path} calls {name} at {function.__module__}, line {line}"),
                    CAUSES["blocked_loop"].remedy,
                )


def _measured(answers: Iterable[SyntheticAnswer]) -> Iterator[Fault]:
    """Tell of each line of the application once, whatever requests it was that it blocked the loop for."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for exchange in [answer.exchange for answer in answers if answer.exchange is not None]:
        explanation = exchange.explanation
        for finding in () if explanation is None else explanation.findings:
            if explanation is not None and finding.cause == "blocked_loop":
                found[explanation.blocked_loop_at].append(f"to {exchange.route or 'no route'} {finding.text}")
    for texts in found.values():
        more = f", and {len(texts) - 1} more" if len(texts) > 1 else ""
        yield Fault("loop-blocking", f"a request {texts[0]}{more}", CAUSES["blocked_loop"].remedy)


def _functions(route: Any) -> Iterator[Callable[..., Any]]:
    """Yield the endpoint of a route and all functions that it depends on."""
    dependant = getattr(route, "dependant", None)
    calls = (getattr(route, "endpoint", None),) if dependant is None else (each.call for each in dependants_of(dependant))
    for call in map(inspect.unwrap, filter(callable, calls)):
        # An object that is called is as well a dependency.
        yield call if inspect.isroutine(call) else getattr(type(call), "__call__", call)  # noqa: B004


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _blocking_calls(endpoint: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    try:
        rows, first = inspect.getsourcelines(endpoint)
        tree = ast.parse(textwrap.dedent("".join(rows)))
    except (OSError, TypeError, SyntaxError):
        return
    code = endpoint.__code__
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    known = {name: value for name, value in endpoint.__globals__.items() if name not in own}
    for node in _run_by(tree.body[0]):
        if isinstance(node, ast.Call) and _MEANT not in rows[node.lineno - 1]:
            name = _name_of(_resolved(node.func, known))
            if name:
                yield name, first + node.lineno - 1


def _run_by(function: ast.stmt) -> Iterator[ast.AST]:
    """Yield what a function runs itself: not what is in functions that it makes, as to hand them to a thread."""
    waiting: list[ast.AST] = [*getattr(function, "body", ())]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting += ast.iter_child_nodes(node)


def _resolved(node: ast.expr, known: dict[str, Any]) -> Any:
    """Find what a name stands for, as far as it is a global, or an attribute of one that is a module."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    owner = _resolved(node.value, known) if isinstance(node, ast.Attribute) else None
    return getattr(owner, node.attr, None) if inspect.ismodule(owner) and isinstance(node, ast.Attribute) else None


def _name_of(function: Any) -> str:
    for module, name in _BLOCKING if callable(function) else ():
        if getattr(sys.modules.get(module), name, None) is function:
            return f"{module}.{name}"
    return ""


def request_cost(seen: Observations) -> Iterator[Fault]:
    """Find layers that cost each request much processor time."""
    for cost in seen.costs:
        if cost.cpu_us > _COSTLY_US:
            yield Fault(
                *("request-cost", f"{cost.layer} takes {cost.cpu_us / 1_000:.1f} ms of the processor for each request"),
                "profile it, and do at the start what is the same for all requests",
            )


def failing_requests(seen: Observations) -> Iterator[Fault]:
    """Find requests that ended in another way than they should; behind what has refused them, nothing was looked at."""
    ended: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for request in SYNTHETIC_REQUESTS:
        answer = seen.answers.get(request.kind)
        if answer is not None and answer.status != request.expected:
            ended[_end(answer), answer.error is None].append(f"{request.kind} (for {request.expected})")
    for (end, is_note), kinds in ended.items():
        yield Fault(
            *("failing-request", f"synthetic requests ended with {end}: {', '.join(kinds)}"),
            "if a layer refuses them, look at the app without that; if the app has to start first, use --lifespan",
            is_note=is_note,
        )
    for found, answer in seen.called:
        # An answer without an end is one, too, such as a stream of events.
        has_failed = answer.error is not None and not isinstance(answer.error, TimeoutError)
        if has_failed or answer.status is None or answer.status >= 500:
            yield Fault("failing-request", f"GET {found.path} ended with {_end(answer)}", "see the line of its request")
        elif _has_other_route(found, answer):
            yield _other_route(seen, found, str(answer.exchange and answer.exchange.route))


def _other_route(seen: Observations, found: FoundRoute, taken: str) -> Fault:
    if any(taken in (other.path, other.prefix + getattr(other.route, "path", "")) for other in seen.inspected.routes):
        return Fault(
            *("failing-request", f"GET {found.path} never comes to its route: {taken} is declared before it, and takes it"),
            f"declare {found.path} before {taken}",
        )
    return Fault(
        *("route-without-template", f"GET {found.path} is recorded with the route {taken}"),
        "let what routes it leave `route` or `endpoint` in the scope",
    )


def _end(answer: SyntheticAnswer) -> str:
    error = "" if answer.error is None else type(answer.error).__name__
    return " and ".join(filter(None, (str(answer.status or ""), error))) or "no answer"


def _has_other_route(found: FoundRoute, answer: SyntheticAnswer) -> bool:
    exchange = answer.exchange
    return exchange is not None and answer.status == 200 and not exchange.excluded and exchange.route != found.path
