"""Every figure: a function of data frames that gives a matplotlib Figure; `save` writes it.

    style       house style, and the parts that figures are built of
    questions   the questions: balance of the options, lengths
    arms        one study: accuracy of its arms, paired differences, ablation, learning curves,
                gains by what the rationales argue for
    confidence  one study: calibration, confusion of classes
    curves      several studies: accuracy against alpha, questions, teachers, size, computing
    printed     the paper's published numbers, alone and beside this study's
    diagram     the pipeline

Nothing here imports torch, so figures are redrawn from stored numbers in seconds.
"""

from tinyllm.figures.arms import (
    ablation,
    gains_by_verdict,
    learning_curves,
    main_results,
    paired_differences,
)
from tinyllm.figures.confidence import calibration, calibration_bins, confusion
from tinyllm.figures.curves import AXES, accuracy_against
from tinyllm.figures.diagram import pipeline
from tinyllm.figures.printed import (
    published_and_measured,
    published_gains,
    published_table,
)
from tinyllm.figures.questions import length_counts, length_histograms, option_balance
from tinyllm.figures.style import (
    ARM_COLORS,
    COLUMN,
    METRICS,
    PAGE,
    STYLE,
    Drawing,
    arm_name,
    color,
    dataset_name,
    in_order,
    save,
)

__all__ = [
    "ARM_COLORS",
    "AXES",
    "COLUMN",
    "METRICS",
    "PAGE",
    "STYLE",
    "Drawing",
    "ablation",
    "accuracy_against",
    "arm_name",
    "calibration",
    "calibration_bins",
    "color",
    "confusion",
    "dataset_name",
    "gains_by_verdict",
    "in_order",
    "learning_curves",
    "length_counts",
    "length_histograms",
    "main_results",
    "option_balance",
    "paired_differences",
    "pipeline",
    "published_and_measured",
    "published_gains",
    "published_table",
    "save",
]
