"""`python -m benchmarks` measures everything and writes it into the pages; or names one part, for a look while working."""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import as_run, cost, machine, memory, report, scaling, scrape, several, sockets
from benchmarks.effort import FULL, SHORT, Effort
from benchmarks.variants import VARIANTS
from benchmarks.workers import say

PARTS = {
    "cost": cost.measure,
    "scaling": scaling.measure,
    "scrape": scrape.measure,
    "sockets": sockets.measure,
    "memory": memory.measure,
    "as_run": as_run.measure,
}
LOOKS = {**PARTS, "several": several.measure}
"""What can be measured alone."""
DIGITS = 4


def main() -> None:
    """Do what the command line says."""
    given = _parser().parse_args()
    effort: Effort = SHORT if given.short else FULL
    if given.part is None:
        _everything(effort, given.json)
    elif given.part == "report":
        report.write(json.loads(report.RESULTS.read_text()))
    elif given.part == "cost":
        effort = replace(effort, cost=replace(effort.cost, rounds=given.rounds or effort.cost.rounds))
        print(report.table_of_cost(cost.measure(effort, given.variants)))
    elif given.part == "as-run":
        _as_run(replace(effort, as_run=replace(effort.as_run, rounds=given.rounds or effort.as_run.rounds)), given)
    else:
        print(json.dumps(_rounded(LOOKS[given.part](effort)), indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a little of everything, to see that it runs; writes into no page")
    parser.add_argument("--json", type=Path, help="write the results there")
    parts = parser.add_subparsers(dest="part", metavar="PART")
    of_cost = parts.add_parser("cost", help="CPU time that a request gains")
    of_cost.add_argument("variants", nargs="*", metavar="VARIANT", help=f"any of: {', '.join(VARIANTS)}; default: all")
    of_cost.add_argument("--rounds", type=int)
    of_run = parts.add_parser("as-run", help="requests as people send them: CPU, encoding, sockets; a few minutes")
    of_run.add_argument("--rounds", type=int)
    of_run.add_argument("--cpu", action="store_true", help="only CPU time of requests")
    of_run.add_argument("--keep", action="store_true", help="put the results into the pages, in place of those of this part")
    parts.add_parser("scaling", help="its growth with routes, chunks and values of labels")
    parts.add_parser("scrape", help="CPU time of a scrape, and how long it holds the event loop up")
    parts.add_parser("several", help="CPU time of a scrape that answers for eight workers, and of what they save for it")
    parts.add_parser("sockets", help="requests per second and latencies, with wrk")
    parts.add_parser("memory", help="resident memory after a million requests")
    parts.add_parser("report", help="measure nothing; make tables and chart from the results that are there")
    return parser


def _as_run(effort: Effort, given: argparse.Namespace) -> None:
    """Measure this case alone."""
    if given.cpu:
        print(report.table_of_run(as_run.measure_cost(effort.as_run, effort.cost_requests)))
        return
    results = _rounded(as_run.measure(effort))
    if given.keep:
        report.write({**json.loads(report.RESULTS.read_text()), "as_run": results})
    print(report.table_of_run(results))


def _everything(effort: Effort, json_path: Path | None) -> None:
    started = time.monotonic()
    results: dict[str, Any] = {"made": machine.described()}
    for part, measure in PARTS.items():
        say(f"== {part}")
        results[part] = measure(effort)
    results = _rounded(results)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if effort is FULL:
        report.write(results)
    print(f"\n{report.figures(results)}\n{time.monotonic() - started:.0f} s")


def _rounded(value: Any) -> Any:
    """Keep the digits that mean something."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    main()
