"""Messages about settings: where a mistake is, and what to change; never the value of a secret."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError

_CREDENTIALS = re.compile(r"(//|\w:/?)(?!/).*@", re.DOTALL)
"""Up to the last `@`, as a password may have any character. The slashes are missing where a URL is mistyped."""
_IN_A_FILE = "put the secret into a file named {} and its folder into SAGE_OBS_SECRETS_DIR"
_RETIRED = {
    "notify.slack_webhook_url_file": _IN_A_FILE.format("sage_obs_notify__slack_webhook_url"),
    "notify.pagerduty_routing_key_file": _IN_A_FILE.format("sage_obs_notify__pagerduty_routing_key"),
    "notify.webhook_url_file": _IN_A_FILE.format("sage_obs_notify__webhook_url"),
    "notify.smtp_password_file": _IN_A_FILE.format("sage_obs_notify__smtp_password"),
    "logging.flight_slow_seconds": "set tracing.slow_seconds, which all signals share",
    "export.sink_url": "the exported configuration for demonstrations always names http://alert-sink:9094",
}
"""Settings of earlier versions, and what to do instead."""


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Write one line per mistake."""
    return "\n".join(_line(model, fault) for fault in error.errors(include_url=False, include_context=False))


def _line(model: type[BaseModel], fault: Any) -> str:
    where = [str(part) for part in fault["loc"]]
    dotted = ".".join(where)
    if fault["type"] == "extra_forbidden":
        return unknown_key(dotted, dotted, where[-1], getattr(_type_at(model, where[:-1]), "model_fields", ()))
    # In `notify` a secret is easily put beside its place.
    is_hidden = fault["input"] is not None and (where[0] == "notify" or _holds_secret(_type_at(model, where)))
    given = "" if is_hidden or isinstance(fault["input"], dict) else f", not {_quote(fault['input'])}"
    return f"{dotted}: {fault['msg'].removeprefix('Value error, ')}{given}"


def unknown_key(shown: str, dotted: str, word: str, known: Iterable[str]) -> str:
    """Suggest a known key: `shown` is the name in its source, `dotted` is `section.key`, `word` is compared with `known`."""
    if dotted in _RETIRED:
        return f"{shown} is retired: {_RETIRED[dotted]}"
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"{shown} is no setting" + (f": did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}")


def _type_at(model: Any, where: Iterable[str]) -> Any:
    """Find the type of a field, or of an entry of a list."""
    for part in where:
        fields = getattr(model, "model_fields", None)
        model = next(iter(get_args(model)), None) if fields is None else getattr(fields.get(part), "annotation", None)
    return model


def _holds_secret(type_: Any) -> bool:
    fields = getattr(type_, "model_fields", {})
    return type_ is SecretStr or any(map(_holds_secret, [*get_args(type_), *(field.annotation for field in fields.values())]))


def _quote(value: object) -> str:
    try:
        return without_credentials(json.dumps(value))[:80]
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"


def without_credentials(text: str) -> str:
    """Hide the user and password in URLs."""
    return _CREDENTIALS.sub(r"\1…@", text)
