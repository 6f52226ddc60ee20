"""Why a request was refused or failed: what was not valid, or the line that raised."""

from sage_fastapi_obs.catalog import KNOWN_METHODS
from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.exception_handlers import see_handlers_of
from sage_fastapi_obs.insight.facts import Facts
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.raised_error import RaisedError, raised_error
from sage_fastapi_obs.insight.validation import DeclaredNames, Problems
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation, Finding
from sage_fastapi_obs.request.fastapi_internals import route_of

_MOST_NAMED = 3
"""Errors in a clause; the line has more of them."""
_NOT_FOUND = {"http": frozenset({404}), "websocket": frozenset({403, 404})}


class Refusals(CauseObserver):
    """Explains 422s and other refusals, and exceptions."""

    def __init__(self) -> None:
        self._names = DeclaredNames()

    def concerns(self, exchange: Exchange) -> bool:
        """Tell of what was not valid also where a handler of the app has answered that with a success."""
        return exchange.facts is not None and exchange.facts.not_valid is not None

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Add why it was refused or failed."""
        facts = exchange.facts or Facts()
        left = None if exchange.error is None else raised_error(exchange.error)
        raised = left or facts.raised
        if raised is None:
            see_handlers_of(exchange.scope)
        if exchange.error_type is not None and not exchange.failed:
            # A client that left, or a cancellation.
            return
        not_valid = left if left is not None and left.errors is not None else facts.not_valid
        if not_valid is not None:
            self._add_not_valid(exchange, explanation, not_valid)
        if exchange.failed and raised is not None and not raised.is_answer and raised.errors is None:
            explanation.findings.append(Finding("exception", raised_clause(exchange, raised)))
        elif exchange.status >= 400 and not_valid is None:
            explanation.findings.append(Finding("refused", self._refusal(exchange, raised)))

    def _add_not_valid(self, exchange: Exchange, explanation: Explanation, raised: RaisedError) -> None:
        problems = Problems(raised.errors or (), self._names.of(route_of(exchange.scope)))
        explanation.validation, explanation.validation_errors = problems.shown(), problems.found
        named = ", ".join(problems.shown(_MOST_NAMED))
        if raised.is_of_response:
            explanation.findings.append(Finding("response_validation", f"the response does not fit its model: {named}"))
        else:
            word = "refused" if exchange.status >= 400 else "not valid"
            explanation.findings.append(Finding("validation", f"{word}: {named}"))

    def _refusal(self, exchange: Exchange, raised: RaisedError | None) -> str:
        if exchange.rejection is not None:
            return f"refused: {exchange.rejection}"
        place = "" if raised is None else _place(exchange, raised)
        if not place and exchange.route is None and exchange.status in _NOT_FOUND[exchange.kind]:
            return "no route matches"
        if not place and exchange.status == 405:
            method = exchange.method
            return f"the route has no method {method}" if method in KNOWN_METHODS else "the route has no such method"
        return f"answered {exchange.status}{place or _file(exchange, raised)}"


def raised_clause(exchange: Exchange, raised: RaisedError) -> str:
    """Say what was raised, and at which line of the application."""
    return f"raised {raised.name}{_place(exchange, raised)}"


def _place(exchange: Exchange, raised: RaisedError) -> str:
    places = (_code(exchange).place(code, line) for code, line in reversed(raised.frames))
    return next((f" at {place}" for place in places if place is not None), "")


def _file(exchange: Exchange, raised: RaisedError | None) -> str:
    if raised is None or not raised.frames:
        return ", without an exception"
    return f" in {_code(exchange).file(raised.frames[-1][0])}"


def _code(exchange: Exchange) -> ApplicationCode:
    code: ApplicationCode = exchange.observer.insight.code
    return code
