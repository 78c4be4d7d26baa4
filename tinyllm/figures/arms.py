"""Figures of one study: accuracy of its arms, paired differences, learning curves."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    INK,
    METRICS,
    PAGE,
    PALE,
    STYLE,
    Drawing,
    arm_name,
    bars,
    beside,
    caption,
    color,
    counted,
    dataset_name,
    grid,
    in_order,
    span,
    spread,
    text_height,
)
from tinyllm.worth import TOGETHER


def main_results(
    predictions: pd.DataFrame, column: str = "correct", teachers: pd.DataFrame | None = None
) -> Figure:
    """Accuracy of every arm, a panel a dataset and student, with chance and majority lines.

    predictions: as in `stats.SCHEMA`, of one split. teachers: their own answers to the same
    questions (`stats.teacher_accuracy`); each gets a row (a diamond) and a line through the panel.
    Numbers: `stats.results`. Bars are Wilson's intervals of the mean over seeds; small ticks are
    the seeds.
    """
    frame = stats.results(predictions, column, teachers)
    seeds = _each_seed(predictions, column)
    arms = in_order(frame["arm"])
    panels = list(
        dict.fromkeys(zip(*(frame[key] for key in ("study", "dataset", "student")), strict=True))
    )
    one = len(panels) == 1
    with mpl.rc_context(STYLE):
        height = 0.55 + 0.19 * (len(arms) + 2)
        figure, axes = grid(len(panels), 3, COLUMN if one else PAGE, height, sharey=True)
        for axis, (study, dataset, student) in zip(axes, panels, strict=True):
            chosen = (frame["study"] == study) & (frame["dataset"] == dataset)
            part = frame[chosen & (frame["student"] == student)]
            values = [*part["low"], *part["high"], *part["chance"], *part["majority"]]
            values += [*part["seed_low"], *part["seed_high"]]
            low, high = 100 * min(values), 100 * max(values)
            room = 0.07 * (high - low)
            axis.set_xlim(low - room, high + 3.2 * room)
            axis.set_ylim(-2.8, len(arms) - 0.4)
            base = part.iloc[0]
            lines = [(base["chance"], "chance", ":"), (base["majority"], "majority", "--")]
            right = bool(100 * base["chance"] < (low + high) / 2)
            lines.sort(reverse=right)  # a line ends at its name, and no name crosses one
            for row, (value, name, dash) in zip((-1, -2), lines, strict=True):
                x, side = 100 * value, "left" if right else "right"
                look = {"linestyle": dash, "linewidth": 0.9, "zorder": 0}
                axis.vlines(x, row - 0.4, axis.get_ylim()[1], GREY, **look)
                text = f" {name} {x:.1f} "
                axis.text(x, row, text, va="center", ha=side, fontsize=7, path_effects=HALO)
            for line in part.itertuples():
                row = arms.index(line.arm)
                each = seeds[study, dataset, student, line.arm] if line.seeds > 1 else []
                axis.plot(100 * np.array(each), [row - 0.24] * len(each), "|", color=GREY, ms=4)
                x, left, right = (100 * v for v in (line.estimate, line.low, line.high))
                mark = {}
                if line.arm.startswith("teacher:"):
                    mark = {"fmt": "D", "ms": 3.5}
                    axis.axvline(x, color=PALE, linewidth=0.9, zorder=-1)
                bars(axis, [x], [row], [left], [right], color=color(line.arm), **mark)
                beyond = max([right, *(100 * v for v in each)])
                at, text = beyond + 0.4 * room, f"{x:.1f}"
                axis.text(at, row, text, va="center", fontsize=7, path_effects=HALO)
            axis.set_yticks(range(len(arms)), [arm_name(arm) for arm in arms])
            axis.tick_params(axis="y", length=0)
            names = dict.fromkeys(student for _, _, student in panels)
            title = dataset_name(dataset) + (f", {student}" if len(names) > 1 else "")
            axis.set_title(f"{title}, n = {base['n']}")
            axis.set_xlabel("accuracy, %")
        students = ", ".join(dict.fromkeys(frame["student"]))
        trained = frame[~frame["arm"].str.startswith("teacher:")]
        what = METRICS.get(column, column)
        several = frame["seeds"].max() > 1
        points = "Points: mean over seeds (small ticks: each seed), bars" if several else "Bars"
        caption(
            figure,
            f"Share of questions answered right ({what}), student {students}. {counted(trained)}. "
            f"{points}: Wilson's 95% interval over questions. "
            "Majority: the commonest gold label of these questions."
            + " Diamonds: the teachers themselves."
            * any(a.startswith("teacher:") for a in arms),
        )
    return figure


def _each_seed(predictions: pd.DataFrame, column: str) -> dict[tuple, list[float]]:
    """Accuracies of the seeds of each (study, dataset, student, arm)."""
    keys = ["study", "dataset", "student", "arm"]
    means = predictions.groupby([*keys, "seed"])[column].mean()
    return {key: part.tolist() for key, part in means.groupby(level=keys)}


def paired_differences(comparison: pd.DataFrame) -> Figure:
    """Each arm minus the baseline on the same questions, a row an arm, a panel a dataset.

    comparison: of `stats.compare`. Filled: significant after Holm's correction.
    """
    return _differences(comparison, {arm: arm for arm in comparison["arm"]})


WITHOUT = {  # what an arm lacks or changes, beside tinyllm
    "finetune": "answers only",
    "tinyllm:no-examples": "teachers without examples",
    "tinyllm:no-forcing": "teachers without the answer",
    "tinyllm:repaired": "rationales repaired",
    "tinyllm:shuffled": "other questions' rationales",
    "tinyllm:scrambled": "scrambled words",
    "tinyllm:gibberish": "a teacher of random words more",
}


def ablation(comparison: pd.DataFrame) -> Figure:
    """What TinyLLM loses without one of its parts: each ablated arm minus `tinyllm`.

    comparison: of `stats.ablations`. Filled: significant after Holm's correction.
    """
    names = {}
    for arm in comparison["arm"]:
        kind, _, rest = arm.partition(":")
        last = re.split("[:/]", arm.removeprefix("tinyllm-"))[-1]
        other = f"teacher {last} alone" if kind == "dss" and rest else f"without teacher {last}"
        names[arm] = WITHOUT.get(arm, other)
    return _differences(comparison, names)


def _differences(comparison: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Differences from the baseline, a panel a study, dataset and student; names: arm -> label."""
    baseline = ", ".join(dict.fromkeys(comparison["baseline"]))
    groups = list(comparison.groupby(["study", "dataset", "student"], sort=False))
    rows = [len(part) for _, part in groups]
    with mpl.rc_context(STYLE):
        figure, axes = _stacked(rows)
        low, high = min(0, 100 * comparison["low"].min()), max(0, 100 * comparison["high"].max())
        room = 0.04 * (high - low)
        for axis, ((_, dataset, student), part) in zip(axes, groups, strict=True):
            arms = in_order(part["arm"])
            axis.axvline(0, color=INK, linewidth=0.8, zorder=0)
            for line in part.itertuples():
                row = arms.index(line.arm)
                x, left, right = (100 * v for v in (line.difference, line.low, line.high))
                fill = color(line.arm) if line.significant else "white"
                bars(axis, [x], [row], [left], [right], color=color(line.arm), mfc=fill)
                words = f"{x:+.1f}  [{left:+.1f}, {right:+.1f}]   {_p(line.p_holm)}"
                words = words.replace("-", "\N{MINUS SIGN}")
                beside(axis, words, row)
            axis.set_xlim(low - room, high + room)
            axis.set_ylim(-0.6, len(arms) - 0.4)
            axis.set_yticks(range(len(arms)), [names[arm] for arm in arms])
            axis.tick_params(axis="y", length=0)
            axis.set_title(f"{dataset_name(dataset)}, {student}")
        axes[-1].set_xlabel(f"accuracy minus that of {baseline}, points")
        several = comparison["seeds"].max() > 1
        what = (
            "questions and seeds" if several else "questions (the spread of training is not in it)"
        )
        holm = f" after Holm's correction over these {len(comparison)}" * (len(comparison) > 1)
        caption(
            figure,
            f"Difference from {baseline} on the same questions. {counted(comparison)}. Bars: 95% "
            f"interval, paired, over {what}; p: its p-value{holm}. Filled: p below 0.05.",
        )
    return figure


def _stacked(rows: Sequence[int]) -> tuple[Figure, np.ndarray]:
    """A page-wide figure of panels one below the other, each as high as its number of rows."""
    height = 0.3 + 0.36 * len(rows) + 0.17 * sum(rows)
    figure = Drawing(figsize=(PAGE, height), layout="constrained")
    ratios = {"height_ratios": rows}
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw=ratios)
    return figure, axes.ravel()


def gains_by_verdict(gains: pd.DataFrame) -> Figure:
    """Gains over fine-tuning by how many teachers argued for the right option; a panel a dataset,
    and one of their mean.

    gains: of `worth.gains`. Hollow: how far the gains of the last and the first group differ.
    """
    groups = list(gains.groupby(["study", "dataset", "student"], sort=False))
    rows = [len(part) + part["arm"].nunique() - 1 for _, part in groups]
    with mpl.rc_context(STYLE):
        figure, axes = _stacked(rows)
        for axis, ((_, dataset, student), part) in zip(axes, groups, strict=True):
            axis.axvline(0, color=INK, linewidth=0.8, zorder=0)
            row, labels = 0, {}
            for arm in in_order(part["arm"]):
                for line in part[part["arm"] == arm].itertuples():
                    x, left, right = (100 * v for v in (line.difference, line.low, line.high))
                    contrast, known = pd.isna(line.n), not pd.isna(line.low)
                    mark = {"mfc": "white", "fmt": "D", "ms": 3.5} if contrast else {}
                    if known:
                        bars(axis, [x], [row], [left], [right], color=color(arm), **mark)
                    words = f"{x:+.1f}  [{left:+.1f}, {right:+.1f}]   " if known else ""
                    if contrast:
                        words += _p(line.p_holm) if known else "too few questions"
                    else:
                        words += f"n = {line.n:.0f}, finetune {100 * line.baseline_accuracy:.0f}%"
                    beside(axis, words.replace("-", "\N{MINUS SIGN}"), row)
                    labels[row] = f"{arm_name(arm)}, {line.group}"
                    row += 1
                row += 1
            axis.set_ylim(-0.6, row - 1.4)
            axis.set_yticks(list(labels), list(labels.values()))
            axis.tick_params(axis="y", length=0)
            mean = dataset == TOGETHER
            axis.set_title(f"{'mean of these' if mean else dataset_name(dataset)}, {student}")
        axes[-1].set_xlabel("accuracy minus that of finetune, points")
        drawn = "questions and seeds" if gains["seeds"].max() > 1 else "questions"
        apart = ", of the mean apart" if gains["dataset"].eq(TOGETHER).any() else ""
        caption(
            figure,
            "Gain over finetune on test questions, by how many of the arm's teachers, asked about "
            "them with the gold answer at hand, are known to argue for it (fixed rules over the "
            "recorded text, which no student read; the rest argue for another option or cannot be "
            "judged). Diamonds: the gain on the last group over that on the first, p after Holm's "
            f"correction{apart}. {span(gains['seeds'], 'seed', 'seeds')}. Bars: 95% interval, "
            f"paired, over {drawn}; none below {stats.SMALLEST} questions.",
        )
    return figure


def _p(value: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def learning_curves(history: pd.DataFrame) -> Figure:
    """Accuracy on valid, and losses on train, against steps.

    history: step, split, task, metric, value (history.csv), and arm and seed where there are
        several. The loss of `options`, a distribution, is no mean over tokens and is left out.
    Thin: a seed; thick: the mean over seeds. Panels without data are left out.
    """
    for name, value in (("arm", ""), ("seed", 0)):
        history = history if name in history else history.assign(**{name: value})
    loss, task = history["metric"] == "loss", history["task"]
    wanted = [
        ("accuracy on valid, %", history["metric"] == "accuracy"),
        ("loss of the answer", loss & (task == "answer")),
        ("loss of the rationales", loss & ~task.isin(["answer", "options"])),
    ]
    panels = [(title, history[chosen]) for title, chosen in wanted if chosen.any()]
    if not panels:
        raise ValueError("history has neither accuracy nor losses; is it a student's history.csv?")
    names = max(part.groupby(["arm", "task"]).ngroups for _, part in panels)
    height = max(2.4, 0.14 * names + 0.65)  # room for a name a line
    with mpl.rc_context(STYLE):
        figure, axes = grid(len(panels), 3, COLUMN if len(panels) == 1 else PAGE, height)
        for axis, (title, part) in zip(axes, panels, strict=True):
            scale = 100 if title.startswith("accuracy") else 1
            ends = []
            for (arm, task), lines in part.groupby(["arm", "task"], sort=False):
                tint = color(arm)
                for _, each in lines.groupby("seed"):
                    axis.plot(each["step"], scale * each["value"], color=tint, lw=0.5, alpha=0.5)
                mean = lines.groupby("step")["value"].mean() * scale
                marker = "." if len(mean) < 12 else None
                axis.plot(mean.index, mean, color=tint, marker=marker)
                ends.append((arm, task, mean.iloc[-1]))
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.margins(x=0.02)
            _label_ends(axis, ends, height - 0.65)
        seeds = history["seed"].nunique()
        runs = f"Mean of {seeds} seeds (thin: each seed)" if seeds > 1 else "One seed"
        losses = " Losses on train, in nats a token." if loss.any() else ""
        caption(figure, f"{runs}.{losses}")
    return figure


def _label_ends(axis: Axes, ends: list[tuple[str, str, float]], inches: float) -> None:
    """Names at the ends of lines (arm, task, y), moved apart.

    A line is named by its arm, and by the teacher too where the arm has several.
    """
    named: dict[str, tuple[float, str]] = {}
    for arm, task, y in ends:
        alone = task == "answer" or arm.startswith("dss:")
        named[arm if alone else f"{arm}, {task}".strip(", ")] = (y, color(arm))
    # Neither over the ticks' labels below nor over the title.
    places = spread([y for y, _ in named.values()], text_height(axis, inches), *axis.get_ylim())
    for (name, (_, tint)), place in zip(named.items(), places, strict=True):
        beside(axis, name, place, color=tint)
