"""Calls that a gRPC server answers."""

from typing import Any

from sage_fastapi_obs.clients.patching import missing

__all__ = ["GrpcMetricsInterceptor"]


class GrpcMetricsInterceptor:
    """Watches a gRPC server: `grpc.server(…, interceptors=[GrpcMetricsInterceptor()])`, and the same for `grpc.aio.server`.

    Each call is a SERVER span in the trace of its caller, with the caller's correlation id, and counts in `grpc_request_total`
    and `grpc_request_duration_seconds`, by method and status code; those for which the server is to blame also in
    `request_errors_total`. Methods that the server does not know count as one.
    """

    def __new__(cls) -> Any:
        """Build an interceptor; raises `ObservabilityError` where grpcio is not installed."""
        try:
            from sage_fastapi_obs.clients.grpc_interceptor import Interceptor  # noqa: PLC0415 - an extra
        except ImportError:
            raise missing("GrpcMetricsInterceptor", "grpc") from None
        return Interceptor()
