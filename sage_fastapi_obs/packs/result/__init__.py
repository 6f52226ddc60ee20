"""Outcomes as values (`Result`, `MonoResult`, `FluxResult`), with their log lines and metrics."""
