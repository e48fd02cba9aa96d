"""The peers' figures as a picture beside docs/performance.md; hatches tell the bars apart in black and white."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.result import Result

_UNIT = "checks per CPU-second"


def peers(results: Sequence[Result], path: Path) -> bool:
    """Draw those that answer calls, the most in flight; returns whether there were any."""
    rows = [one for one in results if one.unit == _UNIT and not math.isnan(one.value)]
    if not rows:
        return False
    suffix = rows[-1].name.rpartition(", ")[2]  # "80 in flight"
    bars = {one.name.removesuffix(f", {suffix}"): one.value for one in rows if one.name.endswith(suffix)}
    last = next(one for one in rows if one.name.endswith(suffix))
    bars[last.floor] = last.floor_value
    ordered = sorted(bars.items(), key=lambda each: each[1])
    figure = Figure(figsize=(8, 0.6 + 0.4 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.barh(
        [name for name, _ in ordered], [value for _, value in ordered], color="#d9d9d9", edgecolor="black"
    )
    for bar, (name, _) in zip(drawn, ordered, strict=True):
        bar.set_hatch("///" if "Cerbos" in name or "echo" in name else "")
    axes.bar_label(drawn, [f"{value:,.0f}" for _, value in ordered], padding=3)
    axes.set_xlabel(f"{_UNIT} of the server, {suffix}; hatched: not ours")
    axes.margins(x=0.15)
    with mpl.rc_context({"svg.hashsalt": "xianxiao"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return True
