"""Types of the fields in `sections.py`: how a value may be written, and what it must be."""

import json
import math
import re
import signal
from collections.abc import Callable
from ipaddress import ip_network
from string import Formatter
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from sage_fastapi_obs.log_levels import LevelName, usual_level
from sage_fastapi_obs.pack_folders import pack_names
from sage_fastapi_obs.settings.standard_variables import is_http_url, is_otlp_url

_USED_SIGNALS = frozenset(
    {
        *("SIGKILL", "SIGSTOP", "SIGCONT", "SIGTSTP", "SIGTERM", "SIGINT", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIGPROF"),
        *("SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL", "SIGTRAP", "SIGSYS"),
    }
)
LINK_TEXTS = ("request_id", "correlation_id", "trace_id", "span_id", "route")
LINK_TIMES = ("from_ms", "to_ms")
"""What the template of a link may name, of a request."""
_BOOLEANS = {"true", "yes", "on", "1", "false", "no", "off", "0"}


def _must(hold: Callable[[Any], object], message: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not hold(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _split_list(value: object) -> object:
    """Read a text as a list: JSON or, as people write them, separated by commas."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


def _split_pairs(value: object) -> object:
    """Read a text as a mapping: JSON or, as people write them, `name=other` separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return {name.strip(): other.strip() for name, _, other in pairs}


def _sort_exporters(value: object) -> object:
    names = _split_list(value)
    return ",".join(sorted(map(str, names))) if isinstance(names, list | tuple) else value


def with_otlp_endpoint(tracing: Any) -> Any:
    """Add to the section `tracing` the `otlp_endpoint` that its `jaeger_endpoint` means today, unless it has one.

    Jaeger's Thrift collector (port 14268) is retired; the same host takes OTLP on 4318.
    """
    endpoint = tracing.get("jaeger_endpoint") if isinstance(tracing, dict) else None
    if not is_http_url(endpoint):
        return tracing
    url = urlsplit(str(endpoint))
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return {"otlp_endpoint": urlunsplit((url.scheme, f"{host}:4318", "/v1/traces", "", "")), **tracing}


def _compiles(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return expression


def _is_ascending(bounds: tuple[float, ...]) -> bool:
    return bool(bounds) and list(bounds) == sorted(set(bounds)) and all(0 < bound < math.inf for bound in bounds)


def _existing_pack(name: str) -> str:
    if name not in (packs := pack_names()):
        raise ValueError(f"must be a pack: {', '.join(packs)}")
    return name


def _link_template(template: str) -> str:
    """Hold a link to an http(s) address, with nothing but names of ours between braces."""
    try:
        pieces = [*Formatter().parse(template)]
    except ValueError:
        pieces = []
    named = {(name, form, conversion) for _, name, form, conversion in pieces if name is not None}
    if not pieces or named - {(name, "", None) for name in LINK_TEXTS + LINK_TIMES}:
        names = ", ".join(f"{{{name}}}" for name in LINK_TEXTS + LINK_TIMES)
        raise ValueError(f"a link may name {names}; write other braces as {{{{ and }}}}")
    before, brace, _ = template.partition("{")
    # What clients choose must not stand in the host.
    if not is_http_url(before) or (brace and not re.match("[^:]+://[^/?#]+[/?#]", before)):
        raise ValueError("a link is an http(s) URL whose host is written out, as https://grafana.test/explore?trace={trace_id}")
    return template


def _usual_signal(name: object) -> object:
    """Write the name of a signal as Python does: `usr2` is `SIGUSR2`."""
    return f"SIG{name.strip().upper().removeprefix('SIG')}" if isinstance(name, str) else name


def _is_free_signal(name: str) -> bool:
    """Tell whether a process of this system may do something at a signal that does not mean its end, or an error."""
    return isinstance(getattr(signal, name, None), signal.Signals) and name not in _USED_SIGNALS


class _PackSchema:
    @staticmethod
    def __get_pydantic_json_schema__(_schema: Any, _handler: Any) -> dict[str, Any]:
        return {"enum": [*pack_names()], "type": "string"}


CommaSeparated = BeforeValidator(_split_list)
SwitchOrList = BeforeValidator(lambda value: value if str(value).lower() in _BOOLEANS else _split_list(value))
Names = Annotated[tuple[str, ...], CommaSeparated]
NamePairs = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
Bounds = Annotated[
    tuple[float, ...], CommaSeparated, _must(_is_ascending, "bounds must be positive, finite, distinct and ascending")
]

Pack = Annotated[str, AfterValidator(_existing_pack), _PackSchema()]
Level = Annotated[LevelName, BeforeValidator(usual_level)]
Exporter = Annotated[Literal["none", "console", "otlp", "console,otlp"], BeforeValidator(_sort_exporters)]
RoutePath = Annotated[str, _must(lambda path: path.startswith("/"), "must start with '/'")]
PathPrefix = Annotated[
    str,
    _must(lambda path: path.startswith("/") and not path.endswith("/"), "must start with '/' and not end with one"),
]
ExcludedPath = Annotated[RoutePath, AfterValidator(lambda path: path.rstrip("/") or "/")]
HeaderName = Annotated[
    str, _must(re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch, "a header name has letters, digits and dashes only")
]
HostName = Annotated[
    str,
    _must(
        re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})").fullmatch,
        "a host is a name or an address, as in shop.test, without scheme, port and wildcards",
    ),
    AfterValidator(str.lower),
]
SignalName = Annotated[
    str, BeforeValidator(_usual_signal), _must(_is_free_signal, "must be a signal of this system that is free, such as SIGUSR2")
]
GroupName = Annotated[
    str,
    _must(
        re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch,
        "a group name has up to 64 letters, digits, dots, dashes and underscores, and starts with a letter or a digit",
    ),
]
FieldName = Annotated[str, _must(lambda name: any(map(str.isalnum, name)), "a field name needs a letter or a digit")]
IndexName = Annotated[
    str,
    _must(
        re.compile(r"[a-z0-9]([a-z0-9._-]|%[Ymd])*").fullmatch,
        "an index name has lower-case letters, digits, dots, dashes and underscores, and starts with a letter or a digit; "
        "%Y, %m and %d stand for the day of a line",
    ),
]
Network = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
RegularExpression = Annotated[str, AfterValidator(_compiles)]
Links = Annotated[dict[str, Annotated[str, AfterValidator(_link_template)]], BeforeValidator(_split_pairs)]
HttpUrl = Annotated[str, _must(is_http_url, "must be an http(s) URL, such as http://localhost:4318/v1/traces")]
OtlpUrl = Annotated[
    str,
    _must(is_otlp_url, "must be an http(s) URL, such as http://localhost:4318/v1/traces, or like grpc://localhost:4317"),
]
SecretHttpUrl = Annotated[SecretStr, _must(lambda url: is_http_url(url.get_secret_value()), "must be an http(s) URL")]
Token = Annotated[
    SecretStr,
    _must(
        lambda token: len(token.get_secret_value()) >= 16,
        "a token needs at least 16 characters: python -c 'import secrets; print(secrets.token_urlsafe())'",
    ),
]
