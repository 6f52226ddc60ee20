"""Variables of the environment that others define: OpenTelemetry's, and what a platform injects.

What is wrong with one of these is no reason not to start, as it may be meant for another program: it is said instead.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

__all__ = ["OtlpVariables", "is_http_url", "is_service_link", "number", "standard_sections"]

Say = Callable[[str], None]
"""Takes a remark: what is wrong, and what to change."""
Signal = Literal["traces", "logs"]
Compression = Literal["none", "gzip", "deflate"]

DEFAULT_ENDPOINT = "http://localhost:4318"
TIMEOUT_SECONDS = 10.0
LONGEST_SECONDS = 300.0
"""A longer time limit is one in milliseconds: that is what the specification says, and Python's SDK takes seconds."""
_KNOWN_EXPORTERS = {
    "otlp": "otlp",
    "otlp_proto_http": "otlp",
    "otlp_proto_grpc": "grpc",
    "console": "console",
    "logging": "console",
    "none": "none",
}
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
        # Brackets without an address in them, or a port that is none.
        return False


def is_service_link(name: str, value: str) -> bool:
    """Tell whether a variable is one that Kubernetes sets in each container for a service of the same namespace.

    A service called `sage-obs-collector` gives `SAGE_OBS_COLLECTOR_PORT=tcp://10.0.0.1:4318` and half a dozen more.
    """
    return any(named.fullmatch(name) and valued.fullmatch(value) for named, valued in _LINKS)


def standard_sections(env: Mapping[str, str], say: Say) -> dict[str, dict[str, Any]]:
    """Read the variables that mean the same as settings of ours, as sections; an empty one is as good as none."""
    env = {name: value.strip() for name, value in env.items() if value.strip()}
    disabled = env.get("OTEL_SDK_DISABLED", "false").lower()
    if disabled not in ("true", "false"):
        say(f"OTEL_SDK_DISABLED={disabled!r} disables nothing: only 'true' does")
    found = {
        "service": _service(env),
        "tracing": _tracing(env, say) | ({"enabled": False} if disabled == "true" else {}),
        "logging": {} if disabled == "true" else _logging(env, say),
    }
    _look_at_metrics(env, say)
    return {section: kept for section, values in found.items() if (kept := _given(values))}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _service(env: Mapping[str, str]) -> dict[str, Any]:
    pairs = (pair.partition("=") for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    resource = {name.strip(): unquote(value.strip()) or None for name, _, value in pairs}
    environment = resource.get("deployment.environment.name") or resource.get("deployment.environment")
    return {
        "name": env.get("SERVICE_NAME") or env.get("OTEL_SERVICE_NAME") or resource.get("service.name"),
        "version": env.get("APP_VERSION") or resource.get("service.version"),
        "environment": env.get("APP_ENV") or env.get("NODE_ENV") or environment,
    }


def _tracing(env: Mapping[str, str], say: Say) -> dict[str, Any]:
    named = _exporters(env, "traces", say)
    endpoint = _endpoint(env, "traces", named, say)
    exporter = None
    if named is not None:
        wanted = named & ({"console", "otlp"} if endpoint else {"console"})
        exporter = ",".join(sorted(wanted)) or "none"
    return {"otlp_endpoint": endpoint, "exporter": exporter, "sample_rate": _sample_rate(env, say)}


def _logging(env: Mapping[str, str], say: Say) -> dict[str, Any]:
    named = _exporters(env, "logs", say)
    if named is None and "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT" not in env:
        # The endpoint of all signals does not switch this one on: the lines are on the console already.
        return {}
    return {"otlp_endpoint": _endpoint(env, "logs", named, say)}


def _exporters(env: Mapping[str, str], signal: Signal, say: Say) -> set[str] | None:
    """Read a list of exporters; None where there is none, and without those that we do not have."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    if variable not in env:
        return None
    found = set()
    for name in filter(None, (part.strip().lower() for part in env[variable].split(","))):
        if name in _KNOWN_EXPORTERS:
            found.add(_KNOWN_EXPORTERS[name])
        else:
            say(f"{variable} names {name!r}, which is not supported: use otlp, console or none")
    return found


def _endpoint(env: Mapping[str, str], signal: Signal, named: set[str] | None, say: Say) -> str | None:
    """Find where a signal goes over OTLP; None where that is nowhere, or where nobody understands what we speak."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    variable = own if own in env else "OTEL_EXPORTER_OTLP_ENDPOINT"
    is_wanted = variable in env if named is None else bool(named & {"otlp", "grpc"})
    if not is_wanted or not _speaks_http(env, signal, named, say):
        return None
    endpoint = env.get(own) or f"{env.get(variable, DEFAULT_ENDPOINT).rstrip('/')}/v1/{signal}"
    if is_http_url(endpoint):
        return endpoint
    say(f"{variable} is no http(s) URL, so no {signal} are exported: it is like {DEFAULT_ENDPOINT}")
    return None


def _speaks_http(env: Mapping[str, str], signal: Signal, named: set[str] | None, say: Say) -> bool:
    """Tell whether a signal may be sent over HTTP, which is all that we speak."""
    variable, protocol = _either(env, signal, "PROTOCOL")
    if protocol.lower() == "grpc" or (named is not None and "otlp" not in named):
        asked = f"{variable}=grpc" if protocol.lower() == "grpc" else f"OTEL_{signal.upper()}_EXPORTER=otlp_proto_grpc"
        say(
            f"{asked} is not supported, so no {signal} are exported: set http/protobuf, "
            f"and an endpoint with the collector's port for it, usually 4318 instead of 4317"
        )
        return False
    if protocol.lower() not in ("", "http/protobuf"):
        say(f"{variable}={protocol!r} is not supported: {signal} are sent as http/protobuf")
    return True


def _look_at_metrics(env: Mapping[str, str], say: Say) -> None:
    named = {part.strip().lower() for part in env.get("OTEL_METRICS_EXPORTER", "").split(",")}
    if pushed := ", ".join(sorted(named - {"", "none", "prometheus"})):
        say(f"OTEL_METRICS_EXPORTER names {pushed}, and metrics are not pushed: have metrics.path scraped")


def _sample_rate(env: Mapping[str, str], say: Say) -> float | None:
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
            return number(env, "OTEL_TRACES_SAMPLER_ARG", 1.0, say, most=1.0)
    say(
        f"OTEL_TRACES_SAMPLER={sampler!r} is not supported, and ignored: use always_on, always_off or traceidratio, "
        "with or without parentbased_, or pass a tracer_provider with your own sampler"
    )
    return None


def number(env: Mapping[str, str], variable: str, default: float, say: Say, *, least: float = 0.0, most: float = 1e9) -> float:
    """Read a number; the default where there is none, and where it is none."""
    given = env.get(variable, "").strip()
    if not given:
        return default
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if least <= found <= most:
        return found
    say(f"{variable}={given!r} is no number from {least:g} to {most:g}, and ignored: it is {default:g}")
    return default


def _either(env: Mapping[str, str], signal: Signal, what: str) -> tuple[str, str]:
    """Read a variable of one signal, or that of all signals where it is missing or empty; return its name and value."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if value := env.get(variable, "").strip():
            return variable, value
    return variable, ""


@dataclass(frozen=True)
class OtlpVariables:
    """How a signal goes to its collector: what `OTEL_EXPORTER_OTLP_*` say besides where."""

    headers: Mapping[str, str] = field(repr=False)
    timeout_seconds: float
    compression: Compression
    certificate: str | None
    """File of those who may vouch for the collector."""
    client_certificate: str | None
    """File of the certificate that we show."""
    client_key: str | None
    """File of its key; None where that is in the same file."""
    remarks: tuple[str, ...]
    """What is wrong with them."""

    @classmethod
    def of(cls, signal: Signal, env: Mapping[str, str]) -> "OtlpVariables":
        """Read them for one signal."""
        providers = (f"{_PROVIDER}_{signal.upper()}_CREDENTIAL_PROVIDER", f"{_PROVIDER}_CREDENTIAL_PROVIDER")
        remarks = [
            f"{variable} is not supported: use headers or certificates, or pass a tracer_provider of your own"
            for variable in providers
            if env.get(variable, "").strip()
        ]
        return cls(
            headers=_headers(*_either(env, signal, "HEADERS"), remarks.append),
            timeout_seconds=_timeout_seconds(env, signal, remarks.append),
            compression=_compression(*_either(env, signal, "COMPRESSION"), remarks.append),
            certificate=_either(env, signal, "CERTIFICATE")[1] or None,
            client_certificate=_either(env, signal, "CLIENT_CERTIFICATE")[1] or None,
            client_key=_either(env, signal, "CLIENT_KEY")[1] or None,
            remarks=tuple(remarks),
        )


def _headers(variable: str, given: str, say: Say) -> dict[str, str]:
    """Read `name=value,other=value`, percent-encoded; not by OpenTelemetry's own function, which logs what it cannot read."""
    found = {}
    for pair in filter(None, (part.strip() for part in given.split(","))):
        name, separator, value = (part.strip() for part in pair.partition("="))
        name, value = unquote(name).lower(), unquote(value).strip()
        if separator and _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
            found[name] = value
        else:
            say(f"{variable} has a part that is not name=value, and is ignored: separate by commas, and percent-encode values")
    return found


def _timeout_seconds(env: Mapping[str, str], signal: Signal, say: Say) -> float:
    variable, _ = _either(env, signal, "TIMEOUT")
    given = number(env, variable, TIMEOUT_SECONDS, say, least=0.001)
    return min(given if given <= LONGEST_SECONDS else given / 1_000, LONGEST_SECONDS)


def _compression(variable: str, given: str, say: Say) -> Compression:
    if given.lower() not in _COMPRESSIONS:
        say(f"{variable}={given!r} is not supported: use gzip, deflate or none")
    return _COMPRESSIONS.get(given.lower(), "none")
