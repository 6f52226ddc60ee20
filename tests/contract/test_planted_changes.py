"""A change of an app's telemetry names the dashboards, alerts and runbooks that it breaks, and a refactoring names none."""

import json
import re
from pathlib import Path
from typing import Any

import forked
import pytest

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.contract.comparison import compare
from sage_fastapi_obs.contract.comparison_text import comparison_json
from sage_fastapi_obs.contract.telemetry_contract import read_contract
from sage_fastapi_obs.contract.use_files import uses_in

SHOP = Path(__file__).parent / "shop"
MAIN = "from sage_fastapi_obs.cli import console; console()"
SOURCE = (SHOP / "shop.py").read_text()
EXIT_OF_A_TASK = """
async def leave():
    sys.exit(0)

async def start():
    leaving = asyncio.create_task(leave())
    await asyncio.sleep(3600)

app.router.on_startup.append(start)
"""
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"


def contract(what: str, folder: Path, *more: str) -> tuple[int, str]:
    """Run the command for the app in a folder; return its exit code and what it says."""
    if not (folder / "shop.py").exists():
        (folder / "shop.py").write_text(SOURCE)
    done = forked.run(MAIN, "contract", what, "shop:app", "--app-dir", str(folder), *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the contract of the app as it is."""
    folder = tmp_path_factory.mktemp("before")
    path = str(folder / "contract.json")
    assert contract("write", folder, "--file", path) == (0, f"{path}\n")
    # What only hosts and other programs offer is no part of it.
    assert "(node_cpu" not in Path(path).read_text().partition('"used_by"')[2]
    return path


def checked(tmp_path: Path, file: str, replaced: dict[str, str]) -> dict[str, Any]:
    """Change the source, and compare."""
    source = SOURCE
    for old, new in replaced.items():
        assert old in source
        source = source.replace(old, new)
    (tmp_path / "shop.py").write_text(source)
    changed = tmp_path / "changed.json"
    assert contract("write", tmp_path, "--file", str(changed))[0] == 0
    found = uses_in([SHOP])
    return comparison_json(compare(read_contract(Path(file)), read_contract(changed), found.uses), found.unread)


def places(said: dict[str, Any], *, breaks: bool) -> set[str]:
    """Return the places of the shop's owners that are affected, with the panel; ours, which have no file, are left out."""
    return {
        f"{one['kind']} {one['name']}" + (f" > {one['part']}" if one["part"] else "")
        for change in said["changes"]
        for one in change["affected"]
        if one["breaks"] is breaks and one["file"]
    }


REDACTED = 'logging={"redact": ["iban"]}'
RULE = '{"name": "NoOrders", "metric": "http_requests_total", "condition": "<", "threshold": 1}'
NO_ORDERS = {"dashboard Orders > annotation Nobody orders", "runbook NoOrders"}
MANY_REFUSED = {"recording rule shop:refused:ratio", "alert ManyRefused", "runbook ManyRefused"}
PLANTED: dict[str, tuple[dict[str, str], set[str], set[str]]] = {
    "a metric has another name": (
        {"orders_placed_total": "orders_accepted_total"},
        {"dashboard Orders > Orders by country", "dashboard Orders > By phone", *MANY_REFUSED},
        set(),
    ),
    "a metric is of another type": (
        {
            ", declare_histogram\n": ", declare_gauge\n",
            "= declare_histogram(": "= declare_gauge(",
            ", buckets=(1, 10, 100, 1000)": "",
        },
        {"dashboard Orders > Cheap orders", "dashboard Orders > Prices", "alert DearOrders"},
        set(),
    ),
    "a label is gone": (
        {', "country": ()}': "}", ', country="KR"': ""},
        {"dashboard Orders > Orders by country", *MANY_REFUSED},
        set(),
    ),
    "a label that only a legend shows has another name": (
        {'"country", "reason"': '"country", "cause"'},
        {"dashboard Refused > Reasons"},
        set(),
    ),
    "a label has one value less": ({'("web", "phone")': '("web",)'}, {"dashboard Orders > By phone"}, set()),
    "buckets are others": (
        {"1, 10, 100, 1000": "1, 20, 100, 400"},
        {"dashboard Orders > Cheap orders", "alert DearOrders"},
        {"dashboard Orders > Prices"},
    ),
    "a field of lines has another name": (
        {REDACTED: 'logging={"redact": ["iban"], "field_aliases": {"duration_ms": "took_ms"}}'},
        {"dashboard Orders > Slow lines"},
        set(),
    ),
    "a rule is gone": ({RULE: ""}, NO_ORDERS, set()),
    "a rule fires at something else": ({'"threshold": 1': '"threshold": 2'}, set(), NO_ORDERS),
    "a route has another path": (
        {'"/carts"': '"/baskets"'},
        {"runbook NoOrders", "dashboard Refused > Documents by kind"},
        set(),
    ),
    "the service has another name": (
        {'"name": "shop"': '"name": "store"'},
        {
            "alert ShopDown",
            "dashboard Orders > Slow lines",
            "dashboard Refused > Documents by kind",
            "runbook ManyRefused",
            *NO_ORDERS,
        },
        set(),
    ),
    "spans are off": (
        {REDACTED: f'{REDACTED}, tracing={{"enabled": False}}'},
        {"dashboard Refused > Documents by kind"},
        set(),
    ),
    "lines are off": (
        {REDACTED: 'logging={"redact": ["iban"], "enabled": False}'},
        {"dashboard Orders > Slow lines", "dashboard Refused > Documents by kind", "runbook ManyRefused"},
        set(),
    ),
    "a pack is off": (
        {REDACTED: f'{REDACTED}, metrics={{"packs": ["runtime"]}}'},
        {"dashboard Orders > Errors of an order", *NO_ORDERS},
        set(),
    ),
    "a secret is shown": ({REDACTED: 'logging={"redact": []}'}, set(), set()),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_change_names_what_it_breaks(planted: str, tmp_path: Path, file: str) -> None:
    """Each place of the owners is named that asks for what has changed, and no other."""
    replaced, broken, changed = PLANTED[planted]
    said = checked(tmp_path, file, replaced)
    assert said["compatible"] is False
    assert places(said, breaks=True) == broken
    assert places(said, breaks=False) - broken == changed
    assert (said["not_understood"], said["not_read"]) == ([], [])


def test_our_own_dashboards_and_runbooks_are_named(tmp_path: Path, file: str) -> None:
    """The contract has the queries of what the package brings: they are named where the settings do not write them any more."""
    said = checked(tmp_path, file, {REDACTED: f'{REDACTED}, metrics={{"packs": ["runtime"]}}'})
    change = next(one for one in said["changes"] if one["subject"] == {"kind": "metric", "name": "http_requests_total"})
    named = {(one["kind"], one["name"]) for one in change["affected"] if not one["file"]}
    assert {("dashboard", "Service"), ("dashboard", "Unified view"), ("alert", "HighErrorRate")} <= named
    # Its query is that of a recording rule over the metric.
    assert {("alert", "ErrorBudgetBurnFast"), ("runbook", "ErrorBudgetBurnFast"), ("runbook", "HighErrorRate")} <= named


def test_a_refactoring_changes_nothing(tmp_path: Path, file: str) -> None:
    """Other names in the code, another order and other texts are no change; something new is one that breaks nothing."""
    replaced = {
        "PLACED": "ACCEPTED",
        "Orders that were placed.": "How many orders there were.",
        '"channel": ("web", "phone"), "country": ()': '"country": (), "channel": ("phone", "web")',
        '["country", "reason"]': '("reason", "country")',
        "def order(": "def find_order(",
        '"threshold": 1}': '"threshold": 1.0}',
    }
    nothing = {"compatible": True, "changes": [], "not_understood": [], "not_read": []}
    assert checked(tmp_path, file, replaced) == nothing
    code, said = contract("check", tmp_path, "--file", file, "--used-by", str(SHOP), "--json")
    assert (code, json.loads(said)) == (0, nothing)
    more = {'"country", "reason"]': '"country", "reason", "city"]', '"/carts")': '"/carts")\n@app.get("/new")'}
    found = checked(tmp_path, file, more)
    assert [one["text"] for one in found["changes"]] == ["label city of orders_refused_total", "route /new"]
    assert found["compatible"] is True


def test_the_text_is_for_people(tmp_path: Path, file: str) -> None:
    """The answer says what has changed, whom it breaks and how, and how it all ends."""
    (tmp_path / "shop.py").write_text(SOURCE.replace('("web", "phone")', '("web",)'))
    code, said = contract("check", tmp_path, "--file", file, "--used-by", str(SHOP / "grafana"))
    assert (code, said.splitlines()) == (
        1,
        [
            "the label channel of orders_placed_total cannot be phone any more",
            f"  breaks dashboard Orders ({SHOP / 'grafana' / 'orders.json'}): asks for phone, and finds nothing",
            "    By phone",
            "",
            "broken: dashboard Orders",
        ],
    )


def test_what_the_start_adds_is_there_with_the_lifespan(tmp_path: Path, file: str) -> None:
    """What is switched on at the start is promised where the start is run; what the app prints is no part of the answer."""
    started = "app = FastAPI(on_startup=[lambda: observability.enable_pack('security')])\nprint('loaded')\n"
    named = SOURCE.replace("app = FastAPI()\n", started).replace(
        "Observability(settings)", "(observability := Observability(settings))"
    )
    (tmp_path / "shop.py").write_text(named)
    without, with_it = (contract("check", tmp_path, "--file", file, *more) for more in ([], ["--lifespan"]))
    assert without == (0, "the contract holds\nloaded\n")
    assert (with_it[0], "new: metric auth_login_failed_total" in with_it[1]) == (0, True)


def test_what_is_wrong_is_said(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing app, contract or folder is an error of its own, which says what to do; nothing is taken as unchanged."""
    (tmp_path / "shop.py").write_text(SOURCE)
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "other.json").write_text(Path(file).read_text().replace('"format": 1', '"format": 99'))
    asked = ["contract", "check", "shop:app", "--file"]
    said = {
        "missing.json": "there is no .*missing.json: write it with `sage-obs contract write`",
        "none.json": r"none.json is no contract \(format: Field required\)",
        "other.json": "has format 99",
    }
    for name, text in said.items():
        assert main([*asked, str(tmp_path / name)]) == 2
        assert re.fullmatch(f"sage-obs contract: .*{text}.*\n", capsys.readouterr().err)
    (tmp_path / "bare.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    for arguments, text in (
        (["write", "bare:app"], "bare:app has no Observability"),
        (["check", "shop:app", "--file", file, "--used-by", str(tmp_path / "missing")], "there is no .*missing: name a file"),
        (["check", "shop:app", "--file", file, "--used-by", str(tmp_path / "bare.py")], "has no dashboard, rule or runbook"),
    ):
        done = forked.run(MAIN, "contract", *arguments, "--app-dir", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(f"sage-obs contract: .*{text}.*\n", done.stderr)
    (tmp_path / "bare.py").write_text(THREAD + SOURCE)
    held = forked.run(MAIN, "contract", "write", "bare:app", "--app-dir", str(tmp_path), "--file", str(tmp_path / "held.json"))
    assert (held.returncode, held.stdout) == (0, f"{tmp_path / 'held.json'}\n")
    for broken, error in (
        (f"app.router.on_startup.append(lambda: sys.exit(0))\n{THREAD}", "SystemExit: 0"),
        (EXIT_OF_A_TASK, "SystemExit: 0"),
        (f"{THREAD}import json\njson.dumps = None", "TypeError: 'NoneType' object is not callable"),
    ):
        (tmp_path / "bare.py").write_text(f"import asyncio, sys\n{SOURCE}\n{broken}\n")
        more = ["--app-dir", str(tmp_path), "--file", str(tmp_path / "broken.json")]
        ended = forked.run(MAIN, "contract", "write", "bare:app", "--lifespan", *more)
        assert (ended.returncode, ended.stdout, (tmp_path / "broken.json").exists()) == (2, "", False)
        said = f"sage-obs contract: looking at the app has raised {error} ("
        assert (ended.stderr.splitlines()[-1].startswith(said), "Traceback" in ended.stderr) == (True, False), ended.stderr
    for module in ("promql_parser", "yaml"):
        more = ["--app-dir", str(tmp_path), "--used-by", str(SHOP)]
        without = forked.run(f"import sys; sys.modules[{module!r}] = None; {MAIN}", *asked, file, *more)
        assert (without.returncode, "pip install 'sage_fastapi_obs[contract]'" in without.stderr) == (2, True)


def test_the_page_shows_what_the_command_says(tmp_path: Path) -> None:
    """The example of the page, in a folder of its own, gives the answer that the page shows."""
    page = (Path(__file__).parents[2] / "docs" / "contract.md").read_text()
    source, rules, shown = (
        re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1] for language in ("python", "yaml", "console")
    )
    (tmp_path / "monitoring").mkdir()
    (tmp_path / "monitoring" / "orders.yml").write_text(rules)
    command, _, expected = shown.partition("\n")
    for text, arguments, answer in (
        (source, ["contract", "write", "shop:app"], (0, "telemetry-contract.json\n")),
        (source.replace(', "country": ()', ""), command.split()[2:], (1, expected)),
    ):
        (tmp_path / "shop.py").write_text(text)
        done = forked.run(f"import os; os.chdir({str(tmp_path)!r}); {MAIN}", *arguments)
        assert (done.returncode, done.stdout + done.stderr) == answer
