"""Settings: `sections.py` says what can be set, `sources.py` where values are read from.

To add a setting, add a field to its section: it can be set from every source then. `standard_variables.py` reads the variables
that others define.
"""

from sage_fastapi_obs.settings.sections import (
    AlertRuleSettings,
    AlertSettings,
    AliasGroup,
    ExportSettings,
    FigureSettings,
    HttpSettings,
    InsightSettings,
    LoggingSettings,
    MetricsSettings,
    MonitoringSettings,
    NotifySettings,
    ResultSettings,
    ServiceSettings,
    Settings,
    Severity,
    SlaSettings,
    StoreSettings,
    TracingSettings,
    WorkersSettings,
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
    "InsightSettings",
    "LoggingSettings",
    "MetricsSettings",
    "MonitoringSettings",
    "NotifySettings",
    "ResultSettings",
    "ServiceSettings",
    "Settings",
    "Severity",
    "SlaSettings",
    "StoreSettings",
    "TracingSettings",
    "WorkersSettings",
]
