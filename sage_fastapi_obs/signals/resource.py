"""What all signals of one process say about where they come from."""

import functools
import os
import uuid

from opentelemetry.sdk.resources import Resource

from sage_fastapi_obs.settings import ServiceSettings

__all__ = ["resource_of"]


def resource_of(service: ServiceSettings) -> Resource:
    """Describe a service as run by this process, `OTEL_RESOURCE_ATTRIBUTES` included."""
    return Resource.create(
        {
            "service.name": service.name,
            "service.version": service.version,
            "service.instance.id": _instance_id(os.getpid()),
            "deployment.environment.name": service.environment,
        }
    )


@functools.cache
def _instance_id(_pid: int) -> str:
    """Name a process; by its number, so that a forked one has another name."""
    return str(uuid.uuid4())
