"""What the tests of insight share."""

import pytest
from support import Watched


@pytest.fixture(autouse=True)
def with_insight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have requests say why they are slow."""
    monkeypatch.setattr(Watched, "with_insight", True)
