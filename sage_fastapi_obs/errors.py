"""What can go wrong while building; while serving, nothing of ours raises.

ObservabilityError
├── SettingsError             a setting is unknown or impossible (also a ValueError)
└── DuplicateInstrumentError  two metrics ask for one name (also a ValueError)
"""

__all__ = ["DuplicateInstrumentError", "ObservabilityError", "SettingsError"]


class ObservabilityError(Exception):
    """Base of every error this package raises."""


class SettingsError(ObservabilityError, ValueError):
    """A setting is unknown or has an impossible value; the message says what to change."""


class DuplicateInstrumentError(ObservabilityError, ValueError):
    """A metric of this name is registered already, with another definition."""
