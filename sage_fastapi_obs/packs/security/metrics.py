"""What may be an attack."""

from sage_fastapi_obs.catalog.metric import Metric

__all__ = ["LOGIN_FAILURES", "METRICS", "SECURITY_EVENTS"]

LOGIN_FAILURES = ("bad_password", "unknown_user", "locked", "expired_token", "other")
SECURITY_EVENTS = ("unauthorized_access", "injection_attempt", "replay", "rate_limit", "other")
MOST_NETWORKS = 100


METRICS = (
    Metric("auth_login_failed_total", "counter", "Logins that failed.", {"reason": LOGIN_FAILURES}),
    Metric(
        "rate_limit_exceeded_total",
        "counter",
        "Requests beyond a rate limit, by the client's network (/24 of IPv4, /48 of IPv6).",
        {"client_ip": ()},
        max_label_values=MOST_NETWORKS,
    ),
    Metric("security_events_total", "counter", "Events that may be an attack.", {"event_type": SECURITY_EVENTS}),
)
