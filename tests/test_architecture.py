"""Imports go one way, the architecture page describes the package as it is, and what must never be used is not."""

import ast
import html
import re
from collections import Counter
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "sage_fastapi_obs"
ROOT = Path(__file__).parents[1] / PACKAGE
LAYERS = (
    {
        "causes",
        "field_descriptions",
        "errors",
        "internal_errors",
        "log_levels",
        "retention_reasons",
        "moved_names",
        "otel_internals",
        "pack_folders",
        "threads",
        "processes",
        "signatures",
    },
    {"settings"},
    {"privacy"},
    {"catalog"},
    {"request", "delivery"},
    {"active"},
    {"tracing", "logs", "metrics"},
    {"legacy"},
    {"operations", "store", "insight"},
    {"health"},
    {"alerting"},
    {"workers"},
    {"alert_rules", "dashboards"},
    {"clients", "packs"},
    {"endpoints", "export"},
    {"lifecycle", "install", "startup_message"},
    {"observability"},
    {"testing"},
    {"inspection"},
    {"contract", "doctor"},
    {"monitoring", "cli"},
    {"__main__", "__init__"},
)
"""From the bottom up; a part imports its own layer and those below, and parts of one layer do not know each other."""
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
FOUND = sorted(ROOT.rglob("*.py"))
PAGE_FILE = ROOT.parent / "docs" / "architecture.md"
PAGE = PAGE_FILE.read_text()


def section(heading: str) -> str:
    """Return the text below a heading of the architecture page."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def drawn_tree() -> set[str]:
    """Return the paths of the folder tree, each below the package; two spaces of indentation are one level."""
    paths: list[str] = []
    above: list[str] = []
    for indent, name in re.findall(r"^( +)(\S+)  ", section("Folders"), re.MULTILINE):
        above[len(indent) // 2 - 1 :] = [name]
        paths.append("".join(above))
    return set(paths)


def part_of(module: str) -> str:
    """Name the part of the package that a module belongs to: `sage_fastapi_obs.request.route` is in `request`."""
    inner = module.removeprefix(PACKAGE).lstrip(".")
    return inner.partition(".")[0] or "__init__"


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield the full names of modules of this package that a source imports, wherever in it."""
    own = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = own[: len(own) - node.level + is_package] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            # `from package import part` imports a part, `from package.part import name` a name.
            names = [f"{base}.{alias.name}" for alias in node.names] if base == PACKAGE else [base]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == PACKAGE)


def wrong_arrows(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """List the imports of a module that go the wrong way."""
    mine = part_of(module)
    wrong = []
    for name in imported(source, module, is_package=is_package):
        theirs = part_of(name)
        if theirs not in RANK:
            # A public name of the package itself, which is its uppermost layer.
            theirs = "__init__"
        if RANK[theirs] > RANK[mine] or (RANK[theirs] == RANK[mine] and theirs != mine):
            wrong.append(f"{module} imports {name}")
    return wrong


def module_of(path: Path) -> str:
    return ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def test_every_part_has_a_layer() -> None:
    """A new file or folder of the package has to be given its place, and one that has gone has none."""
    assert {part_of(module_of(path)) for path in FOUND} == set(RANK)


def test_the_page_has_the_layers() -> None:
    """The architecture page lists the layers that this test holds."""
    rows = re.findall(r"^\d+\. (.+)$", section("Layers"), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == list(LAYERS)


def test_the_page_has_the_folders() -> None:
    """The folder tree of the page has every module and folder at the root, every package below, and nothing else."""
    modules = {path.name for path in ROOT.glob("*.py")}
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.rglob("__init__.py") if path.parent != ROOT}
    assert drawn_tree() == modules | folders


def test_the_page_names_files_that_exist() -> None:
    """Each path in the text of the page leads to a file or folder; `<name>` and a bare file name stand for any folder's."""
    text = PAGE.replace(section("Folders"), "")
    named = {path for path in re.findall(r"`((?:[\w<>]+/)+(?:\w+\.py)?|\w+\.py)`", text) if not path.startswith("tests/")}
    patterns = {path: path.replace("<name>", "*") if "/" in path else f"**/{path}" for path in named}
    assert [path for path, pattern in patterns.items() if not any(ROOT.glob(pattern))] == []


def test_the_picture_names_files_that_exist() -> None:
    """Each file and folder that is written into the picture is one of the package."""
    written = re.findall(r">([^<]+)</text>", html.unescape((PAGE_FILE.parent / "pictures" / "architecture.svg").read_text()))
    named = {word for line in written for word in re.findall(r"\w+\.py|\w+/(?=$| )", line)}
    assert len(named) > 10
    assert [name for name in named if not any(ROOT.rglob(name))] == []


def test_the_page_has_a_file_for_each_change() -> None:
    """Each row of the table of changes names a file, or a folder for a new one."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section("Where to change what"), re.MULTILINE)[1:]
    assert len(rows) >= 20
    assert [change for change, where in rows if not re.match(r"`(?:\w+\.py|[\w/]+/(?:\w+\.py)?)`", where)] == []


@pytest.mark.parametrize("path", FOUND, ids=module_of)
def test_imports_go_one_way(path: Path) -> None:
    """No module imports a part above its own, or one beside it."""
    assert wrong_arrows(path.read_text(), module_of(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("request.middleware", "from sage_fastapi_obs.logs.writer import Logs"),
        ("request.middleware", "from sage_fastapi_obs.logs import writer"),
        ("request.middleware", "from sage_fastapi_obs import Observability"),
        ("request.middleware", "import sage_fastapi_obs.observability"),
        ("request.middleware", "from ..logs.writer import Logs"),
        ("request.middleware", "def late():\n    from sage_fastapi_obs.observability import Observability"),
        ("request.middleware", "if TYPE_CHECKING:\n    from sage_fastapi_obs.logs.writer import Logs"),
        ("errors", "from sage_fastapi_obs.settings import Settings"),
        ("settings", "from sage_fastapi_obs.request import exchange"),
        ("logs.writer", "from sage_fastapi_obs.health.readiness import Health"),
        ("health.readiness", "from sage_fastapi_obs.endpoints.metrics_page import MetricsPage"),
        ("endpoints.router", "from sage_fastapi_obs.export.prometheus import rules"),
        ("endpoints.router", "from .. import observability"),
        ("observability", "from sage_fastapi_obs.cli import main"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    """However it is written, an import that goes the wrong way is noticed."""
    assert wrong_arrows(source, f"{PACKAGE}.{module}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("request.middleware", "from sage_fastapi_obs.request.exchange import Exchange"),
        ("request.middleware", "from .exchange import Exchange"),
        ("request.middleware", "from sage_fastapi_obs.settings import Settings"),
        ("logs.writer", "from sage_fastapi_obs.request.exchange import Exchange\nimport sage_fastapi_obs_other"),
        ("observability", "from sage_fastapi_obs.endpoints.router import monitoring_router"),
        ("settings", "from sage_fastapi_obs.errors import SettingsError"),
        ("cli", "from sage_fastapi_obs.observability import Observability"),
    ],
)
def test_a_right_arrow_is_left_alone(module: str, source: str) -> None:
    """Imports of the own part, of layers below and of other packages are fine."""
    assert wrong_arrows(source, f"{PACKAGE}.{module}") == []


def modules_imported(source: str, modules: Collection[str]) -> set[str]:
    """Return the modules, of those given, that a source imports by their names."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    found = {(node.module or "", alias.name) for node in nodes for alias in node.names}
    return {full if (full := f"{module}.{name}") in modules else module for module, name in found} & {*modules}


def test_no_module_is_in_a_circle() -> None:
    """No module imports itself by way of others, not even for its types."""
    sources = {module_of(path): path.read_text() for path in FOUND}
    assert "sage_fastapi_obs.logs.access_line" in modules_imported(sources["sage_fastapi_obs.logs.access_recorder"], sources)
    TopologicalSorter({name: modules_imported(source, sources) - {PACKAGE} for name, source in sources.items()}).prepare()


@pytest.mark.parametrize("path", FOUND, ids=module_of)
def test_nobody_uses_the_base_http_middleware(path: Path) -> None:
    """Starlette's convenience class breaks streams, contexts and trailers, so it appears nowhere."""
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None))
    }
    assert "BaseHTTPMiddleware" not in names


def test_the_middleware_names_no_signal() -> None:
    """The ASGI callable tells moments to recorders and does not know which there are."""
    source = (ROOT / "request" / "middleware.py").read_text()
    called = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef) and node.name == "__call__"
    )
    words = {getattr(node, "id", getattr(node, "attr", "")).lower().strip("_") for node in ast.walk(called)}
    assert not words & {
        "identity",
        "log",
        "logs",
        "logger",
        "logging",
        "trace",
        "tracer",
        "tracing",
        "span",
        "metric",
        "metrics",
    }
    assert len(ast.unparse(called).splitlines()) < 40


def test_no_two_classes_have_one_name() -> None:
    """A name found in a traceback or by a search is that of one class."""
    nodes = (node for path in FOUND for node in ast.walk(ast.parse(path.read_text())))
    names = Counter(node.name.lstrip("_") for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_two_files_have_one_name() -> None:
    """Only packs have the same files; and there are metrics of clients and of the RFS interface."""
    names = Counter(path.name for path in FOUND if "packs" not in path.parts and path.name != "__init__.py")
    assert [name for name, number in names.items() if number > 1] == ["metrics.py"]
