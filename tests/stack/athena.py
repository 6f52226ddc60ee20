"""A program that stands for `aws athena` in a search of `scripts/log-query.sh`; DuckDB runs the SQL over the files in LAKE.

It takes the arguments that the service's model allows, says that a query is running before it says how that ended, and answers
with rows of texts.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import botocore.session
import jmespath
from botocore.model import OperationModel
from botocore.validate import ParamValidator


def _answer(lake: Path, called: str, given: dict[str, Any]) -> dict[str, Any]:
    """Keep the query in a file of the lake, and a second one once its state was asked for."""
    kept, asked = lake / "query.sql", lake / "asked"
    if called == "StartQueryExecution":
        asked.unlink(missing_ok=True)
        kept.write_text(given["QueryString"])
        return {"QueryExecutionId": "q-1"}
    assert given["QueryExecutionId"] == "q-1"
    if called == "GetQueryExecution" and not asked.exists():
        asked.touch()
        return {"QueryExecution": {"Status": {"State": "RUNNING"}}}
    # Loading it takes longer than all else.
    from lake import select  # noqa: PLC0415

    try:
        names, rows = select(lake, kept.read_text())
    except OSError as error:
        return {"QueryExecution": {"Status": {"State": "FAILED", "StateChangeReason": str(error).splitlines()[0]}}}
    if called == "GetQueryExecution":
        return {"QueryExecution": {"Status": {"State": "SUCCEEDED"}}}
    cells = [[{} if value is None else {"VarCharValue": str(value)} for value in row] for row in [names, *rows]]
    return {"ResultSet": {"Rows": [{"Data": row} for row in cells]}}


def _checked(operation: OperationModel, words: list[str]) -> dict[str, Any]:
    """Read the arguments of an operation as the command line does; exits where it would refuse them."""
    given: dict[str, Any] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = option.removeprefix("--").title().replace("-", "")
        key, is_pair, text = value.partition("=")
        given[name] = {key: text} if is_pair and name.endswith("Configuration") else value
    report = ParamValidator().validate(given, operation.input_shape)
    unknown = set(given) - set(operation.input_shape.members)
    if report.has_errors() or unknown:
        sys.exit(f"aws: {report.generate_report()} {unknown or ''}")
    return given


def main() -> None:
    """Answer one call of `aws athena`."""
    service, called, *words = sys.argv[1:]
    shown = dict(zip(words[::2], words[1::2], strict=True))
    own = {name: shown.pop(name, "") for name in ("--query", "--output")}
    model = botocore.session.get_session().get_service_model(service)
    operation = model.operation_model(called.title().replace("-", ""))
    given = _checked(operation, [word for pair in shown.items() for word in pair])
    answer: Any = _answer(Path(os.environ["LAKE"]), operation.name, given)
    answer = jmespath.search(own["--query"], answer) if own["--query"] else answer
    sys.stdout.write(answer if own["--output"] == "text" else json.dumps(answer))


if __name__ == "__main__":
    main()
