"""Adds to a line what the current context has: the ids of the request and its span, and the fields that were bound."""

from typing import Any

from sage_fastapi_obs.logs.application_fields import FIELD_CORRELATION_ID, FIELD_REQUEST_ID
from sage_fastapi_obs.request.correlation import current_correlation_id
from sage_fastapi_obs.request.exchange import current_exchange
from sage_fastapi_obs.request.innermost_span import innermost_ids, running


def add_context(fields: dict[str, Any]) -> None:
    """Add ids, which override existing fields, and bound fields, which do not."""
    exchange = current_exchange.get()
    if exchange is not None:
        # A copy, because another thread of the request may be binding.
        for name, value in (exchange.bound_fields or {}).copy().items():
            fields.setdefault(name, value)
        fields[FIELD_REQUEST_ID] = exchange.request_id
    correlation_id = current_correlation_id()
    if correlation_id is not None:
        fields[FIELD_CORRELATION_ID] = correlation_id
    operation = running()
    if operation is not None:
        for name, value in operation.fields.copy().items():
            fields.setdefault(name, value)
    fields.update(innermost_ids())
