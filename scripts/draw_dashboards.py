"""Draw dashboards as pictures for the documents, from what a running Prometheus answers to the queries of their panels.

They are no screenshots of Grafana: same queries, same order, drawn by the few lines below.
"""

import argparse
import html
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORDS = {"$__rate_interval": "1m", "$__range": "5m", "$job": ".*", "$service": ".*", "$instance": ".*"}
COLORS = ("#3274d9", "#37872d", "#e0752d", "#c4162a", "#8f3bb8", "#0f7d8a", "#b5850b", "#6b7280")
SCALES = {"s": (1000, " ms"), "percentunit": (100, " %"), "bytes": (1 / 1_048_576, " MiB")}
CELL, WIDTH, MOST_SERIES = 28, 1200, 8
UNIT_X = WIDTH / 24

Series = list[tuple[str, list[tuple[float, float]]]]


def main() -> None:
    """Draw some dashboards of grafana/dashboards."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("boards", nargs="+")
    arguments.add_argument("--prometheus", required=True, metavar="URL")
    arguments.add_argument("--minutes", type=float, default=5)
    arguments.add_argument("--out", type=Path, default=ROOT / "docs/pictures")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for name in given.boards:
        board = json.loads((ROOT / f"grafana/dashboards/{name}.json").read_text())
        target = given.out / f"{name}.svg"
        target.write_text(drawn(board, given.prometheus, end - given.minutes * 60, end))
        print(target)


def drawn(board: dict[str, Any], url: str, start: float, end: float) -> str:
    """Return a dashboard's panels of numbers, without folded rows, logs and traces."""
    kinds = {"timeseries": _lines, "stat": _number}
    parts, bottom = [_text(8, 24, board["title"], 18, "bold")], 0
    for panel in board["panels"]:
        at = panel["gridPos"]
        x, y, width, height = at["x"] * UNIT_X, 40 + at["y"] * CELL, at["w"] * UNIT_X, at["h"] * CELL
        if panel["type"] == "row":
            if not panel.get("panels"):
                parts.append(_text(8, y + 20, panel["title"], 14, "bold"))
                bottom = max(bottom, y + CELL)
            continue
        if panel["type"] not in kinds or not _is_prometheus(panel):
            continue
        series = [each for target in panel["targets"] for each in _asked(url, target, start, end)]
        parts.append(
            f'<g transform="translate({x + 3:.0f} {y + 3:.0f})">'
            f'<rect width="{width - 6:.0f}" height="{height - 6:.0f}" fill="#fff" stroke="#d5d9e0" rx="3"/>'
            + _text(8, 17, panel["title"], 12, "bold")
            + kinds[panel["type"]](panel, series, width - 6, height - 6)
            + "</g>"
        )
        bottom = max(bottom, y + height)
    size = f'width="{WIDTH}" height="{bottom + 10}" viewBox="0 0 {WIDTH} {bottom + 10}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    return "\n".join([opening, f'<rect width="{WIDTH}" height="{bottom + 10}" fill="#f4f5f7"/>', *parts, "</svg>"]) + "\n"


def _lines(panel: dict[str, Any], series: Series, width: float, height: float) -> str:
    shown = sorted(series, key=lambda each: -max((value for _, value in each[1]), default=0))[:MOST_SERIES]
    points = [point for _, line in shown for point in line]
    if not points:
        return _text(8, 40, "no data", 11)
    scale, unit = _scale(panel)
    legend = 14 * min(len(shown), 4) + 6
    left, top, right, bottom = 62, 28, width - 10, height - legend - 8
    first, last = min(time for time, _ in points), max(time for time, _ in points)
    most = max(*(value for _, value in points), 1e-12)
    place = lambda at, value: (  # noqa: E731 - two numbers in, two out
        left + (right - left) * (at - first) / max(last - first, 1),
        bottom - (bottom - top) * value / most,
    )
    drawing = [
        f'<line x1="{left}" x2="{right:.0f}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e5e7eb"/>'
        + _text(left - 6, y + 4, f"{_short(most * share * scale)}{unit}", 10, anchor="end")
        for share in (0, 0.5, 1)
        for y in [bottom - (bottom - top) * share]
    ]
    for number, (name, line) in enumerate(shown):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(at, value) for at, value in line))
        color = COLORS[number]
        drawing.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.3"/>')
        column, row = divmod(number, 4)
        x, y = 10 + column * (width - 10) / 2, bottom + 20 + row * 14
        drawing.append(f'<rect x="{x:.0f}" y="{y - 8:.0f}" width="8" height="8" fill="{color}"/>')
        drawing.append(_text(x + 13, y, name[: int(width / 14)], 10))
    return "".join(drawing)


def _number(panel: dict[str, Any], series: Series, width: float, height: float) -> str:
    values = [line[-1][1] for _, line in series if line]
    if not values:
        return _text(8, 40, "no data", 11)
    scale, unit = _scale(panel)
    color = "#111827"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or values[0] >= step["value"]:
            color = {"green": "#37872d", "orange": "#c2610c", "red": "#c4162a"}[step["color"]]
    return _text(width / 2, height / 2 + 16, f"{_short(values[0] * scale)}{unit}", 26, "bold", "middle", color)


def _asked(url: str, target: dict[str, Any], start: float, end: float) -> Series:
    expression = target["expr"]
    for word, value in WORDS.items():
        expression = expression.replace(word, value)
    query = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": max((end - start) / 150, 1)})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}", timeout=60) as answer:  # noqa: S310 - as given
        found = json.load(answer)["data"]["result"]
    return [(_named(target, each["metric"]), list(_finite(each["values"]))) for each in found]


def _finite(values: Iterable[tuple[float, str]]) -> Iterable[tuple[float, float]]:
    return ((at, float(value)) for at, value in values if math.isfinite(float(value)))


def _named(target: dict[str, Any], labels: dict[str, str]) -> str:
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"])
    return html.escape(" ".join(name.split()))


def _scale(panel: dict[str, Any]) -> tuple[float, str]:
    return SCALES.get(panel["fieldConfig"]["defaults"]["unit"], (1, ""))


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _is_prometheus(panel: dict[str, Any]) -> bool:
    return bool(panel["targets"][0]["datasource"]["type"] == "prometheus")


def _text(
    x: float, y: float, text: str, size: int, weight: str = "normal", anchor: str = "start", color: str = "#374151"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{text}</text>'


if __name__ == "__main__":
    main()
