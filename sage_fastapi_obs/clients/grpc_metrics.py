"""Calls answered by a gRPC server."""

from sage_fastapi_obs.catalog.metric import LATENCY_BUCKETS, counter, histogram

__all__ = ["GRPC_CODES", "METRICS"]

GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

_METHOD: dict[str, tuple[str, ...]] = {"method": (), "status": GRPC_CODES}

METRICS = (
    counter("grpc_request_total", "gRPC calls answered.", _METHOD),
    histogram("grpc_request_duration_seconds", "Time of gRPC calls.", LATENCY_BUCKETS, _METHOD),
)
