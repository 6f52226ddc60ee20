"""Errors. They are raised while the application is built; while it serves, this package raises nothing.

ObservabilityError
├── SettingsError             a setting is unknown or impossible (also a ValueError)
├── DuplicateInstrumentError  two metrics ask for one name (also a ValueError)
├── DeclarationError          a metric or a pack is declared wrongly (also a ValueError)
└── UnwrapError               the value of a Failure was asked for (also a ValueError)
"""


class ObservabilityError(Exception):
    """Base of every error this package raises."""


class SettingsError(ObservabilityError, ValueError):
    """A setting is unknown or has an impossible value; the message says what to change."""


class DuplicateInstrumentError(ObservabilityError, ValueError):
    """A metric of this name is registered already, with another definition."""


class DeclarationError(ObservabilityError, ValueError):
    """A metric or a pack is declared wrongly; the message says what to change."""


class UnwrapError(ObservabilityError, ValueError):
    """The value of a Failure was asked for; the cause is its error, if that is an exception."""
