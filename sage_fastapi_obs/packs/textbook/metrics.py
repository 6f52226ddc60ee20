"""Textbooks, learning sessions and the tokens that they cost."""

from sage_fastapi_obs.catalog.metric import Alias, counter, gauge

METRICS = (
    counter("textbooks_created_total", "Textbooks created.", {"grade_level": (), "subject": ()}),
    gauge("active_learning_sessions", "Learning sessions that are open now.", {"textbook_id": ()}),
    counter("ai_tokens_used_total", "Tokens of language models used.", {"component": (), "model": ()}),
    gauge("active_users", "Users who are active now.", workers="latest", aliases=(Alias("active_users_total", "textbook"),)),
)
