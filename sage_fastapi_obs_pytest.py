"""The pytest plugin of `sage_fastapi_obs`: the fixture `telemetry`.

A module of its own, as pytest imports its plugins at the start of every run: the package, and FastAPI with it, is imported
by the first test that asks for the fixture.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sage_fastapi_obs.testing import Telemetry


@pytest.fixture
def telemetry() -> "Iterator[Telemetry]":
    """Observe the apps of this test: `telemetry.last` is what its last request has recorded."""
    from sage_fastapi_obs.testing import Telemetry  # noqa: PLC0415 - see above

    with Telemetry() as observing:
        yield observing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what was recorded in the report of a test that fails."""
    report = yield
    observing: Any = getattr(item, "funcargs", {}).get("telemetry")
    if call.when == "call" and report.failed and hasattr(observing, "described"):
        report.sections.append(("Recorded telemetry", observing.described()))
    return report
