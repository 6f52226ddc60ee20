"""Whether the settings fit to where and how the service runs."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from sage_fastapi_obs.delivery.grpc_sender import DEFAULT_PORTS
from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.sources import ENV_PREFIX, is_development

_SECONDS = 3.0
_WORKERS = re.compile(r"(?:^|\s)(?:-w|--workers)[ =]?(\d+)")
_PORTS = {"http": 80, "https": 443, **DEFAULT_PORTS}


class Receiver(NamedTuple):
    """A server that something is sent to."""

    setting: str
    url: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; a URL may have credentials, too."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def worker_mode(seen: Observations) -> Iterator[Fault]:
    """Find out whether several workers would each tell of themselves alone."""
    settings, number = seen.inspected.settings, _workers(os.environ)
    if settings is not None and number > 1 and not settings.workers.enabled:
        yield Fault(
            *("worker-mode", f"there are {number} workers, and each answers for itself: workers.enabled is false"),
            "leave workers.enabled out, so that any worker answers for all",
        )
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        yield Fault(
            "worker-mode",
            "PROMETHEUS_MULTIPROC_DIR is set: each process keeps its numbers in files there that this package does not read",
            "leave it out: any worker answers for all without it",
        )


def _workers(env: Mapping[str, str]) -> int:
    found = [
        env.get("WEB_CONCURRENCY", ""),
        env.get("UVICORN_WORKERS", ""),
        *_WORKERS.findall(env.get("GUNICORN_CMD_ARGS", "")),
    ]
    return max((int(number) for number in found if number.isdecimal()), default=1)


def preset(seen: Observations) -> Iterator[Fault]:
    """Find out whether the settings in force are those that were meant."""
    settings = seen.inspected.settings
    if settings is None:
        return
    yield from (Fault("preset", remark, "correct the setting that it names") for remark in settings.remarks)
    environment = settings.service.environment
    wanted = "dev" if is_development(environment) else "production"
    if settings.preset is not None and settings.preset != wanted:
        yield Fault(
            *("preset", f"the preset {settings.preset!r} is in force, and the environment is {environment!r}"),
            f"set SAGE_OBS_PRESET to {wanted}, or name another environment in APP_ENV",
        )
    unread = sorted(name for name, value in os.environ.items() if name.startswith(ENV_PREFIX) and value.strip())
    if settings.preset is None and unread:
        yield Fault(
            *("preset", f"{', '.join(unread)} of the environment is not read: the settings are made by Settings(...) alone"),
            "make them by Settings.from_env(...)",
        )


def unreachable_exporters(seen: Observations) -> Iterator[Fault]:
    """Find servers that what is exported would not reach; nothing is sent to them but an empty message."""
    settings = seen.inspected.settings
    for receiver in [] if settings is None else _receivers(settings):
        problem = _problem(receiver)
        if problem:
            host, port = receiver.address
            yield Fault(
                *("exporter-unreachable", f"{receiver.setting}: {host}:{port} {problem}"),
                f"start what listens there, or correct or leave out {receiver.setting}",
            )


def _receivers(settings: Settings) -> Iterator[Receiver]:
    given: dict[str, Any] = {
        "tracing.otlp_endpoint": settings.tracing.otlp_endpoint if "otlp" in settings.tracing.exporters else None,
        "logging.otlp_endpoint": settings.logging.otlp_endpoint,
        "metrics.otlp_endpoint": settings.metrics.otlp_endpoint,
        "logging.elasticsearch_url": settings.logging.elasticsearch_url,
        "notify.slack_webhook_url": _revealed(settings.notify.slack_webhook_url),
        "notify.webhook_url": _revealed(settings.notify.webhook_url),
        "notify.pagerduty_url": settings.notify.pagerduty_url if settings.notify.pagerduty_routing_key else None,
        "notify.smtp_host": settings.notify.smtp_host and f"smtp://{settings.notify.smtp_host}:{settings.notify.smtp_port}",
    }
    yield from (Receiver(setting, str(url)) for setting, url in given.items() if url)


def _revealed(secret: Any) -> Any:
    return None if secret is None else secret.get_secret_value()


def _problem(receiver: Receiver) -> str:
    try:
        socket.create_connection(receiver.address, _SECONDS).close()
    except (OSError, UnicodeError) as error:
        return f"cannot be reached ({getattr(error, 'strerror', None) or type(error).__name__})"
    if receiver.setting.endswith("otlp_endpoint") and urlsplit(receiver.url).scheme.startswith("http"):
        return _refusal(receiver.url)
    return ""


def _refusal(url: str) -> str:
    """Say what a collector has against an empty message of OpenTelemetry's protocol."""
    try:
        answer = httpx.post(url, content=b"", headers={"content-type": "application/x-protobuf"}, timeout=_SECONDS)
    except (httpx.HTTPError, OSError, ValueError) as error:
        return f"does not speak HTTP as expected ({type(error).__name__})"
    # Without the credentials that the exporter has, others are no wonder.
    wrong = answer.status_code in (404, 405, 415)
    return f"answers {answer.status_code} at {urlsplit(url).path}, which is no OTLP" if wrong else ""
