"""Lines as OpenTelemetry log records, over OTLP.

Not through the SDK's batch processor and exporter: those drop the oldest records of a full queue without a number, say so
through `logging` and so into the same queue, keep from the caller what the collector refused, and wait 30 seconds at the end.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from opentelemetry.sdk.resources import Resource

from sage_fastapi_obs.delivery.otlp_collector import Collector
from sage_fastapi_obs.delivery.otlp_messages import OtlpMessages, missing_extra
from sage_fastapi_obs.delivery.queued_sender import Entry
from sage_fastapi_obs.log_levels import LEVEL_DETAILS
from sage_fastapi_obs.logs.line_format import Encode, json_format
from sage_fastapi_obs.settings import LoggingSettings, ServiceSettings
from sage_fastapi_obs.settings.resource import in_this_process, resource_of
from sage_fastapi_obs.threads import Slices

_SEVERITIES: dict[str, Any] = {name: level.otlp for name, level in LEVEL_DETAILS.items()}
_OWN_PLACE = {"timestamp", "level", "message", "trace_id", "span_id", "trace_flags", "service", "environment", "version"}
"""Of a line's fields: those that a record or its resource has a place for. The others become attributes."""
_ID_BYTES = {"trace_id": 16, "span_id": 8, "trace_flags": 1}
"""How long they have to be: a collector refuses a whole batch for one that is not."""


class Otlp:
    """Exports a log record per line, with its trace context, severity, fields as attributes, and the service's resource."""

    name = "otlp"

    def __init__(self, settings: LoggingSettings, service: ServiceSettings) -> None:
        assert settings.otlp_endpoint is not None
        # By the names that a record is made from, whatever they are elsewhere.
        self.encode: Encode = json_format
        self._service = service
        self._protocol = _Protocol()
        self._messages = OtlpMessages("logging.otlp_endpoint")
        self._collector = Collector(settings.otlp_endpoint, "logs", self._protocol.response)
        self.remarks = self._collector.remarks
        self._service_resource = Resource.get_empty()
        self._resource: Any = None

    def prepare(self) -> None:
        """Describe the service, which takes threads: an interpreter that is about to end has none for it."""
        self._service_resource = resource_of(self._service)

    def open(self) -> None:
        """Prepare in the process that sends, which its resource names."""
        self._collector.close()
        attributes = dict(in_this_process(self._service_resource).attributes)
        self._resource = self._messages.resource(attributes)

    def deliver(self, batch: Sequence[Entry], seconds: float) -> tuple[Sequence[Entry], int]:
        """Export the records of a batch; return how many of them were refused, which OTLP says not to try again."""
        request, slices = self._protocol.request(), Slices()
        records = request.resource_logs.add(resource=self._resource).scope_logs.add().log_records
        for entry in batch:
            records.append(self._record(orjson.loads(entry.content)))
            slices.rest_if_due()
        return (), min(len(batch), self._collector.send(request.SerializeToString(), seconds))

    def close(self) -> None:
        """Let go of connections."""
        self._collector.close()

    def _record(self, line: dict[str, Any]) -> Any:
        at_ns = int(datetime.fromisoformat(line["timestamp"]).timestamp() * 1_000) * 1_000_000
        return self._protocol.record(
            time_unix_nano=at_ns,
            observed_time_unix_nano=at_ns,
            severity_number=_SEVERITIES[line["level"]],
            severity_text=line["level"],
            body=self._messages.value(string_value=line["message"]),
            trace_id=_id(line, "trace_id"),
            span_id=_id(line, "span_id"),
            flags=int.from_bytes(_id(line, "trace_flags")),
            attributes=self._messages.attributes(_fields(line)),
        )


def _id(line: Mapping[str, Any], name: str) -> bytes:
    """Read an id; empty if it is missing, or if an application has put something else there."""
    try:
        found = bytes.fromhex(line.get(name, ""))
    except (TypeError, ValueError):
        return b""
    return found if len(found) == _ID_BYTES[name] else b""


def _fields(line: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a line's fields side by side, exceptions under the names that OpenTelemetry has for them."""
    placed = {*_OWN_PLACE, "data", "error"} - {name for name in _ID_BYTES if not _id(line, name)}
    fields = {name: value for name, value in line.items() if name not in placed}
    if isinstance(error := line.get("error"), dict):
        names = {"type": "exception.type", "message": "exception.message", "stack_trace": "exception.stacktrace"}
        fields |= {names.get(name, f"exception.{name}"): value for name, value in error.items()}
    data = line.get("data")
    # A bound value never takes the place of a field.
    return {**(data if isinstance(data, dict) else {}), **fields}


class _Protocol:
    """The messages of OTLP, which come with an extra."""

    def __init__(self) -> None:
        try:
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service  # noqa: PLC0415 - an extra
            from opentelemetry.proto.logs.v1 import logs_pb2 as logs  # noqa: PLC0415
        except ImportError:
            raise missing_extra("logging.otlp_endpoint") from None
        self.request, self.response = service.ExportLogsServiceRequest, service.ExportLogsServiceResponse
        self.record = logs.LogRecord
