"""The security pack: authentication, threats and audits."""

from sage_fastapi_obs.packs.security import api
from sage_fastapi_obs.packs.security.api import *  # noqa: F403 - the public names of the pack

__all__ = api.__all__
