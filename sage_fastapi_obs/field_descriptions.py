"""Models whose fields are described by the texts below them.

Pydantic's own `use_attribute_docstrings` reads the source of each class when it is made, which is a third of what the package
costs to import. Descriptions are wanted for schemas and tables only; they are read then.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema


class DescribedFields:
    """For a model of Pydantic: its schema has the texts below its fields."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the descriptions of fields that have none."""
        made = handler(schema)
        properties = handler.resolve_ref_schema(made).get("properties", {})
        for name, description in field_descriptions(cls).items():
            if name in properties:
                properties[name].setdefault("description", description)
        return made


def field_descriptions(model: type[Any]) -> Mapping[str, str]:
    """Return the texts below the fields of a model and of those it is made from; none where there is no source to read."""
    return {name: text for each in reversed(model.__mro__) for name, text in _texts(each.__module__).get(each.__qualname__, ())}


@cache
def _texts(module: str) -> Mapping[str, list[tuple[str, str]]]:
    """Read the texts below the attributes of all classes of a module."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}
    return {one.name: [*_texts_of(one)] for one in ast.parse(source).body if isinstance(one, ast.ClassDef)}


def _texts_of(class_: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(class_.body, class_.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
