"""The chart: what each variant adds to a request, as an SVG that needs no library and is readable on light and dark pages."""

from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.variants import VARIANTS

__all__ = ["chart"]

LEFT_OUT = ("bare", "pass-through")
LABELS, BARS, FIGURES, ROW, TOP = 310, 360, 150, 24, 58
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 }
  .note { fill: #59636e }
  .ours { fill: #0969da }
  .peer { fill: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .ours { fill: #4493f8 }
    .peer { fill: #656c76 }
  }
"""


def chart(cost: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the bars, shortest first, each with its time and its ratio to all four of ours."""
    shown = sorted(((name, one["added_us"]) for name, one in cost.items() if name not in LEFT_OUT), key=lambda item: item[1])
    ours, longest = cost["ours-100"]["added_us"], shown[-1][1]
    rows = "".join(_row(number, name, us, us / longest, us / ours) for number, (name, us) in enumerate(shown))
    width, height = LABELS + BARS + FIGURES, TOP + ROW * len(shown) + 10
    title = "CPU time that a request gains"
    note = "µs, and times all four signals of ours at 100 %; shorter is better"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{title}">\n<style>{STYLE}</style>\n'
        f'<text x="12" y="24" class="title">{title}</text>\n<text x="12" y="44" class="note">{note}</text>\n{rows}</svg>\n'
    )


def _row(number: int, name: str, us: float, share: float, ratio: float) -> str:
    y, length = TOP + ROW * number, max(1.0, share * BARS)
    kind = "ours" if name.startswith("ours") else "peer"
    return (
        f'<text x="{LABELS - 10}" y="{y + 15}" text-anchor="end">{escape(VARIANTS[name].label, quote=False)}</text>'
        f'<rect x="{LABELS}" y="{y + 3}" width="{length:.1f}" height="{ROW - 7}" rx="2" class="{kind}"/>'
        f'<text x="{LABELS + length + 8:.1f}" y="{y + 15}">{us:.0f} µs · {ratio:.2g}×</text>\n'
    )
