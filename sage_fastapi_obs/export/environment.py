"""The settings of a service as variables of its container: all that it would not have by its identity alone."""

import json
import re
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic_core import to_jsonable_python

from sage_fastapi_obs.catalog.services import service_name
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.explain import without_credentials
from sage_fastapi_obs.settings.sources import ENV_PREFIX

TOKEN = f"{ENV_PREFIX}MONITORING__TOKEN"
_PLAIN = re.compile(r"[\w.:/@#-]+")
_NOT_OF_THE_PROCESS = ("service", "export")


def variables(service: Settings) -> dict[str, str]:
    """Return the values of all variables but credentials."""
    named = {name: _text(value) for name, value in _differing(service).items() if not _is_credential(value)}
    return _identity(service) | named


def credentials(service: Settings) -> list[str]:
    """Name the variables whose values have to come from a secret; the token's also if only the cluster knows it."""
    named = [name for name, value in _differing(service).items() if _is_credential(value)]
    return named if TOKEN in named or service.monitoring.access != "token" else [*named, TOKEN]


def _identity(service: Settings) -> dict[str, str]:
    own = service.service
    return {"SERVICE_NAME": service_name(service), "APP_ENV": own.environment, "APP_VERSION": own.version}


def _differing(service: Settings) -> dict[str, Any]:
    without = _fields(Settings.from_env(_identity(service)))
    return {name: value for name, value in _fields(service).items() if value != without[name]}


def _fields(settings: BaseModel, prefix: str = ENV_PREFIX) -> dict[str, Any]:
    """List all fields of the sections by the names of their variables."""
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value, variable = getattr(settings, name), f"{prefix}{name.upper()}"
        if name not in _NOT_OF_THE_PROCESS:
            found |= _fields(value, f"{variable}__") if isinstance(value, BaseModel) else {variable: value}
    return found


def _is_credential(value: Any) -> bool:
    return isinstance(value, SecretStr) or (isinstance(value, str) and without_credentials(value) != value)


def _text(value: Any) -> str:
    """Write a value as the settings read it from a variable; lists as people do, where that is the same."""
    if isinstance(value, str):
        return value
    written = to_jsonable_python(value)
    if isinstance(written, list) and written and all(isinstance(one, str) and _PLAIN.fullmatch(one) for one in written):
        return ",".join(written)
    return json.dumps(written, ensure_ascii=False)
