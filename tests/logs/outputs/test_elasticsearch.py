"""Lines to the bulk API of Elasticsearch: each is there once, whatever the server does, or it is counted."""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from receivers import Bulk, Handler, hanging, serving
from support import PATIENCE_SECONDS, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware
from sage_fastapi_obs.delivery import http_sender
from sage_fastapi_obs.delivery import queued_sender as module
from sage_fastapi_obs.logs.outputs.elasticsearch import Elasticsearch

DEPLOYED = Path(__file__).parents[3] / "deploy/logging/elasticsearch"
DROPPED = "observability_log_lines_dropped_total"


@pytest.fixture
def bulk():
    with serving(Bulk()) as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send and try again at short intervals."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.02)
    monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.01)


def sending(watch: Any, url: str, **more: Any) -> Any:
    """Start an observability that sends there."""
    watched = watch(logging={"elasticsearch_url": url, **more})
    watched.obs.start()
    return watched


def close(watched: Any) -> None:
    asyncio.run(watched.obs.close())


def dropped(watched: Any) -> dict[str, float]:
    """Count what was lost on the way to Elasticsearch, by cause."""
    found = watched.series(DROPPED)
    return {dict(labels)["cause"]: n for labels, n in found.items() if n and dict(labels)["output"] == "elasticsearch"}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_documents_are_the_lines(watch: Any, bulk: Bulk) -> None:
    """From the level on, each line is a document as it stands, with its time where Kibana looks for it."""
    watched = sending(watch, bulk.url, elasticsearch_index="shop-logs")
    logger.debug("not sent")
    logger.bind(user={"name": "Zoë \n", "tags": [1, None]}).warning("said")
    asyncio.run(drive(ObservabilityMiddleware(answer, observability=watched.obs), http_scope("/é")))
    close(watched)
    sent = [line for line in watched.lines if line["level"] != "debug"]
    assert len(sent) == 3
    assert list(bulk.documents.values()) == [{"@timestamp": line["timestamp"], **line} for line in sent]
    assert {entry["path"].partition("?")[0] for entry in bulk.headers} == {"/shop-logs/_bulk"}
    assert {entry["content-type"] for entry in bulk.headers} == {"application/x-ndjson"}
    assert dropped(watched) == {}


def test_a_day_has_an_index_of_its_own(watch: Any, bulk: Bulk, quick: None) -> None:
    """A line is in the index of its day, also if it is sent later: who deletes an old index deletes no new line."""
    bulk.faults += [take_and_drop_connection, lambda handler, *_: handler.answer(503)]
    watched = sending(watch, bulk.url, field_aliases={"timestamp": "ts"})
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    for late_by in (-1, 0, 86_400):
        at = (midnight + timedelta(seconds=late_by)).astimezone(timezone(timedelta(hours=9)))
        logger.patch(lambda record, at=at: record.update(time=at)).info("said")
    close(watched)
    said = {key: document["ts"][:10] for key, document in bulk.documents.items() if document["message"] == "said"}
    assert {day: bulk.indices[key] for key, day in said.items()} == {
        f"2026-{day}": f"ai-textbook-logs-2026.{day.replace('-', '.')}" for day in ("02-28", "03-01", "03-02")
    }
    assert {entry["path"].partition("?")[0] for entry in bulk.headers} == {"/_bulk"}
    assert len(bulk.documents) == 4
    template, policy = (json.loads((DEPLOYED / name).read_text()) for name in ("index-template.json", "ilm-policy.json"))
    assert all(fnmatch(index, template["index_patterns"][0]) for index in bulk.indices.values())
    assert policy["policy"]["phases"]["delete"]["min_age"] == "30d"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("named", ["ts", "@timestamp"])
def test_documents_have_the_names_of_the_settings(form: str, named: str, watch: Any, bulk: Bulk) -> None:
    """Fields have their other names there too, and a document always has the time where Kibana looks for it."""
    watched = sending(watch, bulk.url, format=form, field_aliases={"timestamp": named, "message": "msg"})
    asyncio.run(drive(ObservabilityMiddleware(answer, observability=watched.obs), http_scope("/é")))
    close(watched)
    started, completed = bulk.documents.values()
    assert [started["msg"], completed["msg"]] == ["observability started", "request completed"]
    assert completed["@timestamp"] == completed[named]
    assert completed["path"] == "/é"
    assert not {"timestamp", "message"} & completed.keys()


def test_lines_are_sent_also_when_the_disk_is_full(watch: Any, bulk: Bulk) -> None:
    """One place that fails keeps nothing from another."""
    watched = sending(watch, bulk.url, output="/dev/full")
    logger.info("said")
    close(watched)
    assert bulk.messages() == ["observability started", "said"]
    assert watched.value(DROPPED, output="file", cause="failed") == 2


def test_lines_for_people_are_documents_too(watch: Any, bulk: Bulk) -> None:
    """The console's format is the console's alone."""
    watched = sending(watch, bulk.url, format="console", elasticsearch_level="warning")
    logger.info("not sent")
    logger.error("said")
    close(watched)
    (document,) = bulk.documents.values()
    assert (document["message"], document["level"]) == ("said", "error")
    assert "said" in watched.path.read_text()


def test_credentials_are_used_and_never_shown(watch: Any, bulk: Bulk, capsys: Any, quick: None) -> None:
    """Those of the URL and the key, with the client's own lines at their most talkative and the server refusing."""
    url = bulk.url.replace("http://", "http://elastic:s%2Fcret%20pass@")
    bulk.faults += [lambda handler, *_: handler.answer(503), lambda handler, *_: handler.answer(401)]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    shown = []
    sink = logger.add(lambda message: shown.append(str(message)), level=0)
    try:
        watched = sending(watch, url, level="trace", elasticsearch_level="trace")
        logger.info("said")
        assert until(lambda: len(bulk.headers) >= 2)
        close(watched)
    finally:
        root.setLevel(level)
        logger.remove(sink)
    assert bulk.credentials() == {"elastic:s/cret pass"}
    everything = "".join(shown) + watched.path.read_text() + repr(watched.obs.settings) + capsys.readouterr().err
    assert "cret" not in everything
    with_key = sending(watch, bulk.url, elasticsearch_api_key="k3y-of-the-index")
    logger.info("said")
    close(with_key)
    assert bulk.headers[-1]["authorization"] == "ApiKey k3y-of-the-index"
    assert "k3y" not in repr(with_key.obs.settings) + with_key.path.read_text()


def drop_connection(handler: Handler, *_: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def take_and_drop_connection(handler: Handler, server: Bulk, body: bytes) -> None:
    """Create the documents, and be gone before saying so."""
    handler.answer = lambda *_, **__: None
    server.accept(handler, body)
    drop_connection(handler)


def overloaded(handler: Handler, server: Bulk, body: bytes) -> None:
    """Take every second document of a batch."""
    seen = iter(range(10**6))
    server.status_of = lambda _: (201, 429, 201, 503)[next(seen) % 4]
    server.accept(handler, body)
    server.status_of = lambda _: 201


PASSING = {
    "429": lambda handler, *_: handler.answer(429, b"slow down", retry_after="0"),
    "500": lambda handler, *_: handler.answer(500),
    "503 until a date": lambda handler, *_: handler.answer(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "no JSON": lambda handler, *_: handler.answer(200, b"<html>a proxy's page</html>"),
    "other JSON": lambda handler, *_: handler.answer(200, b"[1]"),
    "no items": lambda handler, *_: handler.answer(200, b'{"errors":true,"items":[]}'),
    "strange items": lambda handler, *_: handler.answer(200, b'{"errors":true,"items":[{"create":{"status":"x"}}]}'),
    "endless": lambda handler, *_: handler.answer(200, b" " * 1_000_000),
    "connection dropped": drop_connection,
    "taken, connection dropped": take_and_drop_connection,
    "some overloaded": overloaded,
}


@pytest.mark.parametrize("faults", [[name] for name in PASSING] + [["500", "some overloaded", "no JSON", "429"]], ids=str)
def test_faults_that_pass_lose_and_double_nothing(faults: list[str], watch: Any, bulk: Bulk, quick: None) -> None:
    """Every line is there once, in the end."""
    bulk.faults += [PASSING[name] for name in faults]
    watched = sending(watch, bulk.url)
    for number in range(20):
        logger.info(f"line {number}")
    assert until(lambda: len(bulk.documents) >= 21)
    close(watched)
    assert sorted(m for m in bulk.messages() if m.startswith("line")) == sorted(f"line {number}" for number in range(20))
    assert dropped(watched) == {}
    assert (bulk.conflicts > 0) == ("taken, connection dropped" in faults)
    assert watched.obs.internal_errors.counts == {}


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_batch_that_is_refused_is_counted(status: int, watch: Any, bulk: Bulk, quick: None) -> None:
    """It is not tried again, no redirect is followed, and the next one is sent; a line says so once."""
    bulk.faults += [lambda handler, *_: handler.answer(status, location=f"{bulk.url}/elsewhere")] * 2
    watched = sending(watch, bulk.url)
    assert until(lambda: dropped(watched) == {"refused": 1})
    logger.info("second")
    assert until(lambda: dropped(watched) == {"refused": 2})
    logger.info("third")
    close(watched)
    assert bulk.messages() == ["third"]
    assert len(bulk.headers) == 3
    notices = [line for line in watched.lines if line["message"] == "log lines are refused by elasticsearch"]
    assert [line["data"] for line in notices] == [{"output": "elasticsearch", "reason": f"HTTP {status}"}]


def test_documents_that_are_refused_are_counted(watch: Any, bulk: Bulk, quick: None) -> None:
    """The others of their batch are there."""
    bulk.status_of = lambda document: 400 if "bad" in document["message"] else 201
    watched = sending(watch, bulk.url)
    for message in ("good", "bad", "good", "bad", "bad"):
        logger.info(message)
    close(watched)
    assert bulk.messages() == ["observability started", "good", "good"]
    assert dropped(watched) == {"refused": 3}


def test_batches_that_are_too_large_are_halved(watch: Any, bulk: Bulk, quick: None) -> None:
    """All lines arrive, in order, but one that is too large by itself."""

    def only_short(handler: Handler, server: Bulk, body: bytes) -> None:
        server.faults.append(only_short)
        handler.answer(413) if len(body) > 3000 else server.accept(handler, body)

    bulk.faults.append(only_short)
    watched = sending(watch, bulk.url)
    for number in range(50):
        logger.info(f"{number}")
        if number == 25:
            logger.info("x" * 4000)
    close(watched)
    assert bulk.messages()[1:] == [str(number) for number in range(50)]
    assert dropped(watched) == {"refused": 1}


def test_a_server_that_hangs_slows_nobody(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are served, closing takes no longer than it may, and all lines are counted as lost."""
    with hanging() as url:
        monkeypatch.setattr(http_sender, "REQUEST_SECONDS", 2 * PATIENCE_SECONDS)
        watched = sending(watch, url, shutdown_seconds=0.3)
        around = ObservabilityMiddleware(answer, observability=watched.obs)
        for _ in range(50):
            assert asyncio.run(drive(around, http_scope())).error is None
        began = time.monotonic()
        close(watched)
        took = time.monotonic() - began
    assert took < PATIENCE_SECONDS
    assert len(watched.access) == 50
    assert dropped(watched) == {"shutdown": 51}


def stay_away(bulk: Bulk) -> list[bool]:
    """Have a server answer 503 until the returned list is cleared."""
    away = [True]

    def be_away(handler: Handler, server: Bulk, body: bytes) -> None:
        if away:
            server.faults.append(be_away)
            handler.answer(503)
        else:
            server.accept(handler, body)

    bulk.faults.append(be_away)
    return away


def test_a_server_that_is_away_costs_what_does_not_fit(watch: Any, bulk: Bulk, quick: None, monkeypatch: Any) -> None:
    """The queue keeps the first lines, counts the others, and sends what it has when the server is back; both are said."""
    monkeypatch.setattr(module, "QUEUE_LINES", 30)
    monkeypatch.setattr(module, "BATCH_LINES", 10)
    away = stay_away(bulk)
    watched = sending(watch, bulk.url)
    assert until(lambda: bulk.headers)
    for number in range(100):
        logger.info(f"line {number}")
    lost = dropped(watched)["full"]
    assert 60 <= lost <= 70
    away.clear()
    assert until(lambda: len(bulk.documents) == 101 - lost)
    assert until(lambda: watched.lines[-1]["message"] == "log lines reach elasticsearch again")
    logger.info("after")
    close(watched)
    assert bulk.messages()[-2:] == [f"line {99 - int(lost)}", "after"]
    notices = [line for line in watched.lines if "elasticsearch" in line["message"]]
    assert [line["message"] for line in notices] == [
        "log lines do not reach elasticsearch",
        "log lines reach elasticsearch again",
    ]
    assert notices[0]["data"]["reason"] == "HTTP 503"
    assert notices[1]["data"]["lost"] == lost
    assert dropped(watched) == {"full": lost}


def test_the_queue_is_limited_by_bytes(watch: Any, bulk: Bulk, quick: None, monkeypatch: Any) -> None:
    """Long lines fill it sooner, and room comes back when they are sent."""
    monkeypatch.setattr(module, "QUEUE_BYTES", 50_000)
    away = stay_away(bulk)
    watched = sending(watch, bulk.url)
    for _ in range(30):
        logger.info("x" * 10_000)
    lost = dropped(watched)["full"]
    assert lost == 26
    away.clear()
    assert until(lambda: len(bulk.documents) == 5)
    # The server has them before its answer is here.
    assert until(lambda: not watched.obs.logs.output.each[-1].sender.queued_bytes)
    for _ in range(3):
        logger.info("y" * 10_000)
    close(watched)
    assert len(bulk.documents) == 8
    assert dropped(watched) == {"full": lost}


def test_sending_does_not_cause_sending(watch: Any, bulk: Bulk, quick: None) -> None:
    """The HTTP client's own lines about a batch are no lines of the service; the application's about its calls are."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        watched = sending(watch, bulk.url, level="trace", elasticsearch_level="trace")
        assert until(lambda: bulk.documents)
        before = len(bulk.headers)
        time.sleep(0.3)
        assert len(bulk.headers) <= before + 1
        logging.getLogger("httpx").warning("the application's own call")
        close(watched)
    finally:
        root.setLevel(level)
    messages = [line["message"] for line in watched.lines]
    assert bulk.messages() == messages
    assert [said for said in messages if "selector" not in said] == ["observability started", "the application's own call"]


def test_a_defect_costs_one_batch(watch: Any, bulk: Bulk, quick: None, monkeypatch: Any) -> None:
    """The thread lives on, and the loss is counted."""
    watched = sending(watch, bulk.url)
    assert until(lambda: bulk.documents)
    with monkeypatch.context() as broken:
        broken.setattr(Elasticsearch, "deliver", None)
        logger.info("lost")
        assert until(lambda: dropped(watched) == {"refused": 1})
    logger.info("said")
    close(watched)
    assert bulk.messages() == ["observability started", "said"]


def test_a_client_that_cannot_be_opened_is_opened_later(watch: Any, bulk: Bulk, quick: None, monkeypatch: Any) -> None:
    """Here for want of its certificates; what waits for it is not lost, and both are said."""
    watched = watch(logging={"elasticsearch_url": bulk.url, "shutdown_seconds": 60.0})
    monkeypatch.setenv("SSL_CERT_FILE", "/nope")
    watched.obs.start()
    assert until(lambda: any(line["message"] == "log lines do not reach elasticsearch" for line in watched.lines))
    monkeypatch.delenv("SSL_CERT_FILE")
    logger.info("said")
    close(watched)
    assert bulk.messages() == ["observability started", "said"]
    away, back = [line["data"] for line in watched.lines if "elasticsearch" in line["message"]]
    assert "FileNotFoundError" in away["reason"]
    assert "reason" not in back
    assert dropped(watched) == {}


def test_started_again(watch: Any, bulk: Bulk) -> None:
    """A second life sends too, under other ids, and leaves no thread behind."""
    watched = sending(watch, bulk.url)
    close(watched)
    watched.obs.start()
    logger.info("again")
    close(watched)
    logger.info("after the end")
    assert bulk.messages() == ["observability started", "observability started", "again"]
    assert "sage-obs-log-elasticsearch" not in [thread.name for thread in threading.enumerate()]


FORKING = """
import asyncio, os, sys
from loguru import logger
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"output": "/dev/null", "elasticsearch_url": sys.argv[1], "shutdown_seconds": 60}))
obs.start()
for number in range(300):
    logger.info("parent")
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        logger.info("child")
        asyncio.run(obs.close())
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_forked_children_send_their_own_lines(bulk: Bulk) -> None:
    """Each under ids of its own, none of the parent's; and the parent's are sent though it never closes."""
    env = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, bulk.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env=env,
    )
    assert done.stderr == ""
    assert sorted(bulk.messages()) == ["child"] * 2 + ["observability started"] + ["parent"] * 300
    assert bulk.conflicts == 0


def test_a_port_that_is_closed_ends_in_time() -> None:
    """A program with lines for a server that is not there just ends, and says nothing but its lines."""
    with hanging() as url:
        gone = url
    source = f"""
from loguru import logger
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={{"elasticsearch_url": "{gone}", "shutdown_seconds": 0.5}}))
obs.start()
logger.info("said")
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    assert done.stderr == ""
    messages = [json.loads(row)["message"] for row in done.stdout.splitlines()]
    assert messages[:2] == ["observability started", "said"]
    assert messages[2:] == ["log lines do not reach elasticsearch"]
