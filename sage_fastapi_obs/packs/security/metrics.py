"""What may be an attack."""

from sage_fastapi_obs.catalog.metric import counter

_LOGIN_FAILURES = ("bad_password", "unknown_user", "locked", "expired_token", "other")
_SECURITY_EVENTS = ("unauthorized_access", "injection_attempt", "replay", "rate_limit", "other")
_MOST_NETWORKS = 100


METRICS = (
    counter("auth_login_failed_total", "Logins that failed.", {"reason": _LOGIN_FAILURES}),
    counter(
        "rate_limit_exceeded_total",
        "Requests beyond a rate limit, by the client's network (/24 of IPv4, /48 of IPv6).",
        {"client_ip": ()},
        max_label_values=_MOST_NETWORKS,
    ),
    counter("security_events_total", "Events that may be an attack.", {"event_type": _SECURITY_EVENTS}),
)
