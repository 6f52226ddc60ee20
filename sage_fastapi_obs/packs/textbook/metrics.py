"""Textbooks, learning sessions and the tokens that they cost."""

from sage_fastapi_obs.catalog.metric import Alias, Metric

__all__ = ["METRICS"]


METRICS = (
    Metric("textbooks_created_total", "counter", "Textbooks created.", {"grade_level": (), "subject": ()}),
    Metric("active_learning_sessions", "gauge", "Learning sessions that are open now.", {"textbook_id": ()}),
    Metric("ai_tokens_used_total", "counter", "Tokens of language models used.", {"component": (), "model": ()}),
    Metric(
        "active_users",
        "gauge",
        "Users who are active now.",
        aliases=(Alias("active_users_total", "textbook"),),
    ),
)
