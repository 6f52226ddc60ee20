"""Makes the package's long description from README.md when it is built; hatchling finds this file by its name."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")


class LongDescription(MetadataHookInterface):
    """The README with links that work on a page without the repository beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme."""
        source = metadata.get("urls", {}).get("Source")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": _without_relative_links(text, source)}


def _without_relative_links(text: str, source: str | None) -> str:
    """Let relative links lead to the source; without an address keep the text of a link, and leave out pictures."""
    if source:
        # The address of a file shows a page about it; that of a picture has to be the picture.
        pages = source.rstrip("/")
        pictures = pages.replace("/blob/", "/raw/", 1)
        return RELATIVE.sub(lambda link: f"{link[1]}[{link[2]}]({pictures if link[1] else pages}/{link[3]})", text)
    return RELATIVE.sub(lambda link: "" if link[1] else link[2], text)
