"""Correct answers as a table of seeds and questions; intervals for few questions.

Functions take predictions (columns: `students.predictions.SCHEMA`). Accuracies are fractions of 1.
"""

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from tinyllm.students.predictions import DIGITS, TIES

ROUNDING = 2 * 10**-DIGITS  # stored scores of tied options may differ by this much


def credit(rows: pd.DataFrame, column: str = "correct") -> pd.Series:
    """How much each answer counts: 1 if correct, 0 if wrong.

    column: correct (highest option score), exact (exact match) or extracted (option named in text).
    If k options share the best score (column `ties`), the choice among them is arbitrary: the
    answer counts 1 / k if the gold option is one of them, whichever was chosen.
    """
    value = rows[column].astype(float)
    if column == "correct" and TIES in rows:
        tied = rows[TIES] > 1
        pairs = zip(rows.loc[tied, "scores"], rows.loc[tied, "gold"], strict=True)
        best = [scores[gold] >= max(scores) - ROUNDING for scores, gold in pairs]
        value[tied] = np.array(best, dtype=float) / rows.loc[tied, TIES]
    return value


def matrix(rows: pd.DataFrame, column: str = "correct") -> pd.DataFrame:
    """One arm's `credit` on one dataset as a table: one row per seed, one column per question id.

    Raises ValueError if rows should not be averaged: several studies, datasets, splits, arms or
    students, a repeated question, or a question without an answer from one of the seeds.
    """
    for name in ("study", "dataset", "split", "arm", "student"):
        values = sorted(map(str, rows[name].unique()))
        if len(values) != 1:
            raise ValueError(f"column {name!r}: one value at a time, not {values}; group by it")
    table = rows[["seed", "id"]].assign(credit=credit(rows, column))
    wide = table.pivot(index="seed", columns="id", values="credit").sort_index(axis=1)
    if lacking := list(wide.columns[wide.isna().any()]):
        raise ValueError(f"column {column!r}: a seed has no answer to {lacking[0]!r}")
    return wide


def wilson(k: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval for k of n; k may be fractional (a mean count)."""
    low, high = proportion_confint(k, n, method="wilson")
    return min(float(low), k / n), max(float(high), k / n)  # despite rounding, contain k / n


def bayesian(gap: np.ndarray, draws: int = 20_000) -> tuple[float, float]:
    """95% credible interval of a mean difference over questions; gap: [seeds, questions].

    Covers questions only, for these trained students. The shares of the values that a question's
    mean over seeds can take have a Dirichlet posterior (Jeffreys' prior, which weighs as much as
    seeds + 0.5 questions and pulls towards 0). Notebook 04 explains it.
    """
    seen = gap.mean(axis=0).round(6)  # where options tie, a question counts in part
    possible = np.linspace(-1, 1, 2 * len(gap) + 1).round(6)
    values, counts = np.unique(np.concatenate([seen, possible]), return_counts=True)
    counts = counts - np.isin(values, possible)
    shares = np.random.default_rng(0).dirichlet(counts + 0.5, draws)
    low, high = np.quantile(shares @ values, [0.025, 0.975])
    return float(low), float(high)
