"""`sage-obs store`: where a store is, and its removal under a running service."""

import threading
from pathlib import Path
from typing import Any

import pytest
from kept_requests import filled, kept, path_of, put

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.store.records import RequestQuery


def test_the_path_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It is found as `show` finds it."""
    monkeypatch.setenv("SAGE_OBS_STORE__PATH", str(tmp_path))
    assert main(["store", "path", "--service=shop"]) == 1
    assert "sage-obs store: there is no store of 'shop'" in capsys.readouterr().err
    with filled(tmp_path, kept(0)):
        assert main(["store", "path", "--service=shop"]) == 0
        assert capsys.readouterr().out == f"{path_of(tmp_path)}\n"


def test_a_store_is_cleared_under_a_running_service(tmp_path: Path, capsys: Any) -> None:
    """It says what was deleted; the service goes on, with a new file, and loses nothing that comes later."""
    with filled(tmp_path, *(kept(number) for number in range(100))) as store:
        path = path_of(tmp_path)
        size = path.stat().st_size
        assert main(["store", "clear", f"--store={path}"]) == 0
        assert capsys.readouterr().out == f"deleted {path}, {size:,} bytes\n"
        assert store.reader.list(RequestQuery()).requests == []
        put(store, kept(200))
        (one,) = store.reader.list(RequestQuery()).requests
        assert one.request.request_id == "request-200"
        assert {cause: count for cause, count in store.losses.counts.items() if count} == {}


def test_clearing_while_requests_come(tmp_path: Path, capsys: Any) -> None:
    """Again and again: no request that came after the last time is missing, and no file is damaged."""
    with filled(tmp_path, kept(0)) as store:
        path = path_of(tmp_path)
        done = threading.Event()

        def write() -> None:
            number = 1
            while not done.is_set():
                put(store, kept(number))
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(20):
            main(["store", "clear", f"--store={path}"])
        done.set()
        writer.join()
        assert "Traceback" not in capsys.readouterr().err
        assert store.losses.counts["damaged"] == 0
        put(store, kept(9_999))
        assert store.reader.find("request-9999")


def test_only_a_store_is_deleted(tmp_path: Path, capsys: Any) -> None:
    """A mistyped path costs nobody another file."""
    other = tmp_path / "customers.sqlite3"
    other.write_bytes(b"precious")
    assert main(["store", "clear", f"--store={other}"]) == 1
    assert "is not named as a store" in capsys.readouterr().err
    assert other.read_bytes() == b"precious"
    assert main(["store", "clear", f"--store={tmp_path / 'none'}"]) == 1
    assert "there is no store at" in capsys.readouterr().err
