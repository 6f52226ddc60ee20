"""What may be an attack."""

from sage_fastapi_obs.catalog.metric import counter

__all__ = ["LOGIN_FAILURES", "METRICS", "SECURITY_EVENTS"]

LOGIN_FAILURES = ("bad_password", "unknown_user", "locked", "expired_token", "other")
SECURITY_EVENTS = ("unauthorized_access", "injection_attempt", "replay", "rate_limit", "other")
MOST_NETWORKS = 100


METRICS = (
    counter("auth_login_failed_total", "Logins that failed.", {"reason": LOGIN_FAILURES}),
    counter(
        "rate_limit_exceeded_total",
        "Requests beyond a rate limit, by the client's network (/24 of IPv4, /48 of IPv6).",
        {"client_ip": ()},
        max_label_values=MOST_NETWORKS,
    ),
    counter("security_events_total", "Events that may be an attack.", {"event_type": SECURITY_EVENTS}),
)
