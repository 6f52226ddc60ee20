"""The security pack: authentication, threats and audits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_fastapi_obs.packs.security.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # Late: the catalog imports the metrics of this folder, and the functions need the catalog.
    return getattr(import_module("sage_fastapi_obs.packs.security.api"), name)
