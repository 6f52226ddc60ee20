"""CPU time to encode the spans of requests as people send them, by ours and by the SDK's encoder."""

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from benchmarks.asked import browser
from benchmarks.drive import app_maker, block
from benchmarks.place import Place
from benchmarks.variants import observability
from benchmarks.workers import Worker, answer
from sage_fastapi_obs.tracing.span_encoding import SpanEncoder

__all__ = ["measure"]

BATCH = 512
REPEATED = 7
Batches = Sequence[Sequence[ReadableSpan]]


class _Kept(SpanProcessor):
    """Keeps the spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep one."""
        self.spans.append(span)


def measure(spans: int) -> dict[str, float]:
    """Measure microseconds of a span, in a process of its own."""
    with TemporaryDirectory(prefix="benchmarks-") as folder, Worker("encoding", Path(folder, "lines.log")) as worker:
        worker.read()
        found: dict[str, float] = worker.ask(spans)
        return {**found, "to_sdk": found["ours_us"] / found["sdk_us"]}


async def _spans(lines: Path, count: int) -> Sequence[ReadableSpan]:
    """Serve requests; return their spans."""
    app, kept, obs = app_maker(31, after=15)(), _Kept(), observability(Place(lines))
    obs.install(app)
    obs.start()
    assert isinstance(obs.tracer_provider, TracerProvider)
    obs.tracer_provider.add_span_processor(kept)
    await block(app, lambda: None, [browser(f"/items/{number}") for number in range(count)])
    return kept.spans


def _us(encode: Callable[[Sequence[ReadableSpan]], Any], batches: Batches) -> float:
    """Encode all batches several times; return the microseconds of a span in the fastest round."""

    def once() -> float:
        started = time.thread_time()
        for batch in batches:
            encode(batch)
        return time.thread_time() - started

    return min(once() for _ in range(REPEATED)) / sum(map(len, batches)) * 1e6


async def _prepare(lines: Path) -> Callable[[int], Awaitable[dict[str, float]]]:
    encoder = SpanEncoder(encode_spans)

    async def reply(count: int) -> dict[str, float]:
        spans = await _spans(lines, count)
        batches = [spans[at : at + BATCH] for at in range(0, count, BATCH)]
        assert all(encoder.encode(batch)[0] == encode_spans(batch).SerializeToString() for batch in batches)
        return {"ours_us": _us(encoder.encode, batches), "sdk_us": _us(lambda b: encode_spans(b).SerializeToString(), batches)}

    return reply


def main() -> None:
    """Be the process that encodes."""
    answer(lambda: _prepare(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
