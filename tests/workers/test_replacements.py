"""A server that replaces its workers again and again: nothing grows with that."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import replaced
from support import PATIENCE_SECONDS, SOAK, times

TURNS = times(9, 1_000)


def test_replacements_leave_constant_files_and_cost(tmp_path: Path) -> None:
    """After each, all requests are counted; files, their bytes and the cost of a page stay what they were."""
    command = [sys.executable, "-W", "ignore", replaced.__file__, str(tmp_path), str(TURNS)]
    # In the long form it takes minutes.
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=12 * PATIENCE_SECONDS)
    turns = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(turns) == TURNS, done.stderr
    sent, counted, files, sizes, stored, seconds, _ = zip(*turns, strict=True)
    assert sent == counted
    assert max(files) <= 2 * replaced.WORKERS + 4
    # Slots stay as long as they are; what the leader tells the others has longer or shorter numbers.
    assert max(sizes) - min(sizes) < 1_000
    assert max(stored) <= stored[0] + 2
    first, last = median(seconds[:100]), median(seconds[-100:])
    assert not SOAK or last < 1.3 * first
    sys.stdout.write(
        f"{TURNS} replacements: {max(files)} files, {max(sizes)} bytes, at first {sizes[0]}; "
        f"a page costs {first * 1_000:.2f} ms at first, {last * 1_000:.2f} ms at last; {sent[-1]} requests counted\n"
    )
