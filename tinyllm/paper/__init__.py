"""The published numbers, what they can bear, and this study's numbers beside them.

The numbers are data in `published/`: Table 1 of v1 (arXiv 2402.04616v1), the release's test sets,
the claims. Nothing else is known of the paper's results: one run a cell, no seeds, no answers by
question. So the only noise that can be reckoned is the choice of test questions. Two arms are
compared as if they had answered different ones (unpaired): their answers to the same questions,
which would make the test sharper, are not published, nor is the spread of training runs, which
would make it blunter.

Accuracies, differences and relative gains are fractions of 1.

    printed   the numbers as printed, and the release's data sets
    noise     gains against the noise of the choice of test questions
    beside    published beside measured
    verdicts  the ledger of claims
"""

from tinyllm.paper.beside import compare, student_size
from tinyllm.paper.noise import gains, mean_gain, sizes
from tinyllm.paper.printed import (
    ARM_METHODS,
    BASELINE,
    DATASETS,
    METHODS,
    OURS,
    SIZES,
    STUDENT_SIZES,
    TEACHERS,
    datasets,
    table1,
)
from tinyllm.paper.verdicts import FAILS, HOLDS, OPEN, claims, ledger

__all__ = [
    "ARM_METHODS",
    "BASELINE",
    "DATASETS",
    "FAILS",
    "HOLDS",
    "METHODS",
    "OPEN",
    "OURS",
    "SIZES",
    "STUDENT_SIZES",
    "TEACHERS",
    "claims",
    "compare",
    "datasets",
    "gains",
    "ledger",
    "mean_gain",
    "sizes",
    "student_size",
    "table1",
]
