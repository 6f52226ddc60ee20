"""Texts below fields are those that Pydantic finds itself, which takes it a look at each class when that is made."""

import pytest
from pydantic import BaseModel, ConfigDict

from sage_fastapi_obs.field_descriptions import DescribedFields


class Plain(DescribedFields, BaseModel):
    """Read when a schema is made."""

    one: int = 1
    """The first.

    Over several lines.
    """
    two: str = ""
    none: None = None


class Further(Plain):
    """Takes over what is below the fields of the other."""

    two: str = "2"
    """Told here."""
    inner: Plain = Plain()
    """A reference."""


class Looked(BaseModel):
    """Read when the class is made."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    one: int = 1
    """The first.

    Over several lines.
    """
    two: str = ""
    none: None = None


class LookedFurther(Looked):
    """Takes over what is below the fields of the other."""

    two: str = "2"
    """Told here."""
    inner: Looked = Looked()
    """A reference."""


@pytest.mark.parametrize(("ours", "expected"), [(Plain, Looked), (Further, LookedFurther)])
def test_schemas_are_those_of_pydantic(ours: type[BaseModel], expected: type[BaseModel]) -> None:
    """With texts of several lines, fields without, fields of the class above, and references."""

    def descriptions(model: type[BaseModel]) -> dict[str, str]:
        return {name: field.get("description") for name, field in model.model_json_schema()["properties"].items()}

    assert descriptions(ours) == descriptions(expected)
    assert descriptions(ours)["one"] == "The first.\n\nOver several lines."


def test_a_model_without_source_has_no_descriptions() -> None:
    """Its schema is made."""
    space = {"__name__": "nowhere", "DescribedFields": DescribedFields, "BaseModel": BaseModel}
    exec('class Made(DescribedFields, BaseModel):\n    one: int = 1\n    """Text."""\n', space)
    assert space["Made"].model_json_schema()["properties"] == {"one": {"default": 1, "title": "One", "type": "integer"}}
