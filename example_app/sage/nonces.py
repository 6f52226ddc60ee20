"""Who has signed a request may send it once, and soon."""

from collections.abc import Callable

from example_app.sage.errors import ExpiredNonce, ReplayedNonce

__all__ = ["Nonces"]

SKEW_SECONDS = 5.0
"""How far the other side's clock may be ahead."""


class Nonces:
    """Remembers each nonce for as long as a request signed with it would be taken."""

    def __init__(self, lifetime_seconds: float, clock: Callable[[], float], most: int = 100_000) -> None:
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._most = most
        self._seen: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        """Count what is remembered."""
        return len(self._seen)

    def use(self, key_id: str, nonce: str, created: float) -> None:
        """Use a nonce up; `ExpiredNonce` or `ReplayedNonce` if that cannot be.

        `created`: when the request was signed, Unix time in seconds. Call this once the signature is known to be good, so that
        nobody else can use nonces up.
        """
        now = self._clock()
        if not now - self._lifetime_seconds <= created <= now + SKEW_SECONDS:
            raise ExpiredNonce("signed too long ago, or in the future")
        if (key_id, nonce) in self._seen:
            raise ReplayedNonce("this request was here before")
        if len(self._seen) >= self._most:
            self._forget(now)
        if len(self._seen) >= self._most:
            # To forget one that is still good would let its request in again.
            raise ExpiredNonce("too many requests at once")
        self._seen[key_id, nonce] = created

    def _forget(self, now: float) -> None:
        self._seen = {key: created for key, created in self._seen.items() if created >= now - self._lifetime_seconds}
