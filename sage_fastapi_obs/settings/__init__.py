"""What can be set, where it is read from, and what is wrong with it."""

from sage_fastapi_obs.settings.sections import (
    AlertRuleSettings,
    AlertSettings,
    AliasGroup,
    ExportSettings,
    FigureSettings,
    HttpSettings,
    LoggingSettings,
    MetricsSettings,
    MonitoringSettings,
    NotifySettings,
    Pack,
    ResultSettings,
    ServiceSettings,
    Settings,
    Severity,
    SlaSettings,
    TracingSettings,
)
from sage_fastapi_obs.settings.sources import PRESETS

__all__ = [
    "PRESETS",
    "AlertRuleSettings",
    "AlertSettings",
    "AliasGroup",
    "ExportSettings",
    "FigureSettings",
    "HttpSettings",
    "LoggingSettings",
    "MetricsSettings",
    "MonitoringSettings",
    "NotifySettings",
    "Pack",
    "ResultSettings",
    "ServiceSettings",
    "Settings",
    "Severity",
    "SlaSettings",
    "TracingSettings",
]
