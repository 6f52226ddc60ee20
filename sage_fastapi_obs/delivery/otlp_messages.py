"""Values and resources as messages of OTLP, which come with an extra."""

from collections.abc import Mapping
from typing import Any

from sage_fastapi_obs.errors import SettingsError


class OtlpMessages:
    """Makes the messages that all signals share."""

    def __init__(self, setting: str) -> None:
        """Import them. `setting`: what needs them. Raises `SettingsError` where the extra is missing."""
        try:
            from opentelemetry.proto.common.v1 import common_pb2 as common  # noqa: PLC0415 - an extra
            from opentelemetry.proto.resource.v1 import resource_pb2 as resource  # noqa: PLC0415
        except ImportError:
            raise missing_extra(setting) from None
        self.value, self.scope = common.AnyValue, common.InstrumentationScope
        self._resource = resource.Resource
        self._key_value, self._key_values, self._array = common.KeyValue, common.KeyValueList, common.ArrayValue

    def resource(self, attributes: Mapping[str, Any]) -> Any:
        """Return a resource."""
        return self._resource(attributes=self.attributes(attributes))

    def attributes(self, values: Mapping[str, Any]) -> list[Any]:
        """Return values by their names, in order."""
        return [self._key_value(key=key, value=self._value(value)) for key, value in values.items()]

    def _value(self, value: Any) -> Any:
        match value:
            case bool():
                return self.value(bool_value=value)
            case int() if -(2**63) <= value < 2**63:
                return self.value(int_value=value)
            case int() | float():
                return self.value(double_value=float(value))
            case dict():
                return self.value(kvlist_value=self._key_values(values=self.attributes(value)))
            case list() | tuple():
                return self.value(array_value=self._array(values=[self._value(item) for item in value]))
            case None:
                return self.value()
        return self.value(string_value=str(value))


def missing_extra(setting: str) -> SettingsError:
    """Return the error that says what to install."""
    return SettingsError(f"{setting} needs: pip install 'sage_fastapi_obs[otlp]'")
