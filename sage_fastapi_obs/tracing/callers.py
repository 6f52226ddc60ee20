"""Whose word counts that a trace is sampled: anybody may send a header that says so, and recording costs."""

import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.settings import TracingSettings


class Callers:
    """Admits what is sampled upstream: all of it from trusted networks, so many a second from all others together."""

    def __init__(self, settings: TracingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds."""
        self._networks = [ip_network(network) for network in settings.trusted_networks]
        self._per_second = settings.incoming_sampled_per_second
        # Where everything is sampled, a client cannot make it dearer.
        self._admits_all = settings.sample_rate >= 1.0
        self._clock = clock
        self._room, self._counted_at = self._per_second, 0.0
        self._is_trusted = lru_cache(maxsize=1024)(self._is_in_networks)

    def admits(self, exchange: Exchange) -> bool:
        """Tell whether a sampled trace of this caller is followed."""
        if self._admits_all:
            return True
        client = exchange.scope.get("client")
        if self._networks and client and self._is_trusted(str(client[0])):
            return True
        now = self._clock()
        self._room = min(max(self._per_second, 1.0), self._room + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        if self._room < 1.0 or not self._per_second:
            return False
        self._room -= 1.0
        return True

    def _is_in_networks(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            # A Unix socket, or a test client.
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)
