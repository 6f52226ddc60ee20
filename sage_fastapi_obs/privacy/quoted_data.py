"""The text of an exception without the data that it is about, which some libraries quote in theirs.

The texts of known exceptions are made from their attributes. For all others there is a rule: their text is shown and redacted
like any text, and what it announces as input or the like is hidden: see `Redaction.error_text`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, get_args

from pydantic_core import core_schema

from sage_fastapi_obs.privacy.exception_name import class_name
from sage_fastapi_obs.privacy.redaction import REDACTED

_MOST_ERRORS = 20
"""Errors of one validation that are shown."""
_DEEPEST = 8
"""How deeply exceptions may be nested that only have the text of their argument."""
_WITH_DATA = {
    *("value_error", "assertion_error", "get_attribute_error", "iteration_error", "mapping_type"),
    *("union_tag_invalid", "uuid_parsing", "bytes_invalid_encoding"),
}
"""Messages of pydantic with a text that comes from the input, or from the application's own validators."""
_WITHOUT_DATA = frozenset(get_args(core_schema.ErrorType)) - _WITH_DATA
_DATA_STATES = ("22", "42601")
"""SQLSTATEs whose messages have data, or a piece of the statement, in quotes; in those of others these are names."""
_QUOTED_DATA = re.compile(r"[\"'].*[\"']|[\"'].*", re.DOTALL)
"""From the first quote to the last, as data may have some, too."""
_LITERAL = re.compile(r"'(?:[^']|'')*+(?:'|\Z)")


def exception_text(error: BaseException) -> str:
    """Return the text of an exception; raises what its `str` raises."""
    text = rewritten(error)
    return str(error) if text is None else text


def rewritten(error: BaseException) -> str | None:
    """Return the text of a known exception, without data; None where its `str` is its text."""
    for _ in range(_DEEPEST):
        kind: Any = type(error)
        read = _reader(kind)
        if read is not None:
            return read(error)
        if kind.__str__ is not BaseException.__str__ or len(error.args) != 1:
            return None
        inner = error.args[0]
        if not isinstance(inner, BaseException):
            return None
        error = inner
    return class_name(error)


def validation_message(kind: object, message: object) -> str:
    """Return of a validation's message what is surely no data; `kind`: its `type`."""
    if not isinstance(kind, str):
        return ""
    if kind in _WITHOUT_DATA:
        return str(message)
    return re.split("[,:'`]", str(message), maxsplit=1)[0].strip() if kind in _WITH_DATA else ""


def _pydantic(error: Any) -> str:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return _validation(errors, f" for {error.title}")


def _fastapi(error: Any) -> str:
    return _validation(error.errors(), "")


def _validation(errors: Iterable[Any], subject: str) -> str:
    errors = list(errors)
    rows = [f"{len(errors)} validation error{'s' * (len(errors) != 1)}{subject}"]
    for one in errors[:_MOST_ERRORS]:
        details: Mapping[str, Any] = one if isinstance(one, Mapping) else {}
        kind = details.get("type")
        where = ".".join(map(str, details.get("loc") or ()))
        rows.append(f"{where}\n  {validation_message(kind, details.get('msg', ''))} [type={kind}]")
    return "\n".join([*rows, *["…"] * (len(errors) > _MOST_ERRORS)])


def _sqlalchemy(error: Any) -> str:
    said = str(error.args[0]) if error.orig is None else f"({_full_name(type(error.orig))}) {exception_text(error.orig)}"
    return f"{said}\n[SQL: {_LITERAL.sub('?', error.statement)}]" if error.statement else said


def _postgresql(error: Any) -> str:
    """Return the message and the state; detail, context and the statement's line have data."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    state = getattr(error, "sqlstate", None)
    if state is None:
        return str(error)
    text = str(primary or str(error).partition("\n")[0])
    if state.startswith(_DATA_STATES):
        text = _QUOTED_DATA.sub(f'"{REDACTED}"', text)
    return f"[sqlstate={state}] {text}"


def _jsonschema(error: Any) -> str:
    return f"{error.json_path} does not fit {error.validator!r} of its schema"


_READERS: dict[str, Callable[[Any], str]] = {
    "pydantic_core._pydantic_core.ValidationError": _pydantic,
    "fastapi.exceptions.ValidationException": _fastapi,
    "sqlalchemy.exc.StatementError": _sqlalchemy,
    "sqlalchemy.dialects.postgresql.asyncpg.AsyncAdapt_asyncpg_dbapi.Error": _postgresql,
    "asyncpg.exceptions._base.PostgresError": _postgresql,
    "psycopg.Error": _postgresql,
    "psycopg2.Error": _postgresql,
    "jsonschema.exceptions._Error": _jsonschema,
}
"""By the full names of classes, so that nothing has to be installed, or imported."""


@lru_cache(maxsize=1024)
def _reader(kind: type) -> Callable[[Any], str] | None:
    return next((_READERS[name] for name in map(_full_name, kind.__mro__) if name in _READERS), None)


def _full_name(kind: type) -> str:
    try:
        return f"{kind.__module__}.{kind.__qualname__}"
    except Exception:
        # Its metaclass, or its module, is no text: none of those that are known.
        return ""
