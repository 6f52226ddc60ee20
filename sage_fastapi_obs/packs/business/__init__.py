"""The business pack: customers and their activity."""

from sage_fastapi_obs.packs.business import api
from sage_fastapi_obs.packs.business.api import *  # noqa: F403 - the public names of the pack

__all__ = api.__all__
