"""List `print` and logging calls that put values into the text, by file: what to change when logs become structured.

It only reports. A rewrite by pattern would lose the values that the calls format.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log", "success", "trace"}
LOGGERS = {"log", "logger", "logging", "_log", "_logger"}


def main() -> None:
    """Report on folders; exit code 1 where something was found."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("paths", nargs="+", type=Path, help="files and folders")
    arguments.add_argument("--dry-run", action="store_true", help="only say which files would be read")
    given = arguments.parse_args()
    files = sorted(file for path in given.paths for file in ([path] if path.is_file() else path.rglob("*.py")))
    if given.dry_run:
        print("\n".join(f"would read {file}" for file in files))
        return
    found = [(file, line, said) for file in files for line, said in calls(file.read_text(encoding="utf-8"))]
    for file, line, said in found:
        print(f"{file}:{line}: {said}")
    print(f"{len(found)} calls in {len({file for file, _, _ in found})} of {len(files)} files", file=sys.stderr)
    sys.exit(bool(found))


def calls(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and kind of each call that writes text for people only."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "print"
        elif _is_log(node.func) and node.args and _has_values(node):
            yield node.lineno, f"{ast.unparse(node.func)} with values in its text"


def _is_log(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute) or called.attr not in LEVELS:
        return False
    name = called.value
    return (isinstance(name, ast.Name) and name.id in LOGGERS) or (isinstance(name, ast.Attribute) and name.attr in LOGGERS)


def _has_values(call: ast.Call) -> bool:
    """Whether the text is put together: an f-string, `%`, `+`, `.format(…)`, or values after it."""
    text = call.args[0]
    built = isinstance(text, ast.JoinedStr | ast.BinOp) or (
        isinstance(text, ast.Call) and isinstance(text.func, ast.Attribute) and text.func.attr == "format"
    )
    return built or len(call.args) > 1


if __name__ == "__main__":
    main()
