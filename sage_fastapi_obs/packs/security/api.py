"""The metrics of the pack `security`: what may be an attack."""

from ipaddress import ip_address, ip_network

from sage_fastapi_obs.catalog import OVERFLOW
from sage_fastapi_obs.operations.count import count

__all__ = ["login_failed", "network_of", "rate_limit_exceeded", "security_event"]

_PREFIXES = {4: 24, 6: 48}


def login_failed(reason: str) -> None:
    """Count a login that failed: `bad_password`, `unknown_user`, `locked`, `expired_token` or `other`."""
    count("auth_login_failed_total", reason)


def rate_limit_exceeded(client_ip: str) -> None:
    """Count a request beyond a rate limit, by the network of its client: addresses are personal, and too many."""
    count("rate_limit_exceeded_total", network_of(client_ip))


def security_event(event_type: str) -> None:
    """Count `unauthorized_access`, `injection_attempt`, `replay`, `rate_limit` or `other`."""
    count("security_events_total", event_type)


def network_of(address: str) -> str:
    """Return the network of an address, such as `192.0.2.0/24` or `2001:db8:1::/48`; `other` for anything else."""
    try:
        return _network(address) if isinstance(address, str) else OVERFLOW
    except Exception:
        return OVERFLOW


def _network(address: str) -> str:
    ip = ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = ip if mapped is None else mapped
    return str(ip_network((int(ip), _PREFIXES[ip.version]), strict=False))
