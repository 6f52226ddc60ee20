"""YAML as people like to read it: keys in the order given, long texts in blocks, and a word on where it is from."""

from typing import Any

from sage_fastapi_obs.errors import SettingsError

_WRITTEN_BY = "# Written by `sage-obs export`: change the settings or the package, and run it again."
_WIDTH = 10_000
"""Lines are as long as they need to be: a folded expression cannot be searched for."""


def dumped(*documents: Any, comment: str = "") -> str:
    """Write documents as one file; raises `SettingsError` without PyYAML."""
    try:
        import yaml  # noqa: PLC0415 - an extra, wanted only where something is exported
    except ImportError:
        raise SettingsError("exporting needs PyYAML: pip install 'sage_fastapi_obs[yaml]'") from None

    class Readable(yaml.SafeDumper):
        def ignore_aliases(self, _data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's signature
            super().increase_indent(flow, indentless=False)

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Readable.add_representer(str, text)
    head = "\n".join([_WRITTEN_BY, *(f"# {line}" for line in comment.splitlines())])
    written = yaml.dump_all(documents, Dumper=Readable, sort_keys=False, width=_WIDTH, allow_unicode=True)
    return f"{head}\n{written}"
