"""House style: sizes, colours and order, `save`, and the parts that figures are built of.

One colour an arm, kept through all figures (Okabe and Ito's palette, for colour-blind readers);
labels at the marks rather than legends; an interval on every estimate; a caption line that says n,
seeds and what the bars are. Figures are 7 inches wide (a page) or 3.4 (a column), no text below 7
points. The same numbers give the same bytes: no dates, no random ids, matplotlib's own font.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tinyllm import paper, paths

PAGE, COLUMN = 7.0, 3.4  # widths in inches
INK, GREY, PALE = "#333333", "#8C8C8C", "#DDDDDD"
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same on every machine
    "font.size": 7.5,
    "text.hinting": "none",  # so that text is as wide at every resolution
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "tinyllm",
}
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]  # text over a line
METADATA = {  # what would differ between two runs, left out
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None},
}
ARM_COLORS = {
    "inference": GREY,
    "lora": "#56B4E9",
    "kd": "#E69F00",
    "finetune": "#0072B2",
    "finetune:x": "#003E66",
    "dss": "#009E73",
    "tinyllm": "#D55E00",
    "tinyllm:repaired": "#A84300",
    "tinyllm:shuffled": "#CC79A7",
    "tinyllm:scrambled": "#9A6A8A",
    "tinyllm:gibberish": "#7A7AB8",
    "tinyllm:no-examples": "#B08A5A",
    "tinyllm:no-forcing": "#8C5A2B",
}
TEACHER_COLORS = {  # shades of the dss arms, by how dark they are
    "a": "#00604A",
    "b": "#2FA57C",
    "flan-t5": "#00604A",
    "llama2": "#2FA57C",
}
SPLIT_COLORS = {"train": "#56B4E9", "valid": "#E69F00", "test": "#777777"}
ARM_ORDER = ("inference", "lora", "kd", "finetune", "dss")
ARM_ORDER += ("tinyllm:scrambled", "tinyllm:shuffled", "tinyllm")
METHOD_ARMS = {method: arm for arm, method in paper.ARM_METHODS.items()}
METRICS = {
    "correct": "likeliest option",
    "exact": "exact match",
    "extracted": "option named in text",
}
SHORT = {"Full fine-tuning": "fine-tuning", "Inference": "inference"}


class Drawing(Figure):
    """A Figure that shows itself in a notebook; made without pyplot, so nothing global changes."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(stream, format="png", dpi=STYLE["figure.dpi"], metadata=METADATA["png"])
        # 255 colours are enough for a drawing, and keep notebooks small.
        small = io.BytesIO()
        Image.open(stream).convert("RGB").quantize(255).save(small, format="png", optimize=True)
        return small.getvalue()


def color(arm: str) -> str:
    """The colour of an arm, or of one of the paper's methods; arms without their own are dark.

    An arm with adapters (`tinyllm+lora`) has the colour of the same arm without.
    """
    arm = METHOD_ARMS.get(arm, arm).partition("+lora")[0]
    kind, _, teacher = arm.partition(":")
    if kind == "dss" and teacher.rpartition(":")[2] in TEACHER_COLORS:
        return TEACHER_COLORS[teacher.rpartition(":")[2]]
    if kind == "finetune" and teacher:  # finetune:xN
        return ARM_COLORS["finetune:x"]
    return ARM_COLORS.get(arm, ARM_COLORS["dss"] if kind == "dss" else INK)


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms as every figure lists them: baselines first, then TinyLLM, then teachers themselves."""
    known = {name: place for place, name in enumerate(ARM_ORDER)}

    def place(arm: str) -> tuple:
        kind = re.split("[:+-]", arm)[0]
        if kind == "teacher":
            return (len(known) + 1, arm)
        return (known.get(arm, known.get(kind, len(known)) - 0.5), arm)

    return sorted(set(arms), key=place)


def arm_name(arm: str) -> str:
    """An arm as figures write it: a teacher by the last part of its URI, any other as it is."""
    if not arm.startswith("teacher:"):
        return arm
    return "teacher " + re.split("[:/]", arm)[-1]


def dataset_name(dataset: str) -> str:
    """A dataset as the paper calls it; any other by its own name, micro with what it is."""
    if dataset == "micro":
        return "micro (positive control)"
    names = paper.datasets().set_index("dataset")["name"]
    return names.get(dataset, dataset)


def save(
    figure: Figure, name: str, numbers: pd.DataFrame, folder: str | Path | None = None
) -> Path:
    """Write NAME.png, NAME.pdf and NAME.csv (the numbers that are drawn); gives the PNG's path.

    folder: default is the figures folder of `paths`. Equal figures and numbers give equal bytes.
    """
    folder = Path(folder) if folder is not None else paths.figures()
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        layout = figure.get_layout_engine()
        for kind, metadata in METADATA.items():
            figure.savefig(folder / f"{name}.{kind}", metadata=metadata)
            figure.set_layout_engine("none")  # the other kind is laid out as the first was
        figure.set_layout_engine(layout)
    numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return folder / f"{name}.png"


# --- parts of figures --------------------------------------------------------------------------


def grid(panels: int, columns: int, width: float, height: float, **kwargs) -> tuple:
    """A figure with `panels` axes, `columns` in a row, each row `height` inches; axes in a list."""
    columns = min(columns, panels)
    rows = math.ceil(panels / columns)
    figure = Drawing(figsize=(width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel().tolist()
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def caption(figure: Figure, text: str) -> None:
    """The caption below a figure, wrapped to its width; the figure grows by its height."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 72 / 3.85))  # points a letter
    figure.set_figheight(figure.get_figheight() + 0.125 * len(lines) + 0.05)
    words = "\n".join(lines)
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7, color=INK, linespacing=1.25)


def spread(
    places: Sequence[float], least: float, low: float = -np.inf, high: float = np.inf
) -> list[float]:
    """Places moved apart as little as need be, so that neighbours are at least `least` away.

    They stay between `low` and `high` where there is room for all of them.
    """
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=float)[order]
    for _ in range(1000):
        moved = moved.clip(low, high)
        gaps = np.diff(moved)
        if len(gaps) == 0 or gaps.min() >= 0.999 * least:
            break
        for index in np.flatnonzero(gaps < least):
            push = (least - (moved[index + 1] - moved[index])) / 2
            moved[index] -= push
            moved[index + 1] += push
    out = np.empty_like(moved)
    out[order] = moved
    return out.tolist()


def text_height(axis: Axes, inches: float) -> float:
    """How much of the y axis a line of 7-point text takes, in a panel `inches` high."""
    low, high = axis.get_ylim()
    return (high - low) * 8.5 / (inches * 72)


def span(values: pd.Series, one: str, many: str) -> str:
    """`500 questions` or `123 to 1165 questions`."""
    low, high = int(values.min()), int(values.max())
    if low == high:
        return f"{low} {one if low == 1 else many}"
    return f"{low} to {high} {many}"


def counted(frame: pd.DataFrame) -> str:
    """n and seeds of a frame, for a caption."""
    questions = span(frame["n"], "test question", "test questions")
    return f"n = {questions}; {span(frame['seeds'], 'seed', 'seeds')}"


def beside(axis: Axes, text: str, y: float, x: float = 1.02, **style) -> None:
    """Text at a height in data, x in widths of the panel (past 1: right of it)."""
    across = axis.get_yaxis_transform()
    axis.text(x, y, text, transform=across, va="center", clip_on=False, fontsize=7, **style)


def bars(axis: Axes, x, y, low, high, across: bool = True, **style) -> None:
    """A point with its interval; across: the interval lies along x."""
    ends = np.abs([[np.subtract(x if across else y, low)], [np.subtract(high, x if across else y)]])
    ends = ends.reshape(2, -1)
    style = {"fmt": "o", "elinewidth": 1.2, "capsize": 0, **style}
    axis.errorbar(x, y, **{"xerr" if across else "yerr": ends}, **style)
