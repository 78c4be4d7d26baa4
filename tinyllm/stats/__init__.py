"""What predictions say and how surely: intervals, paired tests, calibration, baselines.

    rows         the columns of predictions, a row a question; broken input
    arm          one arm: accuracy, Wilson's interval, chance and majority
    calibration  one arm: macro-F1, confusion, reliability, ECE
    pairs        two arms on the same questions: difference, interval, McNemar, Holm, power

Every function takes predictions (columns: `rows.SCHEMA`) and gives a data frame. Accuracies and
differences are fractions of 1. Questions and seeds are what varies by chance; which of them an
interval covers stands in each docstring. Nothing here imports torch.
"""

from tinyllm.stats.arm import (
    accuracy,
    chance_and_majority,
    results,
    same_options,
    teacher_accuracy,
    wilson,
)
from tinyllm.stats.calibration import confidences, confusion, ece, macro_f1, reliability
from tinyllm.stats.pairs import (
    SMALLEST,
    ablations,
    by_group,
    compare,
    compare_means,
    holm,
    mcnemar,
    paired,
)
from tinyllm.stats.rows import GROUP, RUN, SCHEMA, check, score_matrix, with_arms

__all__ = [
    "GROUP",
    "RUN",
    "SCHEMA",
    "SMALLEST",
    "ablations",
    "accuracy",
    "by_group",
    "chance_and_majority",
    "check",
    "compare",
    "compare_means",
    "confidences",
    "confusion",
    "ece",
    "holm",
    "macro_f1",
    "mcnemar",
    "paired",
    "reliability",
    "results",
    "same_options",
    "score_matrix",
    "teacher_accuracy",
    "wilson",
    "with_arms",
]
