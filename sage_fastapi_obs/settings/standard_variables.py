"""Variables of the environment that others define: OpenTelemetry's, and what a platform injects.

A mistake in one of these does not stop the start, as it may be meant for another program: it is remarked instead.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Remark = Callable[[str], None]
"""Takes a remark: a mistake, and what to change."""
Signal = Literal["traces", "logs", "metrics"]
Compression = Literal["none", "gzip", "deflate"]

_STANDARD = ("OTEL_", "SERVICE_NAME", "APP_ENV", "NODE_ENV", "APP_VERSION")
_DEFAULT_ENDPOINTS = {"http": "http://localhost:4318", "grpc": "http://localhost:4317"}
_TIMEOUT_SECONDS = 10.0
_LONGEST_SECONDS = 300.0
"""A greater time limit is in milliseconds, as the specification says; a smaller one in seconds, as in Python's SDK."""
_KNOWN_EXPORTERS = {
    "otlp": "otlp",
    "otlp_proto_http": "otlp",
    "otlp_proto_grpc": "grpc",
    "console": "console",
    "logging": "console",
    "prometheus": "none",
    "none": "none",
}
_ELSEWHERE = frozenset({"console", "logging", "prometheus"})
"""Exporters that not every signal has."""
_METRIC_PREFERENCES = {"TEMPORALITY_PREFERENCE": "cumulative", "DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram"}
"""What is asked for where there is only one way."""
_PROVIDER = "OTEL_PYTHON_EXPORTER_OTLP_HTTP"
_COMPRESSIONS: dict[str, Compression] = {"": "none", "none": "none", "gzip": "gzip", "deflate": "deflate"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_LINKS = tuple(
    (re.compile(name), re.compile(value))
    for name, value in (
        (r".+_SERVICE_HOST", r"\S+"),
        (r".+_SERVICE_PORT(_[A-Z0-9_]+)?", r"\d+"),
        (r".+_PORT(_\d+_(TCP|UDP|SCTP))?", r"(tcp|udp|sctp)://.+"),
        (r".+_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)", r"\S+"),
    )
)


def is_http_url(url: object) -> bool:
    """Tell whether something is the URL of a server that speaks HTTP."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # Brackets without an address, or a port that is no number.
        return False


def is_otlp_url(url: object) -> bool:
    """Tell whether something is the URL of a collector: of HTTP, or `grpc://host:port`, with TLS `grpcs://host:port`."""
    text = str(url)
    scheme, separator, rest = text.partition("://")
    if scheme not in ("grpc", "grpcs"):
        return is_http_url(url)
    return is_http_url(f"http{separator}{rest}") and not any(sign in rest.rstrip("/") for sign in "/@?#")


def is_service_link(name: str, value: str) -> bool:
    """Tell whether a variable is one that Kubernetes sets in each container for a service of the same namespace.

    A service called `sage-obs-collector` gives `SAGE_OBS_COLLECTOR_PORT=tcp://10.0.0.1:4318` and half a dozen more.
    """
    return any(named.fullmatch(name) and valued.fullmatch(value) for named, valued in _LINKS)


def standard_sections(env: Mapping[str, str], remark: Remark) -> dict[str, dict[str, Any]]:
    """Read the variables that mean the same as settings of ours, as sections; an empty variable counts as not set."""
    env = {name: value.strip() for name, value in env.items() if value.strip()}
    is_disabled = _is_disabled(env, remark)
    sections = {
        "service": _service(env),
        "tracing": _tracing(env, remark) | ({"enabled": False} if is_disabled else {}),
        "logging": {} if is_disabled else {"otlp_endpoint": _chosen_endpoint(env, "logs", remark)},
        "metrics": {} if is_disabled else _metrics(env, remark),
    }
    kept = {name: {key: value for key, value in keys.items() if value is not None} for name, keys in sections.items()}
    return {name: keys for name, keys in kept.items() if keys}


def standard_names(env: Mapping[str, str], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return by `section.key` the variables without which the sections read from them would have another value, or none."""
    names: dict[str, list[str]] = {}
    for variable in env:
        if not variable.startswith(_STANDARD):
            continue
        without = standard_sections({name: value for name, value in env.items() if name != variable}, _ignore)
        for section, keys in sections.items():
            for key in keys:
                if without.get(section, {}).get(key) != keys[key]:
                    names.setdefault(f"{section}.{key}", []).append(variable)
    return {setting: ", ".join(variables) for setting, variables in names.items()}


def _ignore(_remark: str) -> None:
    """Remark nothing."""


def _is_disabled(env: Mapping[str, str], remark: Remark) -> bool:
    disabled = env.get("OTEL_SDK_DISABLED", "false").lower()
    if disabled not in ("true", "false"):
        remark(f"OTEL_SDK_DISABLED={disabled!r} disables nothing: only 'true' does")
    return disabled == "true"


def _service(env: Mapping[str, str]) -> dict[str, Any]:
    pairs = (pair.partition("=") for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    resource = {name.strip(): unquote(value.strip()) or None for name, _, value in pairs}
    environment = resource.get("deployment.environment.name") or resource.get("deployment.environment")
    return {
        "name": env.get("SERVICE_NAME") or env.get("OTEL_SERVICE_NAME") or resource.get("service.name"),
        "version": env.get("APP_VERSION") or resource.get("service.version"),
        "environment": env.get("APP_ENV") or env.get("NODE_ENV") or environment,
    }


def _tracing(env: Mapping[str, str], remark: Remark) -> dict[str, Any]:
    listed = _exporters(env, "traces", remark)
    endpoint = _endpoint(env, "traces", listed, remark)
    exporter = None
    if listed is not None:
        exporter = ",".join(sorted(listed & {"console"} | ({"otlp"} if endpoint else set()))) or "none"
    return {"otlp_endpoint": endpoint, "exporter": exporter, "sample_rate": _sample_rate(env, remark)}


def _metrics(env: Mapping[str, str], remark: Remark) -> dict[str, Any]:
    for name, only in _METRIC_PREFERENCES.items():
        variable = f"OTEL_EXPORTER_OTLP_METRICS_{name}"
        if (preference := env.get(variable, only)).lower() != only:
            remark(f"{variable}={preference!r} is not supported: it is {only}")
    milliseconds = number(env, "OTEL_METRIC_EXPORT_INTERVAL", 0.0, remark, least=1_000, most=3_600_000)
    seconds = {"otlp_interval_seconds": milliseconds / 1_000} if milliseconds else {}
    return {"otlp_endpoint": _chosen_endpoint(env, "metrics", remark), **seconds}


def _chosen_endpoint(env: Mapping[str, str], signal: Signal, remark: Remark) -> str | None:
    """Return the endpoint of a signal that the endpoint of all signals does not switch on.

    Lines are on the console already, and metrics are scraped.
    """
    listed = _exporters(env, signal, remark)
    if listed is None and f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" not in env:
        return None
    return _endpoint(env, signal, listed, remark)


def _exporters(env: Mapping[str, str], signal: Signal, remark: Remark) -> set[str] | None:
    """Read a list of exporters, without unknown ones; None if the variable is not set."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    if variable not in env:
        return None
    names = [name for part in env[variable].split(",") if (name := part.strip().lower())]
    # Metrics are scraped in any case, and have no place on a console.
    others = {"prometheus"} if signal == "metrics" else {"console", "logging"}
    for name in names:
        if name not in _KNOWN_EXPORTERS or (name not in others and name in _ELSEWHERE):
            remark(f"{variable} names {name!r}, which is not supported: use otlp, {min(others)} or none")
    return {_KNOWN_EXPORTERS[name] for name in names if name in _KNOWN_EXPORTERS}


def _endpoint(env: Mapping[str, str], signal: Signal, listed: set[str] | None, remark: Remark) -> str | None:
    """Return the URL for a signal over OTLP; None if it is not exported."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    variable = own if own in env else "OTEL_EXPORTER_OTLP_ENDPOINT"
    if not (variable in env if listed is None else listed & {"otlp", "grpc"}):
        return None
    is_grpc = _is_over_grpc(env, signal, listed, remark)
    default = _DEFAULT_ENDPOINTS["grpc" if is_grpc else "http"]
    endpoint = env.get(own) or env.get(variable, default).rstrip("/") + ("" if is_grpc else f"/v1/{signal}")
    if is_grpc:
        endpoint = _grpc_endpoint(endpoint, is_insecure=_own_or_common(env, signal, "INSECURE")[1].lower() == "true")
    if is_http_url(endpoint) or (is_grpc and is_otlp_url(endpoint)):
        return endpoint
    remark(f"{variable} is no http(s) URL, so no {signal} are exported: it is like {default}")
    return None


def _is_over_grpc(env: Mapping[str, str], signal: Signal, listed: set[str] | None, remark: Remark) -> bool:
    variable, protocol = _own_or_common(env, signal, "PROTOCOL")
    if protocol.lower() not in ("", "grpc", "http/protobuf"):
        remark(f"{variable}={protocol!r} is not supported: {signal} are sent as http/protobuf")
    return protocol.lower() == "grpc" or (listed is not None and "otlp" not in listed)


def _grpc_endpoint(endpoint: str, *, is_insecure: bool) -> str:
    """Write an endpoint of gRPC as a URL of ours: the scheme of a URL says whether there is TLS, else a variable does."""
    scheme, separator, rest = endpoint.rpartition("://")
    if scheme.lower() not in ("", "http", "https"):
        return endpoint
    is_plain = is_insecure if not separator else scheme.lower() == "http"
    # gRPC has no use for a path.
    return f"{'grpc' if is_plain else 'grpcs'}://{rest.partition('/')[0]}"


def _sample_rate(env: Mapping[str, str], remark: Remark) -> float | None:
    """Turn `OTEL_TRACES_SAMPLER` and its argument into a sample rate."""
    sampler = env.get("OTEL_TRACES_SAMPLER", "")
    match sampler.lower().removeprefix("parentbased_"):
        case "":
            return None
        case "always_on":
            return 1.0
        case "always_off":
            return 0.0
        case "traceidratio":
            return number(env, "OTEL_TRACES_SAMPLER_ARG", 1.0, remark, most=1.0)
    remark(
        f"OTEL_TRACES_SAMPLER={sampler!r} is not supported, and ignored: use always_on, always_off or traceidratio, "
        "with or without parentbased_, or pass a tracer_provider with your own sampler"
    )
    return None


def number(
    env: Mapping[str, str], variable: str, default: float, remark: Remark, *, least: float = 0.0, most: float = 1e9
) -> float:
    """Read a number; the default if it is not set, or no number in these bounds."""
    text = env.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if least <= value <= most:
        return value
    remark(f"{variable}={text!r} is no number from {least:g} to {most:g}, and ignored: it is {default:g}")
    return default


def patterns(env: Mapping[str, str], variable: str, remark: Remark) -> list[str]:
    """Read a list of regular expressions, such as plain words, without those that are none, or cannot stand in one list."""
    kept: list[str] = []
    for pattern in filter(None, map(str.strip, env.get(variable, "").split(","))):
        try:
            re.compile("|".join([*kept, pattern]))
        except re.error as error:
            remark(f"{variable} has {pattern!r}, which is no regular expression ({error}), and is ignored: '.*' is anything")
        else:
            kept.append(pattern)
    return kept


def _own_or_common(env: Mapping[str, str], signal: Signal, what: str) -> tuple[str, str]:
    """Read a variable of one signal, or that of all signals if it is missing or empty; return its name and value."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if value := env.get(variable, "").strip():
            return variable, value
    return variable, ""


@dataclass(frozen=True)
class OtlpVariables:
    """The variables `OTEL_EXPORTER_OTLP_*` of one signal, without the endpoint."""

    headers: Mapping[str, str] = field(repr=False)
    timeout_seconds: float
    compression: Compression
    certificate: str | None
    """File of CA certificates."""
    client_certificate: str | None
    """File of our certificate."""
    client_key: str | None
    """File of its key; None if it is in the same file."""
    remarks: tuple[str, ...]
    """Mistakes in them, with what to change."""

    @classmethod
    def from_environment(cls, signal: Signal, env: Mapping[str, str]) -> "OtlpVariables":
        """Read them for one signal."""
        providers = (f"{_PROVIDER}_{signal.upper()}_CREDENTIAL_PROVIDER", f"{_PROVIDER}_CREDENTIAL_PROVIDER")
        remarks = [
            f"{variable} is not supported: use headers or certificates, or pass a tracer_provider of your own"
            for variable in providers
            if env.get(variable, "").strip()
        ]
        return cls(
            headers=_headers(*_own_or_common(env, signal, "HEADERS"), remarks.append),
            timeout_seconds=_timeout_seconds(env, signal, remarks.append),
            compression=_compression(*_own_or_common(env, signal, "COMPRESSION"), remarks.append),
            certificate=_own_or_common(env, signal, "CERTIFICATE")[1] or None,
            client_certificate=_own_or_common(env, signal, "CLIENT_CERTIFICATE")[1] or None,
            client_key=_own_or_common(env, signal, "CLIENT_KEY")[1] or None,
            remarks=tuple(remarks),
        )


def _headers(variable: str, given: str, remark: Remark) -> dict[str, str]:
    """Read `name=value,other=value`, percent-encoded; not by OpenTelemetry's own function, which logs what it cannot read."""
    found = {}
    for pair in filter(None, (part.strip() for part in given.split(","))):
        name, separator, value = (part.strip() for part in pair.partition("="))
        name, value = unquote(name).lower(), unquote(value).strip()
        if separator and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
            found[name] = value
        else:
            remark(
                f"{variable} has a part that is not name=value, and is ignored: separate by commas, and percent-encode values"
            )
    return found


def _timeout_seconds(env: Mapping[str, str], signal: Signal, remark: Remark) -> float:
    variable, _ = _own_or_common(env, signal, "TIMEOUT")
    timeout = number(env, variable, _TIMEOUT_SECONDS, remark, least=0.001)
    return min(timeout if timeout <= _LONGEST_SECONDS else timeout / 1_000, _LONGEST_SECONDS)


def _compression(variable: str, given: str, remark: Remark) -> Compression:
    if given.lower() not in _COMPRESSIONS:
        remark(f"{variable}={given!r} is not supported: use gzip, deflate or none")
    return _COMPRESSIONS.get(given.lower(), "none")
