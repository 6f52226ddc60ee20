"""Runs the planted service with its traffic, and compares what the access lines say with what happened."""

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from planted.traffic import Asked

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SERVICE = HERE / "service.py"
MS = 1_000_000
LIMIT_NS = 100 * MS
"""How long the loop has to be blocked by default before that is told of."""
SURE_NS = 160 * MS
"""A block that is longer than the limit by more than a tick has to be seen."""
LEAST_NS = 50 * MS
"""Less lost time need not be told of."""
INSIDE = frozenset({"endpoint", "dependency", "child", "asgi", "base"})
"""Where a block is a part of the request's own duration."""
OUTSIDE = frozenset({"worker", "callback", "background"})
"""Where it blocks the loop after its request has its answer."""
HARMLESS = frozenset({"-", "delayed", "busy_threads", "garbage_collection", "thread_wait"})
"""What an innocent may say: what others did to it."""
DELAYS = frozenset({"delayed", "garbage_collection"})
CLAUSES = {
    "blocked_loop": "blocked the event loop",
    "database": "the database took",
    "call": "127.0.0.1:[0-9]+ took",
}
"""How the clauses of causes begin that are compared in pairs."""


class Block(NamedTuple):
    """One time for which the loop was blocked."""

    request_id: str
    place: str
    kind: str
    started_ns: int
    ended_ns: int

    @property
    def ns(self) -> int:
        """How long."""
        return self.ended_ns - self.started_ns


def marked_lines() -> dict[str, set[str]]:
    """Find the lines that have to be named, by their marks."""
    marks = defaultdict(set)
    for path in (SERVICE, HERE / "holds.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := re.search("# plant: ([a-z-]+)$", line):
                marks[found[1]].add(f"{path.name}:{number}")
    return marks


def run(loop: str, folder: Path, *, rounds: int, innocents: int, seed: int = 1, **environment: str) -> None:
    """Let the service have its traffic; what happened and what was written is in the folder afterwards."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]), **environment}
    service = subprocess.Popen(
        [sys.executable, str(SERVICE), str(folder), loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=ROOT,
    )
    try:
        port = service.stdout.readline().strip()
        assert port, "the service did not start"
        postgres = "postgres" if "PLANTED_DSN" in variables else "none"
        command = [sys.executable, str(HERE / "traffic.py"), str(folder / "truth.json"), port]
        subprocess.run([*command, str(rounds), str(innocents), str(seed), postgres], check=True, env=variables, cwd=ROOT)
    finally:
        service.stdin.close()
        service.wait()
        service.stdout.close()


@dataclass
class Verdict:
    """What came out."""

    matrix: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a plant had a first cause."""
    right: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def count(self, what: str, is_right: bool, fault: str) -> None:
        """Count one judgement."""
        self.judged[what] += 1
        self.right[what] += is_right
        if not is_right:
            self.faults.append(f"{what}: {fault}")

    def share(self, prefix: str) -> float:
        """Return the share of what is right, of all whose names begin so."""
        names = [name for name in self.judged if name.startswith(prefix)]
        return sum(self.right[name] for name in names) / max(1, sum(self.judged[name] for name in names))

    def __str__(self) -> str:
        """Write the matrix, and the shares."""
        rows = defaultdict(dict)
        for (plant, cause), number in sorted(self.matrix.items()):
            rows[plant][cause] = number
        table = [
            f"  {plant:22} {', '.join(f'{cause} {n}' for cause, n in sorted(row.items(), key=lambda one: -one[1]))}"
            for plant, row in rows.items()
        ]
        shares = [f"  {self.right[what]:5} of {self.judged[what]:5}  {what}" for what in sorted(self.judged)]
        return "\n".join(["planted: first causes", *table, "right", *shares])


class Judge:
    """Compares the lines of one run with what happened."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "truth.json").read_text())
        self._asked = [Asked(**asked) for asked in told["asked"]]
        self._served: dict[str, list[int]] = told["served"]
        self._took: dict[str, dict[str, list[int]]] = told["took"]
        self._blocks = [Block(*block) for block in told["blocks"]]
        self._lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().split("\n") if line]
        self._access = {line["correlation_id"]: line for line in self._lines if "duration_ms" in line}
        self._marks = marked_lines()
        self.verdict = Verdict()

    def judge(self) -> Verdict:
        """Judge everything."""
        for asked in self._asked:
            if asked.plant != "setup":
                self._judge_request(asked, self._access.get(asked.request_id))
        for block in self._blocks:
            if block.ns >= SURE_NS:
                self._judge_block(block)
        return self.verdict

    def _judge_request(self, asked: Asked, line: dict[str, Any] | None) -> None:
        self.verdict.count("lines", line is not None, asked.request_id)
        if line is None:
            return
        self.verdict.matrix[self._row(asked), line.get("cause", "-")] += 1
        self._judge_cause(asked, line)
        self._judge_victim(asked, line)

    # The first cause.

    def _row(self, asked: Asked) -> str:
        plant = asked.plant.partition("/")[0]
        if asked.causes or plant in ("both", "both-waits", "threads", "pooled"):
            return f"{plant} block" if plant in ("endpoint", "dependency", "child", "asgi", "base") else plant
        return f"innocent{', delayed' if self._is_delayed(asked) else ''}"

    def _judge_cause(self, asked: Asked, line: dict[str, Any]) -> None:
        cause, why = line.get("cause", "-"), line.get("why", [])
        about = f"{asked.plant} {asked.request_id}: {cause} {why} after {line['duration_ms']:.0f} ms"
        if asked.plant.startswith("both"):
            self._judge_pair(asked, why, about)
        elif asked.causes:
            self._judge_planted(asked, line, about)
        elif asked.plant in ("threads", "pooled"):
            self._judge_wait(asked, line, about)
        else:
            self._judge_innocent(asked, line, about)

    def _judge_planted(self, asked: Asked, line: dict[str, Any], about: str) -> None:
        cause = line.get("cause", "-")
        took = next((block.ns for block in self._blocks if block.request_id == asked.request_id), SURE_NS)
        is_starved = asked.plant != "starved" or line["duration_ms"] >= 200
        # Where others took most of its time, that is right, too.
        is_delayed = self._lost(asked, SURE_NS) >= line["duration_ms"] * MS / 2
        if took >= SURE_NS and is_starved:
            right = {*asked.causes, *DELAYS} if is_delayed else {*asked.causes}
            self.verdict.count("cause of a request", cause in right, about)
        if is_delayed:
            return
        if asked.mark and "blocked_loop" not in asked.causes:
            said = str(line.get("why", []))
            self.verdict.count("line of a cause", any(_names(said, place) for place in self._marks[asked.mark]), about)

    def _judge_pair(self, asked: Asked, why: list[str], about: str) -> None:
        """See that both causes are named, the longer one first; where others did not block the loop meanwhile."""
        parts = self._took[asked.request_id]
        took = {part: end - start for part, (start, end) in parts.items()}
        first, second = sorted(took, key=lambda part: -took[part])
        if self._lost(asked, 0) < LEAST_NS // 2 and took[first] > 1.15 * took[second]:
            found = [[at for at, clause in enumerate(why) if re.search(CLAUSES[part], clause)] for part in (first, second)]
            self.verdict.count("pair in order", all(found) and found[0] < found[1], f"{about}, {took}")

    def _judge_wait(self, asked: Asked, line: dict[str, Any], about: str) -> None:
        """Judge requests that may have waited for a thread or a connection."""
        cause, why = line.get("cause", "-"), str(line.get("why"))
        if asked.plant == "pooled":
            start, end = self._took[asked.request_id]["connection_wait"]
            waited, expected, holder = end - start, "connection_wait", "GET /report"
            is_main = waited >= 2 * LEAST_NS
        else:
            served = self._served[asked.request_id]
            waited, expected, holder = served[1] - served[0] - 300 * MS, "thread_wait", "GET /threads"
            is_main = waited >= 400 * MS
        if is_main:
            self.verdict.count("cause of a request", cause == expected, f"{about}, waited {waited / MS:.0f}")
            self.verdict.count("holder of what was waited for", holder in why, about)

    def _judge_innocent(self, asked: Asked, line: dict[str, Any], about: str) -> None:
        is_blamed = "blocked_loop_ms" in line or any(
            clause.startswith("blocked the event loop") for clause in line.get("why", ())
        )
        # What one began that blocked afterwards, in the background or by a callback, is its own.
        if not any(block.request_id == asked.request_id for block in self._blocks):
            self.verdict.count("innocents not blamed", not is_blamed, about)
        lost, took = self._lost(asked, SURE_NS), line["duration_ms"] * MS
        if lost >= LIMIT_NS and lost >= took / 2:
            self.verdict.count("cause of a delayed innocent", line.get("cause") in DELAYS, f"{about}, delayed {lost / MS:.0f}")
        if not self._lost(asked, LEAST_NS):
            self.verdict.count("innocents with no cause", line.get("cause", "-") in HARMLESS, about)

    # Victims.

    def _is_delayed(self, asked: Asked) -> bool:
        return self._lost(asked, LIMIT_NS) >= 60 * MS

    def _lost(self, asked: Asked, least_ns: int) -> int:
        """How long the blocks of others delayed a request in flight."""
        served = self._served.get(asked.request_id)
        return 0 if served is None else self._overlap(asked, served[0], served[1], least_ns)

    def _hidden(self, asked: Asked, least_ns: int) -> int:
        """How long it waited in the socket because of blocks."""
        served = self._served.get(asked.request_id)
        return 0 if served is None else self._overlap(asked, asked.sent_ns, served[0], least_ns)

    def _overlap(self, asked: Asked, start_ns: int, end_ns: int, least_ns: int) -> int:
        others = [block for block in self._blocks if block.request_id != asked.request_id or block.place in OUTSIDE]
        if least_ns:
            others = [block for block in others if block.kind != "burn"]
        return sum(
            max(0, min(end_ns, block.ended_ns) - max(start_ns, block.started_ns)) for block in others if block.ns >= least_ns
        )

    def _judge_victim(self, asked: Asked, line: dict[str, Any]) -> None:
        hidden = self._hidden(asked, SURE_NS)
        about = f"{asked.plant} {asked.request_id}: hidden {hidden / MS:.1f} ms, said {line.get('queued_up_to_ms')}"
        if hidden >= LIMIT_NS:
            self.verdict.count("hidden waits flagged", "queued_up_to_ms" in line, about)
        if "queued_up_to_ms" in line:
            is_real = self._hidden(asked, 0) > 0 or self._served[asked.request_id][0] - asked.sent_ns >= LEAST_NS
            self.verdict.count("flagged waits real", is_real, about)
        lost = self._lost(asked, SURE_NS)
        if lost >= LIMIT_NS and lost >= 0.2 * line["duration_ms"] * MS:
            why = str(line.get("why"))
            self.verdict.count(
                "delays flagged",
                "delayed_up_to_ms" in line or "the event loop was blocked" in why or "collector" in why,
                f"{asked.plant} {asked.request_id}: delayed {lost / MS:.0f}, {line.get('why')}",
            )
        if "delayed_up_to_ms" in line:
            self.verdict.count(
                "flagged delays real", self._lost(asked, 0) > 0, f"{asked.plant} {asked.request_id}: {line['why']}"
            )
            self._judge_culprit(asked, line)

    def _judge_culprit(self, asked: Asked, line: dict[str, Any]) -> None:
        if by := line.get("delayed_by"):
            start, end = asked.sent_ns, self._served[asked.request_id][1]
            names = {
                name
                for block in self._blocks
                if block.started_ns < end and block.ended_ns > start
                for name in self._names(block)
            }
            self.verdict.count("culprit of a delay", by.startswith(tuple(names)), f"{asked.request_id}: {by}, but {names}")

    def _names(self, block: Block) -> tuple[str, ...]:
        """Return what a block may be called: by its route, where it has one by then."""
        path = next((asked.path for asked in self._asked if asked.request_id == block.request_id), "?").partition("?")[0]
        route = f"GET {path.replace(block.kind, '{kind}')}"
        if block.place in ("worker", "callback"):
            return "other code", route
        return (route, "a request without a route") if block.place in ("asgi", "base") else (route,)

    # Blocks.

    def _judge_block(self, block: Block) -> None:
        """See whether a block is named with the right line: on the line of its request, or where a victim tells of it."""
        line = self._access.get(block.request_id, {})
        if block.kind in ("collect", "burn"):
            return
        own = [line] if block.place in INSIDE else []
        found = any(self._is_named(block, one) for one in own or self._after(block))
        at = line.get("blocked_loop_at")
        said = f"{line.get('blocked_loop_ms')} at {at}, {line.get('why')}"
        about = f"{block.place}/{block.kind} {block.request_id} {block.ns / MS:.0f} ms: {said}"
        if block.kind == "operate":
            # Its line is over when the interpreter looks up: the request is named, with a line close by.
            self.verdict.count("operators named by request", "blocked_loop_at" in line, about)
            return
        self.verdict.count(f"blocks named: {block.place}", found, about)
        self.verdict.count(f"kinds of blocks named: {block.kind}", found, about)

    def _after(self, block: Block) -> Iterator[dict[str, Any]]:
        """Find the lines that may tell of a block of no request in flight."""
        for line in self._lines:
            served = self._served.get(line.get("correlation_id", ""))
            if served is None or served[1] >= block.started_ns or line.get("correlation_id") == block.request_id:
                yield line

    def _is_named(self, block: Block, line: dict[str, Any]) -> bool:
        said = json.dumps(line)
        return any(_names(said, place) for place in self._marks[block.kind])


def _names(said: str, place: str) -> bool:
    return re.search(rf"{re.escape(place)}\b", said) is not None
