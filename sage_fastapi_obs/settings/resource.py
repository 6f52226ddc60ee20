"""The OpenTelemetry resource: which service, and which process of it, the signals come from."""

import functools
import os
import uuid

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from sage_fastapi_obs.settings import ServiceSettings

__all__ = ["in_this_process", "resource_of"]

_NAMES = {"name": "service.name", "version": "service.version", "environment": "deployment.environment.name"}
_INSTANCE = "service.instance.id"


def resource_of(service: ServiceSettings) -> Resource:
    """Describe a service as run by this process.

    Settings win over `OTEL_SERVICE_NAME`, that over `OTEL_RESOURCE_ATTRIBUTES`, and that over our defaults.
    """
    variables = {name: value for name, value in OTELResourceDetector().detect().attributes.items() if value != ""}
    defaults = {name: getattr(service, key) for key, name in _NAMES.items()}
    settings = {_NAMES[key]: getattr(service, key) for key in service.model_fields_set}
    older = {_NAMES["environment"]: variables["deployment.environment"]} if "deployment.environment" in variables else {}
    attributes = {**defaults, _INSTANCE: _instance_id(os.getpid()), **older, **variables, **settings}
    try:
        return Resource.create(attributes)
    except RuntimeError:
        # It runs its detectors in threads, and none can be started. The variables are read above.
        return Resource(attributes)


def in_this_process(resource: Resource) -> Resource:
    """Return the resource of this process, which may be a forked child of the one that made `resource`."""
    given = OTELResourceDetector().detect().attributes.get(_INSTANCE)
    return resource.merge(Resource({_INSTANCE: given or _instance_id(os.getpid())}))


@functools.cache
def _instance_id(_pid: int) -> str:
    """Return the id of a process; a forked child has a number of its own, and so another id."""
    return str(uuid.uuid4())
