"""Handshakes, their time, and open sessions: the first part of the pack `sage`."""

from sage_fastapi_obs.catalog import PACKS

__all__ = ["METRICS"]

_CORE = {"sage_handshakes_completed_total", "sage_sessions_active", "sage_handshake_duration_seconds"}
METRICS = tuple(metric for metric in PACKS["sage"] if metric.name in _CORE)
