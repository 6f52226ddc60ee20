"""`sage-obs export`: files for other systems, written from the settings of services."""

import subprocess
import sys
from pathlib import Path

import pytest

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.export.exporters import EXPORTERS

ROOT = Path(__file__).parents[2]
SERVICES = ("sage-backend", "ai-textbook-core", "customer-id", "rfs-demo")
SETTINGS = [f"--settings={ROOT}/deploy/services/{name}.yaml" for name in SERVICES]


def written(folder: Path) -> dict[str, str]:
    """Read all files below a folder."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_files_of_the_repository_are_what_is_exported(tmp_path: Path):
    """Whoever changes rules, settings or exporters, runs `make export`; no file is changed or left over."""
    assert main(["export", "all", f"--out={tmp_path}", *SETTINGS]) == 0
    exported = written(tmp_path)
    assert [path for path, text in exported.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text] == []
    by_us = {str(path.relative_to(ROOT)) for folder in ("rules", "tests") for path in (ROOT / "prometheus" / folder).iterdir()}
    assert by_us <= set(exported)


def test_the_makefile_exports_for_the_same_services():
    """`make export` and this test name the same settings, in the same order."""
    assert f"SERVICES := {' '.join(SERVICES)}\n" in (ROOT / "Makefile").read_text()
    assert {path.stem for path in (ROOT / "deploy/services").iterdir()} == set(SERVICES)


@pytest.mark.parametrize("what", EXPORTERS)
def test_each_part_can_be_had_alone(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Only the files of one system are written, and named; the environment is that of another process, and not asked."""
    monkeypatch.setenv("SAGE_OBS_SERVICE__NAME", "another")
    assert main(["export", what, f"--out={tmp_path}", SETTINGS[0]]) == 0
    files = written(tmp_path)
    assert files
    assert "another" not in "".join(files.values())
    assert sorted(capsys.readouterr().out.split()) == sorted(str(tmp_path / path) for path in files)


def test_without_files_the_environment_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Settings are read as a service would read them."""
    monkeypatch.setenv("SERVICE_NAME", "shop")
    monkeypatch.setenv("SAGE_OBS_METRICS__PACKS", "http")
    monkeypatch.setenv("SAGE_OBS_EXPORT__TARGETS", "one:8000,two:8000")
    assert main(["export", "prometheus", f"--out={tmp_path}"]) == 0
    config = (tmp_path / "prometheus/prometheus.yml").read_text()
    assert "job_name: shop" in config
    assert "- one:8000\n" in config
    assert not (tmp_path / "prometheus/rules/sage-critical.yml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--settings=missing.yaml"], "cannot read the settings file missing.yaml"),
        ([SETTINGS[0], SETTINGS[0]], "two services are called 'sage-backend'"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Settings that cannot be used end in one line, and nothing is written."""
    assert main(["export", "all", f"--out={tmp_path / 'out'}", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """So does a folder that is a file."""
    (tmp_path / "out").write_text("")
    assert main(["export", "all", f"--out={tmp_path / 'out'}", SETTINGS[0]]) == 1
    assert "sage-obs export: " in capsys.readouterr().err


def test_without_pyyaml_it_says_what_to_install(tmp_path: Path):
    """The extra is named."""
    code = "import sys; sys.modules['yaml'] = None\nfrom sage_fastapi_obs.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", "prometheus", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "exporting needs PyYAML: pip install 'sage_fastapi_obs[yaml]'" in done.stderr
