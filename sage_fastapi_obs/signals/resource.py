"""What all signals of one process say about where they come from."""

import functools
import os
import uuid

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from sage_fastapi_obs.settings import ServiceSettings

__all__ = ["in_this_process", "resource_of"]


def resource_of(service: ServiceSettings) -> Resource:
    """Describe a service as run by this process, `OTEL_RESOURCE_ATTRIBUTES` included."""
    ours = {
        "service.name": service.name,
        "service.version": service.version,
        "service.instance.id": _instance_id(os.getpid()),
        "deployment.environment.name": service.environment,
    }
    try:
        return Resource.create(ours)
    except RuntimeError:
        # It asks all detectors in threads, of which there are none: the one for the variable answers at once.
        return OTELResourceDetector().detect().merge(Resource(ours))


def in_this_process(resource: Resource) -> Resource:
    """Describe the same service as run by this process, which may be a forked child of the one that was described."""
    return resource.merge(Resource({"service.instance.id": _instance_id(os.getpid())}))


@functools.cache
def _instance_id(_pid: int) -> str:
    """Name a process; by its number, so that a forked one has another name."""
    return str(uuid.uuid4())
