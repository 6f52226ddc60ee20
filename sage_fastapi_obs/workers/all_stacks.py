"""What all workers of a service are doing, as one of them tells it."""

from pydantic import ValidationError

from sage_fastapi_obs.insight.stacks import RequestStack, StacksReport, ThreadStack
from sage_fastapi_obs.workers.control_client import Answer
from sage_fastapi_obs.workers.other_workers import Workers

_SECONDS = 1.0


def stacks_of_all(own: StacksReport, workers: Workers) -> StacksReport:
    """Ask the others, and add what they do to a report of this process."""
    found = _numbered(own, workers.own_number)
    for number, answer in sorted(workers.ask("stacks", seconds=_SECONDS).items()):
        report = _report(answer)
        if report is None:
            found.no_answer.append(number)
        else:
            _add(found, _numbered(report, number))
    return found


def _report(answer: Answer) -> StacksReport | None:
    if isinstance(answer, OSError):
        return None
    try:
        return StacksReport.model_validate_json(answer)
    except ValidationError:
        # A worker of another version.
        return None


def _numbered(report: StacksReport, number: int | None) -> StacksReport:
    stacks: tuple[RequestStack | ThreadStack, ...] = (*report.requests, *report.threads)
    for stack in stacks:
        stack.worker = number
    return report


def _add(found: StacksReport, more: StacksReport) -> None:
    found.requests += more.requests
    found.threads += more.threads
    found.others += more.others
