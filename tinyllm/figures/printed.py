"""Figures of the published numbers, alone and beside this study's."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tinyllm import paper
from tinyllm.figures.style import (
    COLUMN,
    GREY,
    HALO,
    INK,
    METRICS,
    PAGE,
    PALE,
    SHORT,
    STYLE,
    bars,
    beside,
    caption,
    color,
    counted,
    dataset_name,
    grid,
    in_order,
    spread,
)


def published_table(table: pd.DataFrame) -> Figure:
    """Table 1 of v1 as dots: accuracy by the model's size, a panel a dataset.

    table: of `paper.table1`. Bars are Wilson's intervals from the release's test sizes.
    """
    facts = paper.datasets().set_index("dataset")
    sizes = [*paper.SIZES, *paper.TEACHERS]
    height = 1.8
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(facts), 2, PAGE, height, sharey=True, sharex=True)
        for axis, (dataset, fact) in zip(axes, facts.iterrows(), strict=True):
            part = table[table["dataset"] == dataset]
            axis.set_ylim(5, 100)
            axis.set_xlim(-1.75, len(sizes) - 0.6)
            for value, dash in ((fact["chance"], ":"), (fact["majority"], "--")):
                axis.axhline(100 * value, color=GREY, linestyle=dash, linewidth=0.9, zorder=0)
            lines = spread([100 * fact["chance"], 100 * fact["majority"]], 7.5)
            for name, place in zip(("chance", "majority"), lines, strict=True):
                beside(axis, name, place, color=GREY)
            starts = []
            for index, method in enumerate(paper.METHODS):
                mine = part[part["method"] == method].set_index("size").loc[list(paper.SIZES)]
                x = np.arange(len(paper.SIZES)) + 0.09 * (index - 1.5)
                y, low, high = (100 * mine[name] for name in ("accuracy", "low", "high"))
                axis.plot(x, y, color=color(method), lw=0.7, alpha=0.6)
                bars(axis, x, y, low, high, across=False, color=color(method), ms=3.5, lw=0)
                starts.append(y.iloc[0])
            for method, place in zip(paper.METHODS, spread(starts, 7.5), strict=True):
                text = SHORT.get(method, method)
                axis.text(
                    -0.28,
                    place,
                    text,
                    ha="right",
                    va="center",
                    color=color(method),
                    size=7,
                    path_effects=HALO,
                )
            for size, teacher in paper.TEACHERS.items():
                line = part[part["method"] == teacher].iloc[0]
                y, low, high = (100 * line[name] for name in ("accuracy", "low", "high"))
                spot = sizes.index(size)
                bars(axis, [spot], [y], [low], [high], across=False, color=INK, fmt="D", ms=3.5)
            axis.set_title(f"{fact['name']}, n = {fact['test']}")
            labels = [*paper.SIZES, "3B\nFLAN-T5", "7B\nLLaMA 2"]
            axis.set_xticks(range(len(sizes)), labels)
            axis.tick_params(axis="x", length=0)
        for axis in axes[::2]:
            axis.set_ylabel("accuracy, %")
        caption(
            figure,
            "Table 1 of TinyLLM v1 as published: FLAN-T5 students of three sizes and their "
            "teachers (diamonds). One run a cell, so no spread between seeds is known; bars: "
            "Wilson's 95% interval over the n test questions. Dotted: chance, dashed: always the "
            "commonest label. Inference falls below chance because free text had to match an "
            "option exactly.",
        )
    return figure


def published_gains(gains: pd.DataFrame) -> Figure:
    """Published gain of TinyLLM over full fine-tuning against binomial noise, a panel a size.

    gains: of `paper.gains`.
    """
    facts = paper.datasets().set_index("dataset")
    order = list(facts.index)[::-1]
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(paper.SIZES), 3, PAGE, 2.0, sharey=True, sharex=True)
        for axis, size in zip(axes, paper.SIZES, strict=True):
            part = gains[gains["size"] == size]
            for line in part.itertuples():
                row = order.index(line.dataset)
                noise = 100 * line.noise
                axis.barh(row, 2 * noise, left=-noise, height=0.72, color=PALE, zorder=0)
                x, low, high = (100 * v for v in (line.gain, line.gain_low, line.gain_high))
                fill = color("tinyllm") if line.significant else "white"
                bars(axis, [x], [row], [low], [high], color=color("tinyllm"), mfc=fill)
                weight = "bold" if line.significant else "normal"
                beside(axis, f"z = {line.z:.2f}", row, 1.0, ha="right", weight=weight)
            axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_yticks(range(len(order)), [f"{facts['name'][d]}" for d in order])
            axis.tick_params(axis="y", length=0)
            axis.set_xlim(-11, 28)
            axis.set_title(f"{size}: {part['significant'].sum()} of {len(part)} beyond noise")
            axis.set_xlabel("gain, points")
        tests = ", ".join(f"{fact['name']} {fact['test']}" for _, fact in facts.iterrows())
        corrected = int(gains["significant_holm"].sum())
        caption(
            figure,
            "Gain of TinyLLM over full fine-tuning as published (v1, Table 1; one run a cell). "
            "Bars: 95% interval of the difference over test questions, unpaired; grey: where 95% "
            f"of gains would fall without any true one. Filled, bold: |z| above 1.96; {corrected} "
            f"of the {len(gains)} remain after Holm's correction over all. The spread between "
            f"training runs is not known; it would widen every bar. n: {tests}.",
        )
    return figure


def published_and_measured(comparison: pd.DataFrame) -> Figure:
    """What the paper printed (hollow) beside what this study measured (filled), a panel a dataset.

    comparison: of `paper.compare`.
    """
    if comparison.empty:
        raise ValueError("nothing is measured of the paper's datasets and methods")
    panels = [name for name in paper.DATASETS if (comparison["dataset"] == name).any()]
    most = comparison.groupby("dataset").size().max()
    students = comparison["student"].nunique() > 1 or comparison["study"].nunique() > 1
    with mpl.rc_context(STYLE):
        columns = 2 if len(panels) > 1 else 1
        width = PAGE if len(panels) > 1 or students else COLUMN
        figure, axes = grid(len(panels), columns, width, 0.6 + 0.36 * most)
        for axis, dataset in zip(axes, panels, strict=True):
            part = comparison[comparison["dataset"] == dataset]
            place = {arm: index for index, arm in enumerate(in_order(part["arm"]))}
            part = part.sort_values("arm", key=lambda arms: arms.map(place), kind="stable")
            labels = []
            for row, line in enumerate(part.itertuples()):
                shade = color(line.arm)
                theirs = (line.published, line.published_low, line.published_high)
                pairs = (
                    (0.17, "measured", line.measured, line.low, line.high, shade),
                    (-0.17, "published", *theirs, "white"),
                )
                for shift, _, x, low, high, fill in pairs:
                    bars(axis, 100 * x, row + shift, 100 * low, 100 * high, color=shade, mfc=fill)
                label = SHORT.get(line.method, line.method)
                labels.append(f"{label}\n{line.student}" if students else label)
                if row == len(part) - 1:
                    for shift, name, _, _, high, _ in pairs:
                        axis.annotate(
                            name,
                            (100 * high, row + shift),
                            xytext=(4, 0),
                            textcoords="offset points",
                            va="center",
                            fontsize=7,
                        )
            left, right = axis.get_xlim()
            axis.set_xlim(left, right + 0.16 * (right - left))
            axis.set_yticks(range(len(part)), labels)
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(-0.6, len(part) - 0.4)
            axis.set_title(dataset_name(dataset))
            axis.set_xlabel("accuracy, %")
        names = ", ".join(dict.fromkeys(comparison["student"]))
        sizes = ", ".join(dict.fromkeys(comparison["size"]))
        alike, metric = comparison["same_student"].all(), comparison["metric"].iloc[0]
        caption(
            figure,
            f"Hollow: published for FLAN-T5 {sizes} (one run, exact match of text); filled: "
            f"measured with {names} ({METRICS.get(metric, metric)}). "
            + ("" if alike else "The students differ, so the two need not agree. ")
            + f"Measured on {counted(comparison)}. Bars: Wilson's 95% interval over questions.",
        )
    return figure
