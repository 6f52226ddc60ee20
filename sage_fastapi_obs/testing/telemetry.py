"""`Telemetry`: observes the apps of a test, and has what each of their requests recorded."""

import threading
from itertools import chain
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from sage_fastapi_obs.testing.log_capture import LogLine
from sage_fastapi_obs.testing.observed_calls import LISTENERS, capture_spans_of, ignore, listen, observed
from sage_fastapi_obs.testing.recorded_request import RecordedRequest
from sage_fastapi_obs.testing.recorded_texts import assert_in_none, texts_of_lines, texts_of_spans
from sage_fastapi_obs.testing.rule_trial import RuleTrial

_PATIENCE_SECONDS = 10.0
"""Longest wait for the end of a request that another thread serves."""


class Telemetry:
    """Observes while it is entered: `with Telemetry() as telemetry: …`; in pytest it is the fixture `telemetry`.

    It finds apps of FastAPI and Starlette, and whatever has our middleware, by itself, also those that were made before. Give
    any other app to `observe`. Nothing is reset before or after: two of them see the same requests.
    """

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        """All requests, in the order in which they came; also those that a handler makes to another app in process."""
        self.other_lines: list[LogLine] = []
        """Lines that were written outside of requests."""
        self.other_spans: list[ReadableSpan] = []
        """Spans that ended outside of requests."""
        self._registries: list[CollectorRegistry] = [REGISTRY]
        self._providers: list[trace.TracerProvider] = []
        self._trials: list[RuleTrial] = []

    def __enter__(self) -> Self:
        """Begin to observe."""
        listen(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Observe no more; what was recorded stays."""
        ignore(self)

    def observe(
        self, app: ASGIApp, *, registry: CollectorRegistry | None = None, tracer_provider: trace.TracerProvider | None = None
    ) -> ASGIApp:
        """Return an app that calls this one and is observed, where it is of another framework, or wrapped in something else.

        `registry`: has its metrics, if that is not the default registry of `prometheus_client`. `tracer_provider`: makes its
        spans, if that is not the global one.
        """
        if registry is not None:
            self._registries.append(registry)
        if tracer_provider is not None:
            self._providers.append(tracer_provider)
            capture_spans_of(tracer_provider)

        async def observed_app(scope: Scope, receive: Receive, send: Send) -> None:
            if self not in LISTENERS or scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
            else:
                await observed(app, app, scope, receive, send)

        return observed_app

    @property
    def last(self) -> RecordedRequest:
        """The last request that the test has made, once it is complete."""
        made = [request for request in self.requests if request.parent is None]
        assert made, "no request was seen: if the app is not one of FastAPI or Starlette, send it to telemetry.observe(app)"
        if made[-1].thread != threading.get_ident():
            assert made[-1].done.wait(_PATIENCE_SECONDS), f"{made[-1]!r} has not ended within {_PATIENCE_SECONDS:.0f} s"
        return made[-1]

    @property
    def lines(self) -> list[LogLine]:
        """All lines: those of the requests in their order, then the others."""
        return [*(line for request in self.requests for line in request.lines), *self.other_lines]

    @property
    def firing(self) -> list[str]:
        """The names of the alert rules that would fire if what was observed went on for as long as they want."""
        return sorted({name for trial in self._trials for name, holds, _ in trial.values() if holds})

    def assert_fires(self, rule: str) -> None:
        """Assert that an alert rule would fire, by its name in process or in Prometheus, if what was observed went on."""
        assert self._trials, "no Observability was seen, so that there is no alert rule"
        found = [(holds, values) for trial in self._trials for name, holds, values in trial.values() if name == rule]
        names = sorted({name for trial in self._trials for name, _ in trial.rules})
        assert found, f"no rule {rule!r} can be judged here: there are {', '.join(names)}"
        assert any(holds for holds, _ in found), f"{rule} does not fire: its values are {[values for _, values in found]}"

    def assert_consistent(self) -> None:
        """Assert that the signals of each request agree."""
        assert self.requests, "no request was seen"
        for request in self.requests:
            request.assert_consistent()

    def assert_no_secret(self, *secrets: str) -> None:
        """Assert that nothing that was recorded has one of these texts, in requests or outside of them."""
        assert self.requests or self.other_lines or self.other_spans, "nothing was recorded in which a secret could be"
        for request in self.requests:
            request.assert_no_secret(*secrets)
        outside = chain(texts_of_lines(self.other_lines), texts_of_spans(self.other_spans))
        assert_in_none(outside, secrets, "outside of requests")

    def described(self) -> str:
        """Describe what was recorded, for people."""
        return "\n".join(f"{request!r}\n{request.described()}" for request in self.requests) or "no request was seen"

    def begins(self, request: RecordedRequest) -> None:
        """Take a request that begins."""
        for provider in self._providers:
            capture_spans_of(provider)
        self.requests.append(request)
        request.watch.meet(self._registries)

    def meets(self, observability: Any) -> None:
        """See an `Observability` of an app, whose rules are judged from now on."""
        if observability.settings.metrics.enabled and not any(trial.observability is observability for trial in self._trials):
            self._trials.append(RuleTrial(observability))
