"""What a request has recorded, for tests: `Telemetry`, and the fixture `telemetry` of pytest. Needs no pytest itself."""

from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.recorded_request import RecordedRequest
from sage_fastapi_obs.testing.sql_queries import SqlQuery
from sage_fastapi_obs.testing.telemetry import Telemetry

__all__ = ["LogLine", "RecordedRequest", "SqlQuery", "Telemetry"]
