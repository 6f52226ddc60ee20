"""Lines as Fluentd puts them into S3, and DuckDB in Athena's place: it runs Athena's SQL over them."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import expressions

QUERIES = Path(__file__).parents[2] / "queries/athena"
FOLDER = "customer-id"


def put(lake: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines as Fluentd does: compressed, below a folder for their day."""
    for line in lines:
        folder = lake / FOLDER / line["timestamp"][:10].replace("-", "/")
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / "1200_x.gz", "at") as file:
            file.write(json.dumps(line) + "\n")


def select(lake: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query of Athena's; return the names of its columns, and its rows. Raises `OSError` if there are no files."""
    if not any(lake.glob(f"{FOLDER}/*/*/*/*.gz")):
        raise FileNotFoundError("no files found")
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'; CREATE SCHEMA tastesync_logs")
        database.execute(f"CREATE VIEW tastesync_logs.customer_id AS {_table(lake)}")
        (query,) = sqlglot.transpile(sql, read="athena", write="duckdb")
        found = database.execute(query)
        return [column[0] for column in found.description or ()], found.fetchall()


def _table(lake: Path) -> str:
    """Read the files with the columns of `create_table.sql`; the day is in their path."""
    created = sqlglot.parse((QUERIES / "create_table.sql").read_text(), read="athena")[-1]
    columns = {
        column.name: column.args["kind"].sql("duckdb")
        for column in created.this.find_all(expressions.ColumnDef, bfs=True)
        if isinstance(column.parent, expressions.Schema) and column.name != "day"
    }
    files = f"'{lake}/{FOLDER}/*/*/*/*.gz', format = 'newline_delimited', filename = true, columns = {columns}"
    return f"SELECT * EXCLUDE filename, regexp_extract(filename, '(\\d+/\\d+/\\d+)/[^/]*$', 1) AS day FROM read_json({files})"
