"""What teachers' rationales are worth: one table of dots and bars over datasets and teachers."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tinyllm import audit, paths
from tinyllm.figures.style import (
    GREY,
    INK,
    PAGE,
    PALE,
    STYLE,
    Drawing,
    bars,
    caption,
    color,
    dataset_name,
    save,
)

TEACHERS = {"flan-t5": "FLAN-T5", "llama2": "LLaMA 2"}
HEADS = {
    "nothing": "nothing\nwritten",
    "cut_off": "cut off mid-\nsentence",
    "invents": "invents a\nquestion",
    "repeats": "repeats\nitself",
    "foreign": "other\nlanguage",
}
# What a rationale argues for, from left to right; the last is drawn from the right end, so that
# both that matter start at an axis.
PARTS = {
    "gold": ("gold", "#0072B2", "white"),
    "untold": ("can't tell", "#CFCFCF", INK),
    "nothing": ("nothing", "white", GREY),
    "other": ("other", "#D55E00", "white"),
}
ROW, GAP = 0.185, 0.5  # inches a row; rows between two datasets


def audit_numbers(table: pd.DataFrame, overlap: pd.DataFrame | None = None) -> pd.DataFrame:
    """The numbers of `rationale_audit`, a row an estimate.

    table: of `audit.recorded`, or of `audit.table` for one study. overlap: of
    `audit.recorded_overlap` or `audit.overlap`.

    Columns: dataset, split (both empty for one study's), teacher, measure, n, value, low, high, to
    six digits. Shares of all questions (0 to 1) with Wilson's 95% interval; `nothing` is empty and
    missing together. words: median and quartiles. overlap (teacher: both): median and its 95%
    interval; chance: median and quartiles.
    """
    blank = {"dataset": "", "split": ""}
    both = table.assign(**{key: "" for key in blank if key not in table})
    both = both.assign(nothing=both["missing"] + both["empty"])
    parts = audit.shares(both, dict.fromkeys((*PARTS, *HEADS)))
    parts = parts.rename(columns={"rows": "n", "share": "value"})
    words = both.assign(
        measure="words",
        n=both["gold"] + both["other"] + both["untold"],
        value=both["words"],
        low=both["words_q25"],
        high=both["words_q75"],
    )
    frames = [parts, words[words["n"] > 0]]
    if overlap is not None and len(overlap):
        named = overlap.assign(**{key: "" for key in blank if key not in overlap})
        named = named.rename(columns={"teachers": "teacher", "rows": "n"})
        frames.append(named.assign(measure="overlap", value=named["overlap"]))
        frames.append(
            named.assign(
                measure="chance",
                value=named["chance"],
                low=named["chance_q25"],
                high=named["chance_q75"],
            )
        )
    columns = [*blank, "teacher", "measure", "n", "value", "low", "high"]
    numbers = pd.concat([frame[columns] for frame in frames], ignore_index=True)
    for column in ("value", "low", "high"):  # as the CSV holds them: redrawn, it is the same
        numbers[column] = numbers[column].map(lambda value: float(f"{value:.6g}"))
    return numbers


def rationale_audit(numbers: pd.DataFrame) -> Figure:
    """What each teacher's rationales are worth, a line a dataset and teacher.

    numbers: of `audit_numbers`. Overlap is drawn where there is one pair of teachers a dataset.
    """
    numbers = numbers.fillna({"dataset": "", "split": ""})
    places, blocks = _places(numbers)
    paired = numbers[numbers["measure"].isin(["overlap", "chance"])]
    paired = paired if paired.groupby(["dataset", "measure"]).size().le(1).all() else paired[:0]
    widths = [1.75, *[0.63] * len(HEADS), 0.8, *([0.63] if len(paired) else [])]
    height = max(places.values()) + 1
    with mpl.rc_context(STYLE):
        figure = Drawing(figsize=(PAGE, ROW * height + 0.75), layout="constrained")
        figure.get_layout_engine().set(wspace=0.03, w_pad=0.02)
        axes = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
        for axis in axes:
            axis.set_ylim(height - 0.4, -0.6)
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
            for top, bottom in list(blocks.values())[1::2]:
                axis.axhspan(top - 0.7, bottom + 0.7, color="#F3F3F3", zorder=-2, linewidth=0)
        _verdicts(axes[0], numbers, places)
        for axis, measure in zip(axes[1:], HEADS, strict=False):
            _shares(axis, numbers, places, measure)
        axes[1 + len(HEADS) // 2].set_xlabel("% of questions", labelpad=2)
        _words(axes[len(HEADS) + 1], numbers, places)
        if len(paired):
            _overlaps(axes[-1], paired, blocks)
        axes[0].set_yticks(list(places.values()), [_name(teacher) for _, teacher in places])
        for label, (_, teacher) in zip(axes[0].get_yticklabels(), places, strict=True):
            label.set_color(color(f"dss:{teacher}"))
        for dataset, (top, bottom) in blocks.items() if any(blocks) else ():
            _dataset_label(axes[0], dataset, numbers, top, bottom)
        caption(figure, _told(numbers, bool(len(paired))))
    return figure


def _name(teacher: str) -> str:
    """A teacher as a line's label: of a long URI, what stands last."""
    short = TEACHERS.get(teacher.removeprefix("release:"), re.split(r"[#/]", teacher)[-1])
    return short if len(short) <= 20 else f"{short[:19]}\u2026"


def _places(numbers: pd.DataFrame) -> tuple[dict, dict]:
    """Height of each (dataset, teacher), and of the first and last line of each dataset."""
    places, blocks, height = {}, {}, 0.0
    lines = numbers[numbers["measure"] == "gold"]
    for dataset, rows in lines.groupby("dataset", sort=False):
        for teacher in rows["teacher"]:
            places[dataset, teacher] = height
            height += 1
        blocks[dataset] = (height - len(rows), height - 1)
        height += GAP
    return places, blocks


def _of(numbers: pd.DataFrame, measure: str) -> list:
    return list(numbers[numbers["measure"] == measure].itertuples())


def _percent(share: float) -> str:
    return "<1" if 0 < share < 0.005 else f"{100 * share:.0f}"


def _verdicts(axis: Axes, numbers: pd.DataFrame, places: dict) -> None:
    """Bars that add up to all questions, with intervals at the ends of gold and of other."""
    left = dict.fromkeys(places, 0.0)
    for measure, (_, tint, ink) in PARTS.items():
        for row in _of(numbers, measure):
            key = row.dataset, row.teacher
            start, width = left[key], 100 * row.value
            left[key] = start + width
            edge = {"edgecolor": GREY, "linewidth": 0.5} if measure == "nothing" and width else {}
            axis.barh(places[key], width, 0.72, start, color=tint, **edge)
            if width >= 5.5:
                text = "none written" if (measure, width) == ("nothing", 100) else f"{width:.0f}"
                axis.text(
                    start + width / 2, places[key], text, color=ink, fontsize=7, ha="center",
                    va="center_baseline",
                )  # fmt: skip
            if measure == "gold" and width:
                ends = 100 * np.array([row.low, row.high])
            elif measure == "other" and width:
                ends = 100 - 100 * np.array([row.high, row.low])
            else:
                continue
            axis.plot(ends, [places[key] + 0.25] * 2, color="black", linewidth=1)
    axis.set_xlim(0, 100)
    axis.set_xticks([0, 50, 100])
    axis.set_xlabel("argues for, % of questions", labelpad=2)
    for measure, x, align in (
        ("gold", 0, "left"),
        ("untold", 50, "center"),
        ("other", 100, "right"),
    ):
        name, tint, _ = PARTS[measure]
        axis.annotate(
            name, (x, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=align, fontsize=7, weight="bold", color="#777777" if measure == "untold" else tint,
        )  # fmt: skip


def _head(axis: Axes, text: str) -> None:
    for height, line in zip((13, 4), text.split("\n"), strict=True):
        axis.annotate(
            line, (0, 1), (0, height), xycoords="axes fraction", textcoords="offset points",
            fontsize=7,
        )  # fmt: skip


def _shares(axis: Axes, numbers: pd.DataFrame, places: dict, measure: str) -> None:
    """One trouble: a dot with its interval and its number."""
    nothing = {(row.dataset, row.teacher) for row in _of(numbers, "nothing") if row.value == 1}
    for row in _of(numbers, measure):
        key = row.dataset, row.teacher
        if key in nothing and measure != "nothing":
            continue
        tint, share = color(f"dss:{row.teacher}"), 100 * row.value
        bars(axis, share, places[key], 100 * row.low, 100 * row.high, color=tint, markersize=3.5)
        far = share > 55
        axis.annotate(
            _percent(row.value), (100 * (row.low if far else row.high), places[key]),
            (-4 if far else 4, 0), textcoords="offset points", ha="right" if far else "left",
            va="center_baseline", fontsize=7, color=tint,
        )  # fmt: skip
    axis.set_xlim(-9, 109)
    axis.set_xticks([0, 50, 100], ["0", "", "100"])
    axis.grid(axis="x", color=PALE, linewidth=0.5, zorder=-1)
    _head(axis, HEADS[measure])


def _words(axis: Axes, numbers: pd.DataFrame, places: dict) -> None:
    """Length: median, and a line from quartile to quartile."""
    rows = _of(numbers, "words")
    for row in rows:
        tint, place = color(f"dss:{row.teacher}"), places[row.dataset, row.teacher]
        bars(axis, row.value, place, row.low, row.high, color=tint, markersize=3.5)
        axis.annotate(
            f"{row.value:.0f}", (row.low if row.value > 45 else row.high, place),
            (-4 if row.value > 45 else 4, 0), textcoords="offset points",
            ha="right" if row.value > 45 else "left", va="center_baseline", fontsize=7, color=tint,
        )  # fmt: skip
    most = max((row.high for row in rows), default=1)
    axis.set_xlim(0, 1.3 * most)
    axis.grid(axis="x", color=PALE, linewidth=0.5, zorder=-1)
    _head(axis, "length,\nwords")


def _overlaps(axis: Axes, paired: pd.DataFrame, blocks: dict) -> None:
    """How alike the two teachers' rationales are, and by chance (hollow)."""
    for row in paired.itertuples():
        place = sum(blocks[row.dataset]) / 2
        if row.measure == "chance":
            axis.plot(row.value, place, "o", mfc="white", mec=INK, markersize=3.5, clip_on=False)
            continue
        bars(axis, row.value, place, row.low, row.high, color=INK, markersize=3.5)
        axis.annotate(
            f"{row.value:.2f}", (row.high, place), (4, 0), textcoords="offset points", fontsize=7,
            va="center_baseline",
        )  # fmt: skip
    axis.set_xlim(-0.02, max(0.56, 1.3 * paired["high"].max()))
    axis.set_xticks([0, 0.25, 0.5], ["0", "", "0.5"])
    axis.grid(axis="x", color=PALE, linewidth=0.5, zorder=-1)
    _head(axis, "overlap of\nteachers")


def _dataset_label(
    axis: Axes, dataset: str, numbers: pd.DataFrame, top: float, bottom: float
) -> None:
    """The dataset's name and its number of questions, left of the teachers' names."""
    n = int(numbers[(numbers["dataset"] == dataset) & (numbers["measure"] == "gold")]["n"].max())
    name = dataset_name(dataset)
    for text, place, style in (
        (name, top, {"weight": "bold"}),
        (f"n = {n}", bottom if bottom > top else top + 0.8, {}),
    ):
        axis.annotate(
            text, (0, place), (-84, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center_baseline", fontsize=7, annotation_clip=False,
            **style,
        )  # fmt: skip


def _told(numbers: pd.DataFrame, paired: bool) -> str:
    """The caption."""
    split = numbers["split"].iloc[0]
    split = f"{split} " if split else ""
    n = "n" if numbers["dataset"].iloc[0] else f"n = {numbers['n'].max()}"
    text = (
        f"Rationales of the {n} {split}questions, judged by rule (tinyllm.audit). Left: the option "
        "that a rationale argues for, without an appended answer sentence; white: nothing written, "
        "or only the prompt's echo. Lines on dots and bars: Wilson's 95% interval over questions; "
        "length: median, and from quartile to quartile."
    )
    if paired:
        text += (
            " Overlap: median Jaccard of the two teachers' content words on the same question, 95% "
            "interval; hollow: on different questions."
        )
    return text


def recorded_audit(folder: str | Path | None = None) -> Path:
    """Draw and save the figure of the release's rationales from results/; gives the PNG's path.

    Raises FileNotFoundError where `python -m tinyllm.audit` has not written the tables.
    """
    table = pd.read_csv(paths.results() / audit.FILE)
    numbers = audit_numbers(table, pd.read_csv(paths.results() / audit.OVERLAP_FILE))
    return save(rationale_audit(numbers), "rationale_audit", numbers, folder)
