"""Write the table of `docs/settings.md` from the settings; with `--check` only say whether it is what they say."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_fastapi_obs.field_descriptions import field_descriptions
from sage_fastapi_obs.settings import PRESETS, Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
HEAD = "| key | default | dev | production | meaning |\n|---|---|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(\|.*\n)*")
MIB = 1024 * 1024


def table() -> str:
    """Return the table as it should be."""
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows())


def rows() -> Iterator[list[str]]:
    """Yield the cells of each setting."""
    for name, field in Settings.model_fields.items():
        section = getattr(field.annotation, "model_fields", None)
        if section is None:
            yield [f"`{name}`", shown(name, field.default), "", "", field_descriptions(Settings).get(name, "")]
            continue
        for key, inner in section.items():
            presets = [
                shown(key, PRESETS[preset][name][key]) if key in PRESETS[preset].get(name, {}) else "" for preset in PRESETS
            ]
            yield [f"`{name}.{key}`", shown(key, inner.default), *presets, field_descriptions(field.annotation).get(key, "")]


def shown(key: str, value: Any) -> str:
    """Write a value as people do."""
    if value in (None, (), "") or value == {}:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value // MIB} MiB" if key.endswith("_bytes") else f"{value:g}" if isinstance(value, float) else str(value)


def page() -> str:
    """Return the page as it should be."""
    return TABLE.sub(lambda _: table(), PAGE.read_text(), count=1)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit(f"{PAGE} is not what the settings say: run python scripts/document_settings.py")
