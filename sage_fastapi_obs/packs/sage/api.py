"""What happens to SAGE in a moment: sessions that end, identities, transactions, nonces and replays."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.operations.count import add_span_event, count, observe, take_from_gauge

__all__ = [
    "add_span_event",
    "record_blockchain_transaction",
    "record_did_registration",
    "record_nonce",
    "record_replay_attack",
    "session_closed",
    "sessions_expired",
]

Status = Literal["success", "failure", "error"]
"""`error` is an older word for `failure`."""


def session_closed(lifetime: float | None = None) -> None:
    """Count a session that one of its sides has closed; `lifetime` in seconds."""
    count("sage_sessions_closed_total")
    take_from_gauge("sage_sessions_active")
    if lifetime is not None:
        observe("sage_session_lifetime_seconds", lifetime)


def sessions_expired(number: int, lifetimes: Iterable[float] | None = None) -> None:
    """Count sessions that ran out of time; `lifetimes` in seconds, of each of them or of some."""
    count("sage_sessions_expired_total", by=number)
    take_from_gauge("sage_sessions_active", by=number)
    for lifetime in _first(number, lifetimes):
        observe("sage_session_lifetime_seconds", lifetime)


def _first(number: int, lifetimes: Iterable[float] | None) -> Iterator[float]:
    try:
        yield from islice(() if lifetimes is None else lifetimes, number)
    except Exception as error:
        count_internal_error("record", error)


def record_did_registration(chain: str, status: Status) -> None:
    """Count the registration of an identity."""
    count("sage_did_registrations_total", chain, status)


def record_blockchain_transaction(chain: str, operation: str, status: Status) -> None:
    """Count a transaction: `register`, `update` or `revoke`."""
    count("sage_blockchain_transactions_total", chain, operation, status)


def record_nonce(status: Literal["valid", "invalid", "expired"], nonce: str | None = None) -> None:
    """Count the check of a nonce; one that is valid is an event of the current span."""
    count("sage_nonce_validations_total", status)
    if isinstance(status, str) and str.__eq__(status, "valid"):
        add_span_event("nonce_validated", nonce=nonce)


def record_replay_attack() -> None:
    """Count a message that had been seen before."""
    count("sage_replay_attacks_detected_total")
