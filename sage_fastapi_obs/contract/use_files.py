"""What stands in a folder: Grafana's dashboards, rule files and runbooks, each known by what is in it."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sage_fastapi_obs.contract.grafana_uses import dashboards_in, grafana_uses, library_panel
from sage_fastapi_obs.contract.rule_uses import rule_uses
from sage_fastapi_obs.contract.runbook_uses import runbook_uses
from sage_fastapi_obs.contract.telemetry_contract import ContractError, Use

_MOST_BYTES = 16 * 1024 * 1024
_MOST_FILES = 20_000
_CONTENTS = (".json", ".yml", ".yaml", ".rules")
_ENDINGS = (*_CONTENTS, ".md")
_LEFT_OUT = frozenset({"node_modules", "__pycache__", "site-packages"})


class FoundUses(NamedTuple):
    """What was found."""

    uses: list[Use]
    unread: list[str]
    """Files that could not be read, with the reason."""


def uses_in(paths: Sequence[Path]) -> FoundUses:
    """Read files, and all that is below folders; raises `ContractError` for a path where nothing is found."""
    found = [_uses_of(path) for path in paths]
    return FoundUses([use for one in found for use in one.uses], [text for one in found for text in one.unread])


def _uses_of(path: Path) -> FoundUses:
    documents: list[tuple[str, Any]] = []
    uses: list[Use] = []
    unread: list[str] = []
    for file in _files(path):
        try:
            text = _text(file)
            if file.suffix == ".md":
                uses += runbook_uses(text, file.stem, str(file))
            else:
                documents += [(str(file), one) for one in _documents(text, file)]
        except ContractError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            unread.append(f"{file}: {_first_line(error)}")
    libraries = dict(filter(None, (library_panel(document) for _, document in documents)))
    for name, document in documents:
        try:
            uses += _of_document(document, name, libraries)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            # Something stands where something else should: a list for a map, a number for a text.
            unread.append(f"{name}: {_first_line(error)}")
    if not uses:
        why = f": {unread[0]}" if unread else ""
        raise ContractError(f"{path} has no dashboard, rule or runbook{why}")
    return FoundUses(uses, unread)


def _of_document(document: Any, file: str, libraries: Mapping[str, Mapping[str, Any]]) -> list[Use]:
    boards = dashboards_in(document)
    return [
        *rule_uses(document, file),
        *_of_programs(document, file),
        *(use for board in boards for use in grafana_uses(board, file, libraries)),
    ]


def _of_programs(document: Any, file: str) -> Iterator[Use]:
    """Yield what the configuration of Alertmanager and of Grafana's data sources names."""
    if not isinstance(document, dict):
        return
    if "route" in document and "receivers" in document:
        yield Use("configuration of", "Alertmanager", "words", json.dumps(document, default=str), file=file)
    sources = document.get("datasources")
    for source in sources if isinstance(sources, list) else ():
        settings = source.get("jsonData") if isinstance(source, dict) else None
        if isinstance(settings, dict):
            name = str(source.get("name", "without a name"))
            text = json.dumps(settings, default=str).replace('\\"', '"')
            yield Use("data source", name, "logql", text, file=file)
            yield Use("data source", name, "words", text, file=file)


def _files(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise ContractError(f"there is no {path}: name a file or folder with dashboards, rules or runbooks")
    if path.is_file():
        yield path
        return
    found = 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        for name in sorted(names):
            if name.endswith(_ENDINGS):
                found += 1
                if found > _MOST_FILES:
                    raise ContractError(f"{path} has more than {_MOST_FILES} files: name the folders with dashboards and rules")
                yield Path(folder, name)


def _text(file: Path) -> str:
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES // 1024 // 1024} MB")
    return file.read_text(encoding="utf-8-sig")


def _documents(text: str, file: Path) -> Iterator[Any]:
    """Yield the documents of a file, and those in lists and ConfigMaps of Kubernetes."""
    for document in [json.loads(text)] if file.suffix == ".json" else _yaml(text):
        items = document.get("items") if isinstance(document, dict) else None
        for one in (document, *(items if isinstance(items, list) else ())):
            yield one
            data = one.get("data") if isinstance(one, dict) and one.get("kind") == "ConfigMap" else None
            for name, inner in data.items() if isinstance(data, dict) else ():
                if isinstance(inner, str) and str(name).endswith(_CONTENTS):
                    yield from _documents(inner, Path(str(name)))


def _yaml(text: str) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ContractError("rule files need PyYAML: pip install 'sage_fastapi_obs[contract]'") from None
    try:
        return [*yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    except yaml.YAMLError as error:
        raise ValueError(f"it is no YAML: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
