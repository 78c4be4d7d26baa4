"""The pipeline as a drawn diagram."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tinyllm.figures.style import (
    INK,
    PAGE,
    STYLE,
    TEACHER_COLORS,
    Drawing,
    caption,
    color,
)


def pipeline() -> Figure:
    """The study as a diagram: questions, teachers' rationales, one student, evaluation."""
    first, last = TEACHER_COLORS["a"], TEACHER_COLORS["b"]
    boxes = (  # left, bottom, width, height; title, lines, colour of the frame
        (0, 23, 17, 15, "Questions", "train, valid, test\noptions, gold answer", INK),
        (23, 23, 19, 15, "Teacher prompt", "2 solved examples,\nquestion, gold answer", INK),
        (48, 32.5, 17, 8.5, "Teacher 1", "", first),
        (48, 20, 17, 8.5, "Teacher m", "", last),
        (71, 23, 19, 15, "Rationales", "written once a teacher,\nchecked, stored", INK),
        (30, 1, 35, 13.5, "Student, one task a prefix", "", color("tinyllm")),
        (71, 1, 19, 13.5, "Evaluation", "answers directly;\nintervals, paired tests", INK),
    )
    arrows = (  # from x, y, to x, y
        (17, 30.5, 23, 30.5),
        (42, 32, 48, 36.7),
        (42, 29, 48, 24.3),
        (65, 36.7, 71, 32),
        (65, 24.3, 71, 29),
        (65, 7.7, 71, 7.7),
    )
    with mpl.rc_context(STYLE):
        figure = Drawing(figsize=(PAGE, 3.1), layout="constrained")
        axis = figure.subplots()
        axis.set_xlim(-0.5, 90.5)
        axis.set_ylim(-4, 42)
        axis.axis("off")
        for left, bottom, width, height, title, lines, frame in boxes:
            axis.add_patch(
                FancyBboxPatch(
                    (left + 0.8, bottom + 0.8),
                    width - 1.6,
                    height - 1.6,
                    boxstyle="round,pad=0.8,rounding_size=1.2",
                    facecolor="white",
                    edgecolor=frame,
                    linewidth=1.1,
                )
            )
            middle = left + width / 2
            top = bottom + height - 3.2 if lines or height > 10 else bottom + height / 2
            axis.text(middle, top, title, ha="center", va="center", weight="bold", size=8)
            axis.text(middle, top - 5.8, lines, ha="center", va="center", linespacing=1.35)
        axis.text(56.5, 30.7, "\u22ee", ha="center", va="center", size=10)
        for x, y, to_x, to_y in arrows:
            _arrow(axis, [(x, y), (to_x, to_y)])
        _arrow(axis, [(80.5, 23), (80.5, 17.6), (56, 17.6), (56, 14.5)])
        axis.text(69, 18.1, "targets: rationales", ha="center", va="bottom")
        _arrow(axis, [(11.5, 23), (11.5, 7.7), (30, 7.7)])
        axis.text(20.5, 8.3, "targets: answers", ha="center", va="bottom")
        _arrow(axis, [(5, 23), (5, -2.6), (80.5, -2.6), (80.5, 1)])
        axis.text(20.5, -2.1, "test questions, unseen", ha="center", va="bottom")
        tasks = (
            ("predict:", "answer", color("finetune"), r"$L_A$"),
            ("explain:", "rationale of teacher 1", first, r"$\alpha_1 L_{T_1}$"),
            ("rationale:", "rationale of teacher m", last, r"$\alpha_m L_{T_m}$"),
        )
        for row, (prefix, target, shade, loss) in enumerate(tasks):
            height = 8.7 - 2.9 * row
            axis.text(31.5, height, prefix, va="center", family="DejaVu Sans Mono", size=7)
            axis.text(40.3, height, target, va="center", color=shade, size=7, weight="bold")
            axis.text(63.7, height, loss, va="center", ha="right", size=7.5)
        caption(
            figure,
            "Rationales are a training signal only: at test time the student answers with the "
            "prefix of the answer task. Arms differ in which targets the student sees: answers "
            "alone (finetune), one teacher (dss), all teachers (tinyllm), or rationales of other "
            "questions (tinyllm:shuffled).",
        )
    return figure


def _arrow(axis: Axes, corners: list[tuple[float, float]]) -> None:
    """A line along the corners, with an arrow's head at the last."""
    xs, ys = zip(*corners[:-1], strict=True)
    axis.plot(xs, ys, color=INK, linewidth=1, solid_capstyle="butt", zorder=0)
    axis.add_patch(
        FancyArrowPatch(
            corners[-2],
            corners[-1],
            arrowstyle="-|>",
            mutation_scale=8,
            color=INK,
            linewidth=1,
            shrinkA=0,
            shrinkB=0.5,
            zorder=0,
        )
    )
