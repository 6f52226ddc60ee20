"""One request to an observed app, as a test sees it: what was recorded of it, and assertions about that."""

from collections.abc import Mapping
from typing import Any

from sage_fastapi_obs.privacy.redaction import cut
from sage_fastapi_obs.testing.agreement import disagreements
from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.recorded_texts import assert_in_none
from sage_fastapi_obs.testing.recording import Recording

_SHOWN = 20
"""Lines, spans and queries that a failed assertion shows at most of each."""


class RecordedRequest(Recording):
    """What was recorded of one request; complete once the app has returned, background work included."""

    def assert_consistent(self) -> None:
        """Assert that response, spans, lines and metrics say the same of it, and that there is something to compare."""
        found = disagreements(self)
        assert not found, self.failure("its signals disagree", *found)

    def assert_one_line(self, **wanted: Any) -> LogLine:
        """Assert that one of its lines has these values (`message`, `level`, `logger`, fields), and return it.

        Without any: that there is one access line, or, in an app without ours, one line at all.
        """
        if wanted:
            found, what = [line for line in self.lines if line.has(wanted)], f"lines with {wanted}"
        elif self.is_logged_by_us:
            found, what = self.access_lines, "access lines"
        else:
            found, what = self.lines, "lines"
        assert len(found) == 1, self.failure(f"{len(found)} {what}, not 1")
        return found[0]

    def assert_no_secret(self, *secrets: str) -> None:
        """Assert that no line, span, metric or header of it has one of these texts, also as in JSON or a URL."""
        texts = [*self.recorded_texts()]
        assert texts, self.failure("nothing was recorded in which a secret could be")
        assert_in_none(iter(texts), secrets, f"of {self!r}")

    def assert_route(self, template: str | None) -> None:
        """Assert which route served it; None: none did."""
        assert self.route == template, self.failure(f"route {self.route!r}, not {template!r}")

    def assert_queries(self, *, max: int, min: int = 0) -> None:  # noqa: A002 - reads best at the call
        """Assert how many statements it has sent to databases of SQL."""
        number = len(self.queries)
        assert min <= number <= max, self.failure(f"{number} queries, not {min} to {max}")

    def failure(self, what: str, *more: str) -> str:
        """Say what is wrong, and what was recorded."""
        return "\n".join([f"{self!r}: {what}", *(f"  - {one}" for one in more), self.described()])

    def described(self) -> str:
        """Describe what was recorded, for people."""
        rows = [
            *(f"line  {line.level:<8} {line.message}  {_shown(line.fields)}" for line in self.lines[:_SHOWN]),
            *(f"span  {span.name}  {_shown(span.attributes or {})}" for span in self.spans[:_SHOWN]),
            *(f"query {query.text}" for query in self.queries[:_SHOWN]),
        ]
        left_out = sum(max(0, len(each) - _SHOWN) for each in (self.lines, self.spans, self.queries))
        return "\n".join(
            [*(f"    {row}" for row in rows or ["nothing else was recorded"]), *([f"    {left_out} more"] * (left_out > 0))]
        )


def _shown(fields: Mapping[str, Any]) -> str:
    return cut(" ".join(f"{name}={value}" for name, value in fields.items()), 300)
