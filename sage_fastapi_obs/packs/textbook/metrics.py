"""Textbooks, learning sessions and the tokens that they cost."""

from functools import partial

from sage_fastapi_obs.catalog.metric import Alias, Metric

__all__ = ["TEXTBOOK_METRICS"]

_textbook = partial(Metric, pack="textbook")

TEXTBOOK_METRICS = (
    _textbook("textbooks_created_total", "counter", "Textbooks created.", {"grade_level": (), "subject": ()}),
    _textbook("active_learning_sessions", "gauge", "Learning sessions that are open now.", {"textbook_id": ()}),
    _textbook("ai_tokens_used_total", "counter", "Tokens of language models used.", {"component": (), "model": ()}),
    _textbook(
        "active_users",
        "gauge",
        "Users who are active now.",
        aliases=(Alias("active_users_total", "textbook"),),
    ),
)
