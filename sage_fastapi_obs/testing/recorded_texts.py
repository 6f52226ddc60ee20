"""All texts in lines, spans, metrics and headers, each with where it stands, and the search for secrets in them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

from opentelemetry.sdk.trace import ReadableSpan

from sage_fastapi_obs.privacy.redaction import REDACTED
from sage_fastapi_obs.testing.log_capture import LogLine

Texts: TypeAlias = Iterator[tuple[str, str]]
"""Where each stands, and the text."""


def texts_of_lines(lines: Iterable[LogLine]) -> Texts:
    """Yield the texts of lines: each field, and the whole as it was written."""
    for line in lines:
        yield from texts_of(line.fields, f"line {line.message!r}")
        yield f"line {line.message!r}", line.text


def texts_of_spans(spans: Iterable[ReadableSpan]) -> Texts:
    """Yield the texts of spans: names, attributes, statuses, events and links."""
    for span in spans:
        where = f"span {span.name}"
        yield where, span.name
        yield f"{where}: status", span.status.description or ""
        yield from texts_of(span.attributes or {}, where)
        for event in span.events:
            yield f"{where}, event", event.name
            yield from texts_of(event.attributes or {}, f"{where}, event {event.name}")
        for link in span.links:
            yield from texts_of(link.attributes or {}, f"{where}, link")


def texts_of(value: Any, where: str) -> Texts:
    """Yield the texts in a value, with the names that lead to each."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"{where}, a name", str(name)
            yield from texts_of(inner, f"{where}: {name}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_of(inner, where)
    else:
        yield where, str(value)


def assert_in_none(texts: Texts, secrets: Iterable[str], of: str) -> None:
    """Assert that none of the secrets is in a text, as it is or as it is spelt in JSON or a URL; they are not repeated."""
    forms = [form for secret in secrets for form in _forms(secret)]
    if not forms:
        raise ValueError("say which text must not be recorded: assert_no_secret('s3cret')")
    found = {where for where, text in texts if any(form in text for form in forms)}
    message = f"a secret was recorded {of}: {', '.join(sorted(found))}"
    for form in forms:
        message = message.replace(form, REDACTED)
    assert not found, message


def _forms(secret: str) -> set[str]:
    if not secret:
        raise ValueError("an empty text is in every other: say which text must not be recorded")
    quoted = (
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    )
    return {secret, *quoted}
