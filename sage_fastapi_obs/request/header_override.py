"""The name of the header of correlation ids, where it is set for the whole process and not by settings."""

from typing import Protocol
from weakref import WeakSet


class HeaderListener(Protocol):
    """Uses the header of correlation ids."""

    def correlation_header_changed(self, override: str | None) -> None:
        """Use this header; None means the header of the settings."""
        ...


class _HeaderOverride:
    """The name that overrides the settings, and who has to know of a change."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._listeners: WeakSet[HeaderListener] = WeakSet()

    def set(self, name: str | None) -> None:
        """Override the settings; None ends that."""
        self.name = name
        for listener in [*self._listeners]:
            listener.correlation_header_changed(name)

    def subscribe(self, listener: HeaderListener) -> None:
        """Call a listener now, and at each change."""
        self._listeners.add(listener)
        listener.correlation_header_changed(self.name)


header_override = _HeaderOverride()
