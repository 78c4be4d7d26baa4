"""Figures of the questions: where the gold option stands, how long the texts are."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tinyllm import stats
from tinyllm.figures.style import (
    COLUMN,
    GREY,
    HALO,
    INK,
    PAGE,
    SPLIT_COLORS,
    STYLE,
    bars,
    beside,
    caption,
    grid,
)


def option_balance(balance: pd.DataFrame) -> Figure:
    """How often the gold option stands at each letter, a panel a split.

    balance: split, letter, questions, share (of `data.option_balance`). Thin: Wilson's intervals.
    """
    splits = list(dict.fromkeys(balance["split"]))
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(splits), 3, PAGE, 1.9, sharey=True)
        for axis, split in zip(axes, splits, strict=True):
            part = balance[balance["split"] == split]
            n = int(part["questions"].sum())
            bounds = np.array([stats.wilson(k, n) for k in part["questions"]])
            places = np.arange(len(part))
            shares = 100 * part["questions"].to_numpy() / n
            axis.bar(places, shares, width=0.7, color=SPLIT_COLORS.get(split, GREY))
            low, high = 100 * bounds.T
            bars(axis, places, shares, low, high, across=False, color=INK, fmt="none")
            level = 100 / len(part)
            axis.axhline(level, color=INK, linestyle=":", linewidth=0.9)
            beside(axis, "level", level, 1.01)
            axis.set_xticks(places, [f"({letter})" for letter in part["letter"]])
            axis.tick_params(axis="x", length=0)
            axis.set_title(f"{split}, n = {n}")
        axes[0].set_ylabel("gold option, % of questions")
        caption(
            figure,
            "Letter of the gold option. Thin lines: Wilson's 95% interval for so many questions; "
            "dotted: every letter alike.",
        )
    return figure


def length_counts(lengths: pd.DataFrame, bins: int = 25) -> pd.DataFrame:
    """The numbers of `length_histograms`, a row a part, split and bin.

    lengths: split, id, part, words (of `data.lengths`). Columns: part, split, n (questions), median
    (words), left, right (words; right not included), questions, share. The last bin takes all
    longer texts too. Parts without any words (no contexts, say) are left out.
    """
    lines = []
    for part, rows in lengths.groupby("part", sort=False):
        if not rows["words"].any():
            continue
        width = max(1, math.ceil(rows["words"].quantile(0.99) / bins))
        last = int(rows["words"].quantile(0.99)) // width
        for split, here in rows.groupby("split", sort=False):
            counts = np.bincount(np.minimum(here["words"] // width, last), minlength=last + 1)
            for index, count in enumerate(counts):
                lines.append(
                    {
                        "part": part,
                        "split": split,
                        "n": len(here),
                        "median": here["words"].median(),
                        "left": index * width,
                        "right": (index + 1) * width,
                        "questions": count,
                        "share": count / len(here),
                    }
                )
    return pd.DataFrame(lines)


def length_histograms(lengths: pd.DataFrame) -> Figure:
    """Words of contexts, questions and options, a panel a part, a line a split.

    lengths: of `data.lengths`, or `length_counts` of it, which are its numbers.
    """
    counts = lengths if "questions" in lengths else length_counts(lengths)
    counts = counts.assign(share=counts["questions"] / counts["n"])  # not rounded by a CSV
    parts = list(dict.fromkeys(counts["part"]))
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(parts), 3, COLUMN if len(parts) == 1 else PAGE, 2.0)
        for axis, part in zip(axes, parts, strict=True):
            here = counts[counts["part"] == part]
            for index, (split, rows) in enumerate(here.groupby("split", sort=False)):
                tint = SPLIT_COLORS.get(split, GREY)
                edges = [*rows["left"], rows["right"].iloc[-1]]
                axis.stairs(100 * rows["share"], edges, color=tint, linewidth=1.2)
                label = f"{split}, median {rows['median'].iloc[0]:.0f}"
                axis.text(
                    0.99,
                    0.97 - 0.11 * index,
                    label,
                    transform=axis.transAxes,
                    ha="right",
                    va="top",
                    color=tint,
                    fontsize=7,
                    path_effects=HALO,
                )
            axis.set_ylim(0, 155 * here["share"].max())  # room for the labels
            axis.set_yticks([tick for tick in axis.get_yticks() if tick <= 100])
            axis.set_title(part)
            axis.set_xlabel("words")
        axes[0].set_ylabel("% of the split")
        sizes = counts.drop_duplicates("split")
        n = ", ".join(f"{line.split} {line.n}" for line in sizes.itertuples())
        caption(figure, f"Lengths in words; the last bin takes all longer ones. n: {n}.")
    return figure
