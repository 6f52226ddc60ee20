"""What all signals of one process say about where they come from."""

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

    By what the settings say, then by `OTEL_SERVICE_NAME`, then by `OTEL_RESOURCE_ATTRIBUTES`, then by our defaults.
    """
    found = {name: value for name, value in OTELResourceDetector().detect().attributes.items() if value != ""}
    default = {name: getattr(service, key) for key, name in _NAMES.items()}
    said = {_NAMES[key]: getattr(service, key) for key in service.model_fields_set}
    older = {_NAMES["environment"]: found["deployment.environment"]} if "deployment.environment" in found else {}
    described = {**default, _INSTANCE: _instance_id(os.getpid()), **older, **found, **said}
    try:
        return Resource.create(described)
    except RuntimeError:
        # It asks all detectors in threads, of which there are none: the one for the variables has answered already.
        return Resource(described)


def in_this_process(resource: Resource) -> Resource:
    """Describe the same service as run by this process, which may be a forked child of the one that was described."""
    given = OTELResourceDetector().detect().attributes.get(_INSTANCE)
    return resource.merge(Resource({_INSTANCE: given or _instance_id(os.getpid())}))


@functools.cache
def _instance_id(_pid: int) -> str:
    """Name a process; by its number, so that a forked one has another name."""
    return str(uuid.uuid4())
