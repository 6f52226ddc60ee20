"""Spans: the server span of a request, and the spans below it."""
