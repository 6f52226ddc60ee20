"""The RFS interface: its snippets run with `rfs.monitoring` replaced by `sage_fastapi_obs.monitoring`."""

from sage_fastapi_obs.monitoring import metrics, notifiers, result_logging
from sage_fastapi_obs.monitoring.metrics import *  # noqa: F403
from sage_fastapi_obs.monitoring.notifiers import *  # noqa: F403
from sage_fastapi_obs.monitoring.result_logging import *  # noqa: F403

__all__ = [*metrics.__all__, *notifiers.__all__, *result_logging.__all__]  # noqa: PLE0604 - lists of names
