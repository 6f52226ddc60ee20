"""Several outputs at once: each has every line, in its form, and none loses a line because another does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from sage_fastapi_obs import Settings, SettingsError, configure_logging


def messages_of(text: str) -> list[str]:
    return [json.loads(row)["message"] for row in text.splitlines()]


@pytest.mark.parametrize("seconds", [0, 0.02])
@pytest.mark.parametrize("level", ["info", "error"])
def test_each_has_every_line(seconds: float, level: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output and two files, whether lines are gathered or not."""
    paths = [str(tmp_path / name) for name in ("one", "two")]
    give_back = configure_logging(Settings(logging={"outputs": ["stdout", *paths], "gather_seconds": seconds}))
    for number in range(100):
        logger.log(level.upper(), f"line {number}")
    give_back()
    said = [f"line {number}" for number in range(100)]
    assert messages_of(capfd.readouterr().out) == said
    assert [messages_of(Path(path).read_text()) for path in paths] == [said, said]


def test_people_watch_one_and_machines_read_the_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Lines for people on a stream, JSON in the file beside it; a file by itself has what is asked for."""
    path = tmp_path / "lines"
    give_back = configure_logging(Settings(logging={"outputs": f"stdout, {path}", "format": "console"}))
    logger.bind(order=7).error("paid")
    give_back()
    assert "paid order=7" in capfd.readouterr().out
    assert json.loads(path.read_text())["data"] == {"order": 7}
    give_back = configure_logging(Settings(logging={"outputs": [str(path.with_name("text"))], "format": "console"}))
    logger.info("paid")
    give_back()
    assert " paid" in path.with_name("text").read_text()


def test_files_rotate(tmp_path: Path) -> None:
    """What is set for files is for each of them."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name / "lines") for name in ("a", "b")]
    wanted = {"outputs": ["stderr", *paths], "rotate_bytes": 4096, "gather_seconds": 0}
    give_back = configure_logging(Settings(logging=wanted))
    for number in range(100):
        logger.info("line {}", number)
    give_back()
    for name in ("a", "b"):
        files = sorted((tmp_path / name).glob("lines*"), key=lambda path: path.name == "lines")
        rows = [row for path in files if path.suffix != ".lock" for row in messages_of(path.read_text())]
        # What another test's library has left on stderr is silenced, and a line says so.
        rows = [row for row in rows if row.startswith("line ")]
        assert (len(files) > 2, sorted(rows)) == (True, sorted(f"line {number}" for number in range(100)))


FULL = """
import json, sys
from loguru import logger
from sage_fastapi_obs import Observability, Settings
obs = Observability(Settings(logging={"outputs": ["/dev/full", "stdout", sys.argv[1]], "format": sys.argv[2]}))
obs.start()
for number in range(10):
    logger.info("line {}", number)
obs.abandon()
value = obs.registry.get_sample_value
print(value("observability_log_lines_dropped_total", {"output": "file", "cause": "failed"}) >= 10)
print(value("observability_log_lines_dropped_total", {"output": "stdout", "cause": "failed"}))
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_one_that_is_full_costs_the_others_nothing(form: str, tmp_path: Path) -> None:
    """A device without space loses its lines, which are counted, and the others have them."""
    path = tmp_path / "lines"
    command = [sys.executable, "-c", FULL, str(path), form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *rows, full, stdout = done.stdout.splitlines()
    assert (full, stdout) == ("True", "0")
    for number in range(10):
        assert len([row for row in rows if f"line {number}" in row]) == 1
    assert [message for message in messages_of(path.read_text()) if message.startswith("line")] == [
        f"line {number}" for number in range(10)
    ]


@pytest.mark.parametrize("form", ["json", "console"])
def test_one_that_cannot_be_opened_costs_the_others_nothing(form: str, watch: Any, tmp_path: Path, capfd: Any) -> None:
    """A file in a folder that is not there loses its lines, which are counted; with none that can be opened we do not start."""
    nowhere = str(tmp_path / "nowhere" / "lines")
    watched = watch(logging={"outputs": [nowhere, "stdout"], "output": "stdout", "format": form})
    watched.obs.start()
    logger.info("unmistakable")
    watched.obs.logs.close()
    assert capfd.readouterr().out.count("unmistakable") == 1
    assert watched.value("observability_log_lines_dropped_total", output="file", cause="failed") >= 1
    with pytest.raises(SettingsError, match="nowhere"):
        configure_logging(Settings(logging={"outputs": [nowhere, nowhere + "2"]}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"outputs": ["stdout", "stdout"]}, "name each once"),
        ({"outputs": [""]}, "name each once"),
        ({"output": ""}, "name each once"),
        ({"outputs": ["stdout", "lines"], "output": "stderr"}, "'stderr' is not among outputs"),
        ({"outputs": ["stdout", "stderr"], "rotate_bytes": 4096}, "need a file"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    """The message says what to change."""
    with pytest.raises(SettingsError, match=said):
        Settings(logging=given)


def test_the_environment_names_them_with_commas() -> None:
    """As all lists; one output that is also among several is no contradiction."""
    env = {"SAGE_OBS_LOGGING__OUTPUTS": "stdout, /tmp/lines", "SAGE_OBS_LOGGING__OUTPUT": "stdout"}
    assert Settings.from_env(env).logging.targets == ("stdout", "/tmp/lines")
    assert Settings(logging={"output": "stderr"}).logging.targets == ("stderr",)
