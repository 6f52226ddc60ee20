"""The steps of SAGE: one block is span, metrics and fields, and these always agree."""

import asyncio
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support import Ticking, Watched

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.operations.count import count
from sage_fastapi_obs.packs import sage
from sage_fastapi_obs.packs.sage.handles import SESSIONS_ACTIVE, SESSIONS_CREATED

HALVES: dict[str, tuple[Any, list[Any]]] = {
    "handshake": (
        sage.handshake("server", "did:a", "did:b", key_type="ed25519"),
        [sage.trace_handshake("did:a", "did:b"), sage.observe_handshake("server", "ed25519")],
    ),
    "session_creation": (
        sage.session_creation("s1"),
        [sage.trace_session_create("s1"), sage.observe_session_operation("create")],
    ),
    "encryption": (
        sage.encryption("s1", 64),
        [
            sage.trace_encryption("s1", 64),
            sage.observe_session_operation("encrypt", 64),
            sage.observe_crypto("encrypt", "chacha20"),
        ],
    ),
    "decryption": (
        sage.decryption("s1", 64, key_id="k1"),
        [
            sage.trace_decryption("s1", 64, key_id="k1"),
            sage.observe_session_operation("decrypt"),
            sage.observe_crypto("decrypt", "chacha20"),
        ],
    ),
    "signature": (
        sage.signature("ed25519", "rfc9421"),
        [sage.trace_signature("ed25519", "rfc9421"), sage.observe_crypto("sign", "ed25519")],
    ),
    "signature_verification": (
        sage.signature_verification("secp256k1"),
        [sage.trace_signature_verification("secp256k1"), sage.observe_crypto("verify", "secp256k1")],
    ),
    "key_derivation": (
        sage.key_derivation("hpke"),
        [sage.trace_key_derivation("hpke"), sage.observe_crypto("derive_key", "hpke")],
    ),
    "did_resolution": (
        sage.did_resolution("solana"),
        [sage.trace_did_resolution("solana"), sage.observe_did_resolution("solana")],
    ),
}
STEPS = sorted(HALVES)
ENDS = [None, ValueError("bad"), TimeoutError("late"), httpx.ConnectError("gone"), asyncio.CancelledError()]


def recorded(watched: Watched) -> tuple[list[Any], dict[Any, float]]:
    """Read the spans, and all samples of the pack but those of time."""
    spans = [(span.name, span.status.status_code, dict(span.attributes), len(span.events)) for span in watched.spans]
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in watched.obs.registry.collect()
        if family.name.startswith("sage_")
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket", "seconds_sum"))
    }
    return spans, samples


def run(blocks: list[Any], end: BaseException | None) -> None:
    """Write a line in some blocks, and end them so."""
    with pytest.raises(type(end)) if end is not None else ExitStack(), ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        logger.info("in it")
        if end is not None:
            raise end


@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("name", STEPS)
async def test_a_step_records_what_its_halves_do(watch, name: str, end: BaseException | None):
    """However it ends, a step leaves the span of `trace_…`, its fields on lines, and the numbers of `observe_…`."""
    step, halves = HALVES[name]
    left = []
    for blocks in ([step], halves):
        watched = watch(metrics={"packs": ["sage"]})
        async with watched.obs:
            run(blocks, end)
        (line,) = [line for line in watched.lines if line["message"] == "in it"]
        about = {field: line.get(field) for field in ("operation", "client_did", "server_did", "session_id", "key_type")}
        left.append((about, recorded(watched), watched.obs.internal_errors.counts))
    assert left[0] == left[1]
    assert left[0][2] == {}


FAILURES = [TimeoutError("late"), ConnectionResetError(), ValueError("bad"), "timeout", "network", "declined"]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
@pytest.mark.parametrize("name", ["handshake", "decryption", "signature_verification", "did_resolution"])
async def test_a_failure_that_is_a_value_is_one_in_span_and_metric(watch, name: str, failure: Any):
    """A peer that answers no raises nothing, and span, status and kind of error say so all the same."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        with HALVES[name][0] as step:
            step.fail(failure)
    (span,) = watched.spans
    _, samples = recorded(watched)
    errors = {dict(key[1:])["error_type"]: n for key, n in samples.items() if "error_type" in dict(key[1:]) and n}
    why = {TimeoutError: "timeout", ConnectionResetError: "network", ValueError: "invalid"}.get(type(failure), failure)
    assert span.status.status_code is StatusCode.ERROR
    assert errors == {"other" if why == "declined" else why: 1}
    assert [event.name for event in span.events] == (["exception"] if isinstance(failure, Exception) else [])
    assert span.attributes["error.type"] == (failure if isinstance(failure, str) else type(failure).__name__)


@pytest.mark.parametrize("name", STEPS)
async def test_a_failure_told_to_the_metrics_is_one_of_the_span_around_them(watch, name: str):
    """Halves agree too: a failure that is a value reaches the span of its step, whatever is opened inside, and no other."""
    watched = watch(metrics={"packs": ["sage"]})
    traced, *observed = HALVES[name][1]
    async with watched.obs:
        with sage.trace_request("outer"), traced, observed[0] as run, sage.trace_key_generation("x25519"):
            run.fail("timeout")
    failed = {span.name for span in watched.spans if span.status.status_code is StatusCode.ERROR}
    assert failed == {span.name for span in watched.spans} - {"sage.request", "sage.key.generate"}
    assert len(failed) == 1


async def test_a_failure_is_not_told_to_another_step(watch):
    """Cryptography that failed inside of a handshake that went on is no failed handshake."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        with sage.trace_handshake("did:a", "did:b"), sage.observe_crypto("verify", "ed25519") as run:
            run.fail("invalid")
    assert watched.spans[0].status.status_code is StatusCode.UNSET


@given(st.lists(st.sampled_from([*FAILURES, None]), max_size=3), st.sampled_from(ENDS))
def test_span_and_metric_never_disagree(marks: list[Any], end: BaseException | None):
    """Whatever marks a step and however it ends: one span, an error if and only if one failure is counted."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings(metrics={"packs": ["sage"]}, logging={"enabled": False}, monitoring={"access": "open"})
    obs = Observability(settings, tracer_provider=provider, clock=Ticking())
    obs.start()
    try:
        with pytest.raises(type(end)) if end is not None else ExitStack(), sage.did_resolution("solana") as step:
            for mark in marks:
                if mark is not None:
                    step.fail(mark)
            if end is not None:
                raise end
    finally:
        asyncio.run(obs.close())
    (span,) = exporter.get_finished_spans()
    value = obs.registry.get_sample_value
    failed = value("sage_did_resolutions_total", {"chain": "solana", "status": "failure"})
    errors = sum(
        value("sage_did_resolution_errors_total", {"chain": "solana", "error_type": kind}) or 0
        for kind in ("timeout", "network", "invalid", "other")
    )
    assert failed == errors == int(span.status.status_code is StatusCode.ERROR)


async def test_the_rest_of_a_handshake_is_on_its_step(watch):
    """Its stages are timed, and the key that was agreed on is in the count."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs, sage.handshake("client", "did:a", "did:b") as step:
        async with step.stage("init"):
            step.set(peer="north").event("offered")
        step.key_type = "ed25519"
    assert watched.value("sage_handshakes_completed_total", status="success", key_type="ed25519") == 1
    assert watched.value("sage_handshake_stage_duration_seconds_count", stage="init") == 1
    (span,) = watched.spans
    assert (span.attributes["peer"], span.events[0].name) == ("north", "offered")


async def test_a_decrypted_message_has_the_size_of_its_text(watch):
    """The span has the size of the frame, and the metric that of what was in it."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs, sage.decryption("s1", 88) as step:
        step.size = 64
    assert watched.value("sage_session_message_size_bytes_sum", direction="inbound") == 64
    assert watched.spans[0].attributes["sage.payload_size"] == 88


async def test_the_id_of_a_key_is_no_session(watch):
    """A call as the design has it, with the id of the sender's key where ours has the session's, leaves no wrong session."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        for traced in (sage.trace_decryption("did:sage:a#key-1", 64), sage.decryption("did:sage:a#key-1", 64)):
            with traced:
                logger.info("in it")
    attributes = [dict(span.attributes) for span in watched.spans]
    assert attributes == [{"sage.key_id": "did:sage:a#key-1", "sage.payload_size": 64}] * 2
    assert all("session_id" not in line for line in watched.lines if line["message"] == "in it")


async def test_the_first_failure_is_a_rise(watch):
    """All statuses and kinds of errors that are known are there at 0 from the start."""
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        for metric in PACKS["sage"]:
            shown = {label for labels in watched.series(metric.name) for label, _ in labels}
            assert metric.type != "counter" or shown == set(metric.labels), metric.name
    for name in ("sage_crypto_errors_total", "sage_did_resolution_errors_total", "sage_handshakes_failed_total"):
        kinds = {dict(labels)["error_type"] for labels in watched.series(name)}
        assert kinds == {"timeout", "network", "invalid"}


async def test_the_older_word_for_a_failure_counts_as_one(watch):
    """`error` is `failure`, in every metric of every pack that knows success and failure, and is no label too many."""
    packs = [pack for pack in PACKS if pack not in ("http", "sage-core")]
    watched = watch(metrics={"packs": packs})
    async with watched.obs:
        sage.record_blockchain_transaction("ethereum", "register", "error")
        sage.record_did_registration("solana", "error")
        assert (
            watched.value("sage_blockchain_transactions_total", chain="ethereum", operation="register", status="failure") == 1
        )
        assert watched.value("sage_did_registrations_total", chain="solana", status="failure") == 1
        for metric in (each for pack in packs for each in PACKS[pack] if each.labels.get("status") == ("success", "failure")):
            before = sum(watched.series(metric.name).values())
            if metric.type == "counter":
                count(metric.name, *["error" if label == "status" else "x" for label in metric.labels])
                assert sum(watched.series(metric.name).values()) == before + 1
                assert not [labels for labels in watched.series(metric.name) if ("status", "other") in labels]
    assert watched.value("observability_label_overflow_total", label="status") in (None, 0)


async def test_metrics_can_be_used_by_hand(watch):
    """A counter of the pack is raised, and read back; without its pack, or without anything running, nothing happens."""
    SESSIONS_CREATED.inc(status="success")
    off = watch(metrics={"packs": ["http"]})
    async with off.obs:
        SESSIONS_CREATED.inc(status="success")
    watched = watch(metrics={"packs": ["sage"]})
    async with watched.obs:
        SESSIONS_CREATED.inc(status="success")
        SESSIONS_ACTIVE.set(12)
        SESSIONS_ACTIVE.dec(2)
        SESSIONS_CREATED.inc(kind="x")
    assert off.value("sage_sessions_created_total", status="success") is None
    assert watched.value("sage_sessions_created_total", status="success") == 1
    assert watched.value("sage_sessions_active") == 10
    assert watched.obs.internal_errors.counts == {"sage_sessions_created_total": 1}


def test_each_metric_of_the_pack_can_be_used_by_hand():
    """None of them is left out, and each has the type that its name has here."""
    handles = {name: getattr(sage, name) for name in sage.__all__ if name.isupper()}
    assert {handle.metric.name for handle in handles.values()} == {metric.name for metric in PACKS["sage"]}
    assert {type(handle).__name__.removeprefix("Declared").lower() == handle.metric.type for handle in handles.values()} == {
        True
    }


async def test_active_sessions_can_be_those_that_there_are(watch):
    """A function that is set before the start gives the number at each scrape and to rules; one that raises gives none."""
    sessions = ["stored", "stored too"]
    SESSIONS_ACTIVE.set_function(lambda: len(sessions))
    try:
        watched = watch(metrics={"packs": ["sage"]})
        async with watched.obs:
            assert watched.value("sage_sessions_active") == 2
            sessions.append("new")
            with sage.session_creation("new"):
                pass
            assert watched.value("sage_sessions_active") == 3
            watched.obs.status.refresh()
            (active,) = watched.obs.status.view(60).stats("sage_sessions_active", {}, ()).values()
            assert active.statistic("last") == 3
            SESSIONS_ACTIVE.set_function(lambda: 1 // 0)
            assert str(watched.value("sage_sessions_active")) == "nan"
        assert set(watched.obs.internal_errors.counts) == {"sage_sessions_active"}
    finally:
        SESSIONS_ACTIVE._functions.clear()  # a function holds for all that start later
