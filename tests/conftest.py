"""Fixtures: each test gets objects of its own, so that nothing needs a reset."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support import Watched

from sage_fastapi_obs.domain import home

# No test asserts a time: machines are busy.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """Build watched observabilities, and give the process's logging back afterwards."""
    made: list[Watched] = []

    def build(**sections: Any) -> Watched:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Watched(folder, **sections))
        return made[-1]

    yield build
    for watched in made:
        home.leave(watched.obs)
        watched.obs.status.abandon()
        watched.obs._logs.close()
        watched.provider.shutdown()
