"""Whether a student's confidence can be believed, and which classes it takes for which."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyllm import stats
from tinyllm.figures.style import (
    COLUMN,
    GREY,
    HALO,
    PAGE,
    STYLE,
    arm_name,
    bars,
    caption,
    color,
    dataset_name,
    grid,
    in_order,
    span,
)


def calibration_bins(predictions: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `calibration`: `stats.reliability` with each arm's ece, ece_low, ece_high,
    n_all (questions of all bins), seeds."""
    error = stats.ece(predictions)[[*stats.GROUP, "n", "seeds", "ece", "low", "high"]]
    error = error.rename(columns={"n": "n_all", "low": "ece_low", "high": "ece_high"})
    return (
        stats.reliability(predictions)
        .drop(columns="seeds")
        .merge(error, on=stats.GROUP, how="left")
    )


def calibration(bins: pd.DataFrame) -> Figure:
    """Reliability: accuracy against stated confidence, a panel a study, dataset, student and arm.

    bins: of `calibration_bins`. On the diagonal confidence is right; below it, too high. The grey
    bars show how many answers are in each bin.
    """
    panels = _panels(bins)
    with mpl.rc_context(STYLE):
        figure, axes = grid(
            len(panels), 3, PAGE if len(panels) > 1 else COLUMN, 2.0, sharex=True, sharey=True
        )
        for axis, (title, part) in zip(axes, panels, strict=True):
            x, y, low, high = (100 * part[c] for c in ("confidence", "accuracy", "low", "high"))
            share = part["rows"] / part["rows"].sum()
            width = 100 * (part["right"] - part["left"]).iloc[0]
            axis.bar(
                *(100 * part["left"], 25 * share / share.max() + 3),
                bottom=-3,
                width=width,
                align="edge",
                color="#EEEEEE",
                edgecolor="white",
                zorder=-1,
            )
            axis.plot([0, 100], [0, 100], color=GREY, linestyle=":", linewidth=0.9, zorder=0)
            tint = color(part["arm"].iloc[0])
            axis.plot(x, y, color=tint, lw=0.8, alpha=0.7)
            bars(axis, x, y, low, high, across=False, color=tint, ms=3.5, lw=0)
            line = part.iloc[0]
            error, left, right = (100 * line[c] for c in ("ece", "ece_low", "ece_high"))
            text = f"ECE {error:.1f} [{left:.1f}, {right:.1f}]"
            axis.text(3, 97, text, va="top", fontsize=7, path_effects=HALO)
            axis.set_xlim(0, 100)
            axis.set_ylim(-3, 103)
            axis.set_xticks([0, 25, 50, 75, 100])
            axis.set_yticks([0, 25, 50, 75, 100])
            axis.set_title(title)
        _outer_labels(axes, 3, "confidence, %", "accuracy, %")
        n = span(bins["n_all"], "test question", "test questions")
        seeds = span(bins["seeds"], "seed", "seeds")
        caption(
            figure,
            f"Accuracy in ten bins of the student's confidence in its choice (softmax over the "
            f"options' scores), student {', '.join(dict.fromkeys(bins['student']))}. n = {n}; "
            f"{seeds}. Bars: Wilson's 95% interval over the questions of a bin; ECE: expected "
            "calibration error in points with its 95% interval (bootstrap over questions). Grey: "
            "share of the answers in each bin, the fullest a quarter high.",
        )
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """Which option was chosen for which gold one, a panel a study, dataset, student and arm.

    table: of `stats.confusion`. Cells: percent of the questions with that gold answer, with
    Wilson's 95% interval below; darker is more. Rows sum to 100.
    """
    if table.empty:
        raise ValueError("no dataset has the same options in every question, so no classes either")
    from seaborn import heatmap  # slow to import, and needed for few datasets

    panels = _panels(table)
    size = table["gold"].nunique()
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(panels), 3, PAGE if len(panels) > 1 else COLUMN, 0.6 + 0.45 * size)
        for axis, (title, part) in zip(axes, panels, strict=True):
            classes = list(dict.fromkeys(part["gold"]))
            cells = part.assign(words=[_cell(line) for line in part.itertuples()])
            share, words = (
                cells.pivot(index="gold", columns="choice", values=name).loc[classes, classes]
                for name in ("share", "words")
            )
            look = {"cmap": "Blues", "vmin": 0, "vmax": 1.15, "cbar": False}
            heatmap(share, ax=axis, annot=words, fmt="", annot_kws={"size": 7}, **look)
            n = part.drop_duplicates("gold").set_index("gold")["n"]
            axis.set_yticklabels([f"{name}\nn = {n[name]}" for name in classes], rotation=0)
            axis.set(xlabel="", ylabel="", title=title)
            axis.tick_params(length=0)
        _outer_labels(axes, 3, "chosen", "gold")
        seeds = span(table["seeds"], "seed", "seeds")
        questions = table.drop_duplicates([*stats.GROUP, "gold"]).groupby(stats.GROUP)["n"].sum()
        caption(
            figure,
            "Chosen option by gold option, percent of the questions with that gold option and "
            f"Wilson's 95% interval over them, student {', '.join(dict.fromkeys(table['student']))}"
            f". n = {span(questions, 'test question', 'test questions')}; mean of {seeds}.",
        )
    return figure


def _cell(line: tuple) -> str:
    """A share in percent, its interval below."""
    if np.isnan(line.share):
        return ""
    return f"{100 * line.share:.0f}\n[{100 * line.low:.0f}, {100 * line.high:.0f}]"


def _panels(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A title and the rows of each study, dataset, student and arm, arms in order."""
    keys = ["study", "dataset", "student"]
    groups = list(frame.groupby(keys, sort=False))
    found = []
    for (_, dataset, _), rows in groups:
        for arm in in_order(rows["arm"]):
            title = arm_name(arm) if len(groups) == 1 else f"{dataset_name(dataset)}, {arm}"
            found.append((title, rows[rows["arm"] == arm]))
    return found


def _outer_labels(axes: list[Axes], columns: int, below: str, left: str) -> None:
    """Labels of the axes at the outer panels only."""
    columns = min(columns, len(axes))
    for axis in axes[::columns]:
        axis.set_ylabel(left)
    for axis in axes[-columns:]:
        axis.set_xlabel(below)
        axis.tick_params(labelbottom=True)
