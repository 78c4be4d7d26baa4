"""Plots that several notebooks share: functions of tables that give a figure.

Estimates are drawn as a point with its 95% interval over questions and seeds, seeds as small dots.
Units are percentage points. `style.save` writes a figure with its numbers and its caption.
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tinyllm.evaluation.paired import MARGIN
from tinyllm.figures import style
from tinyllm.figures.style import GREY, INK, PAGE, PALE, Drawing


def interval(axis: Axes, x, y, low, high, across: bool = False, **look) -> None:
    """Points with intervals, along x where `across`; `look` is for Axes.errorbar."""
    middle = np.asarray(x if across else y, dtype=float)
    ends = np.clip([middle - low, high - middle], 0, None).reshape(2, -1)
    look = {"linestyle": "none", "elinewidth": 1.3, "capsize": 0, **look}
    axis.errorbar(x, y, **{"xerr" if across else "yerr": ends}, **look)


def estimates(axis: Axes, table: pd.DataFrame, value: str, arms: list[str], best=None) -> None:
    """One row per arm from the top: its estimate with interval, and its seeds as dots below.

    table: one row per arm: arm, `value`, low, high, by_seed, as fractions of 1. Where it has a
        `verdict`, only points that are better or worse are filled. best: see `style.look`.
    """
    for line in table.to_dict("records"):
        row = len(arms) - 1 - arms.index(line["arm"])
        look = style.look(line["arm"], best) | {"linestyle": "none"}
        if line.get("verdict", "better") not in ("better", "worse"):
            look["mfc"] = "white"
        x, low, high = (100 * line[name] for name in (value, "low", "high"))
        interval(axis, x, row, low, high, across=True, **look)
        seeds = 100 * np.asarray(line["by_seed"], dtype=float)
        axis.plot(seeds, [row - 0.3] * len(seeds), ".", color=GREY, ms=2.5)
    axis.set_ylim(-0.6, len(arms) - 0.4)
    axis.set_yticks(range(len(arms)), [style.arm_name(arm) for arm in arms[::-1]])
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def sample(part: pd.DataFrame) -> str:
    """Questions and seeds of a panel, as its title gives them: `n = 500, 3 seeds`."""
    low, high = part["seeds"].min(), part["seeds"].max()
    seeds = f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''}"
    return f"n = {part['n'].max()}, {seeds}"


def differences(table: pd.DataFrame, title: str, best: str | None = None) -> Drawing:
    """Differences of arms from fine-tuning: one panel per dataset, one row per arm.

    table: of `paired.compare`, one student. Filled points are better or worse (`verdict`), hollow
        ones are not. Grey band: the margin of equivalence.
    best: see `style.look`.
    """
    datasets, arms = style.datasets_in_order(table["dataset"]), style.in_order(table["arm"])
    count, height = len(datasets), 1 + 0.19 * len(arms)
    figure, axes = style.grid(count, count, PAGE, height, sharex=True, sharey=True)
    for axis, dataset in zip(axes, datasets, strict=True):
        part = table[table["dataset"] == dataset]
        estimates(axis, part, "difference", arms, best)
        axis.axvspan(-100 * MARGIN, 100 * MARGIN, color=PALE, linewidth=0, zorder=-1)
        axis.axvline(0, color=INK, linewidth=0.8, zorder=0)
        name = style.dataset_name(dataset)
        name += f" of {part['datasets'].max()}" if dataset == "mean" else ""
        text = sample(part) if PAGE / count > 1 else sample(part).replace(", ", "\n")
        axis.set_title(f"{name}\n{text}")
    figure.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT + 1)
    figure.supxlabel("accuracy minus fine-tuning, points", fontsize=style.TEXT)
    return figure


def learning_curves(history: pd.DataFrame) -> Drawing:
    """Accuracy on valid against steps: one panel per trained arm.

    history: of `results.collect`. Thin: seeds; thick: their mean; pale: fine-tuning's mean.
    """
    rows = history[history["metric"] == "accuracy"]
    rows = rows[rows.groupby("arm")["step"].transform("nunique") > 1]  # trained arms
    rows = rows.assign(value=100 * rows["value"])
    means = rows.groupby(["arm", "step"])["value"].mean()
    arms = style.in_order(rows["arm"])
    figure, axes = style.grid(len(arms), 4, PAGE, 1.15, sharex=True, sharey=True)
    for axis, arm in zip(axes, arms, strict=True):
        look = style.look(arm) | {"marker": "", "linestyle": "-"}
        if arm != "finetune" and "finetune" in arms:
            axis.plot(means["finetune"], color=PALE, linewidth=3, solid_capstyle="round")
        for _, seed in rows[rows["arm"] == arm].groupby("seed"):
            axis.plot(seed["step"], seed["value"], **look, lw=0.4, alpha=0.6)
        axis.plot(means[arm], **look, lw=1.4)
        axis.set_title(textwrap.fill(style.arm_name(arm), 22), fontsize=style.SMALL)
        axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("optimiser step", fontsize=style.TEXT)
    figure.supylabel("accuracy on valid, %", fontsize=style.TEXT)
    return figure
