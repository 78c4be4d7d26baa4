"""Accuracy against what a study varies: alpha, training questions, teachers, size, computing.

One function draws them all from one tidy frame: what differs is the column along x.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from tinyllm.figures.style import (
    COLUMN,
    GREY,
    HALO,
    PAGE,
    SHORT,
    STYLE,
    arm_name,
    bars,
    beside,
    caption,
    color,
    counted,
    dataset_name,
    grid,
    in_order,
    spread,
    text_height,
)

AXES = {  # column: label of the axis, and whether it is logarithmic
    "alpha": ("alpha, weight of a teacher's loss", True),
    "train_questions": ("training questions", True),
    "teachers": ("teachers", False),
    "parameters": ("parameters of the student", True),
    "train_flops": ("training FLOPs", True),
}
INCHES = 1.75  # height of a panel


def accuracy_against(points: pd.DataFrame, x: str, note: str = "") -> Figure:
    """Accuracy against `x` (a key of AXES), a panel a dataset, a line an arm.

    points: a row a point, of `series.along` or `paper.sizes`: dataset, student, arm, the column
        x, n, seeds, estimate, low, high, chance, majority; curve, the name of a row's line, where
        that is not its arm. Rows without x are references (an arm that x does not touch) and, like
        teachers (arm `teacher:NAME`), become level lines with their interval as a band. A line
        joins the means of the points at each x.
    note: a last sentence for the caption.
    """
    if x not in AXES:
        raise ValueError(f"x: {x!r}: allowed are {', '.join(AXES)}")
    level = points["arm"].str.startswith("teacher:") | points[x].isna()
    points = points if "curve" in points else points.assign(curve=points["arm"])
    curves, levels = points[~level], points[level]
    if curves.empty:
        raise ValueError(f"column {x!r}: there is no value of it, so there is no curve to draw")
    panels = _panels(curves, x)
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(panels), 2, COLUMN if len(panels) == 1 else PAGE, INCHES + 0.3)
        for axis, (dataset, student, title) in zip(axes, panels, strict=True):
            here, beyond = (
                rows[(rows["dataset"] == dataset) & (rows["student"].eq(student) | (not student))]
                for rows in (curves, levels)
            )
            ends = _draw_baselines(axis, here.iloc[0])
            ends += _draw_levels(axis, beyond) + _draw_curves(axis, here, x)
            _scale(axis, here, x)
            least = text_height(axis, INCHES - 0.2)
            places = spread([y for _, y, _ in ends], least, *axis.get_ylim())
            for (name, _, tint), place in zip(ends, places, strict=True):
                beside(axis, name, place, color=tint, path_effects=HALO)
            axis.set_title(title)
        for axis in axes[::2]:
            axis.set_ylabel("accuracy, %")
        for axis in axes[-2:]:  # the lowest of each column
            axis.set_xlabel(AXES[x][0])
        students = ", ".join(dict.fromkeys(curves["student"]))
        several = curves["seeds"].max() > 1
        words = f"Points: {'mean over seeds' if several else 'one run each'}, student {students}"
        theirs = levels["arm"].str.startswith("teacher:").all()
        level = "teachers" if theirs else "arms that x does not touch"
        several_at_one = curves.duplicated(["dataset", "student", "curve", x]).any()
        trained = points[~points["arm"].str.startswith("teacher:")]
        caption(
            figure,
            f"{words}; {counted(trained)}. Bars and bands: Wilson's 95% interval over questions."
            + " A line joins means." * bool(several_at_one)
            + f" Level lines: {level}." * bool(len(levels))
            + f" Dotted: chance, dashed: majority. {note}".rstrip(),
        )
    return figure


def _panels(curves: pd.DataFrame, x: str) -> list[tuple[str, str, str]]:
    """Dataset, student (empty: all of them in one panel) and title of each panel."""
    sized = x in ("parameters", "train_flops")
    keys = ["dataset"] if sized else ["dataset", "student"]
    n = curves.groupby(keys, sort=False)["n"].max()
    many = not sized and curves["student"].nunique() > 1
    panels = []
    for key, questions in n.items():
        dataset, student = (key, "") if sized else key
        name = "mean of datasets" if dataset == "mean" else dataset_name(dataset)
        name += f", {student}" if many else ""
        panels.append((dataset, student, f"{name}, n = {questions}"))
    return panels


def _draw_baselines(axis: Axes, row: pd.Series) -> list[tuple[str, float, str]]:
    """Chance and majority as lines; gives (name, height, colour) of their labels."""
    ends = []
    for name, dash in (("chance", ":"), ("majority", "--")):
        axis.axhline(100 * row[name], color=GREY, linestyle=dash, linewidth=0.9, zorder=0)
        ends.append((name, 100 * row[name], GREY))
    return ends


def _draw_levels(axis: Axes, rows: pd.DataFrame) -> list[tuple[str, float, str]]:
    """Arms that x does not touch, and teachers, as lines with their intervals as bands."""
    ends = []
    for line in rows.drop_duplicates("arm").itertuples():
        tint = color(line.arm)
        axis.axhspan(100 * line.low, 100 * line.high, color=tint, alpha=0.1, lw=0, zorder=-1)
        axis.axhline(100 * line.estimate, color=tint, linewidth=0.9, linestyle="-.")
        ends.append((arm_name(line.arm), 100 * line.estimate, tint))
    return ends


def _draw_curves(axis: Axes, rows: pd.DataFrame, x: str) -> list[tuple[str, float, str]]:
    """A line a curve, through the means of its points at each x; gives its label, as above.

    Arms at one x stand a little beside each other, so that no interval hides another. Where several
    arms share a curve (column `curve`), each has its own label.
    """
    ends = []
    for name in in_order(rows["curve"]):
        part = rows[rows["curve"] == name].sort_values(x, kind="stable")
        mean = part.groupby(x)["estimate"].mean()
        axis.plot(mean.index, 100 * mean, color=color(name), lw=1, alpha=0.7)
        shared = part["arm"].nunique() > 1
        for arm, mine in part.groupby("arm", sort=False):
            y, low, high = (100 * mine[c] for c in ("estimate", "low", "high"))
            peers = in_order(rows.loc[rows[x].isin(mine[x]), "arm"])
            aside = (peers.index(arm) - (len(peers) - 1) / 2) * (2 if shared else 1)
            places = _aside(mine[x], aside, rows[x], x)
            bars(axis, places, y, low, high, across=False, color=color(arm), ms=3.5, lw=0)
            if shared and arm != name:
                ends.append((arm, y.iloc[-1], color(arm)))
        ends.append((SHORT.get(name, name), 100 * mean.iloc[-1], color(name)))
    return ends


def _aside(values: pd.Series, steps: float, every: pd.Series, x: str) -> pd.Series:
    """The x of points that are moved aside by some hundredths of the axis, to either side."""
    low, high = every.min(), every.max()
    if AXES[x][1] and low > 0:
        return values * (high / low) ** (0.012 * steps)
    return values + 0.012 * steps * (high - low)


def _scale(axis: Axes, rows: pd.DataFrame, x: str) -> None:
    """The x axis: a tick at every value that was measured, if there is room."""
    values = np.unique(rows[x].astype(float))
    if AXES[x][1] and values.min() > 0:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        ratio = (values.max() / values.min()) ** 0.08
        axis.set_xlim(values.min() / max(ratio, 1.05), values.max() * max(ratio, 1.05))
        place = np.log(values)
    else:
        room = 0.08 * max(np.ptp(values), 1)
        axis.set_xlim(values.min() - room, values.max() + room)
        place = values
    kept = [0]  # no two ticks nearer than a ninth of the axis
    for index in range(1, len(values)):
        if place[index] - place[kept[-1]] >= np.ptp(place) / 9:
            kept.append(index)
    axis.set_xticks(values[kept])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float) -> str:
    """A number as short as can be: `80M`, `12k`, `4957`, `0.01`, `3.4e15`."""
    if value < 1e4:
        return f"{value:.4g}"
    if value >= 1e12:
        return f"{value:.1e}".replace("e+", "e")
    size, unit = next(pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= pair[0])
    return f"{value / size:.3g}{unit}"
