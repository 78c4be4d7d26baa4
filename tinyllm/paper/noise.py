"""What the published numbers can bear: gains against the noise of the choice of questions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats as distributions
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from tinyllm import stats
from tinyllm.paper.printed import (
    BASELINE,
    DATASETS,
    OURS,
    SIZES,
    TEACHERS,
    cell,
    datasets,
    parameters,
    whole_table,
)


def gains(confidence: float = 0.95, alpha: float = 0.05) -> pd.DataFrame:
    """TinyLLM against full fine-tuning as published, a row a size and dataset.

    Columns: size, dataset, n, accuracy, low, high, baseline, baseline_low, baseline_high (Wilson),
    questions (so many more answered right), gain (difference), relative (gain / baseline),
    gain_low, gain_high (Wald), noise (its half-width: without any true gain, chance exceeds it in 1
    of 20 cases), z and p (unpaired, unpooled), needed (questions that it would take to tell a gain
    of this size with 80% power), significant (p < alpha), p_holm and significant_holm (Holm over
    all rows).
    """
    lines = []
    for size in SIZES:
        for dataset in DATASETS:
            mine, other = cell(size, OURS, dataset), cell(size, BASELINE, dataset)
            n = int(mine["n"])
            lines.append(
                {
                    "size": size,
                    "dataset": dataset,
                    "n": n,
                    "accuracy": mine["accuracy"],
                    "low": mine["low"],
                    "high": mine["high"],
                    "baseline": other["accuracy"],
                    "baseline_low": other["low"],
                    "baseline_high": other["high"],
                    "questions": int(mine["k"] - other["k"]),
                    **_unpaired(int(mine["k"]), int(other["k"]), n, confidence),
                }
            )
    table = stats.holm(pd.DataFrame(lines), alpha).rename(columns={"significant": "holm"})
    table["significant"], table["significant_holm"] = table["p"] < alpha, table.pop("holm")
    return table


def _unpaired(k: int, k_baseline: int, n: int, confidence: float) -> dict:
    """Two counts of right answers among n questions each: statsmodels' Wald test and interval."""
    test = test_proportions_2indep(k, n, k_baseline, n, method="wald", compare="diff")
    low, high = confint_proportions_2indep(
        k, n, k_baseline, n, method="wald", compare="diff", alpha=1 - confidence
    )
    gain = (k - k_baseline) / n
    noise = (high - low) / 2
    return {
        "gain": gain,
        "relative": gain / (k_baseline / n),
        "gain_low": low,
        "gain_high": high,
        "noise": noise,
        "z": float(test.statistic),
        "p": float(test.pvalue),
        "needed": needed(gain, noise / distributions.norm.ppf((1 + confidence) / 2), n),
    }


def needed(difference: float, se: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Questions that it would take to tell `difference`, if its error falls with sqrt(n)."""
    if difference == 0:
        return math.inf
    z = distributions.norm.ppf([1 - alpha / 2, power]).sum()
    return math.ceil(n * (z * se / difference) ** 2)


def mean_gain(
    size: str, method: str, baseline_size: str, baseline: str, confidence: float = 0.95
) -> dict:
    """Difference of two rows of Table 1 in their mean over the data sets, from k / n, not rounded.

    Keys: accuracy, baseline, gain, low, high (normal), se, relative, n (test questions in all),
    needed. The interval covers the choice of test questions alone.
    """
    pairs = [(cell(size, method, d), cell(baseline_size, baseline, d)) for d in DATASETS]
    mine, other = np.mean([[a["accuracy"], b["accuracy"]] for a, b in pairs], axis=0)
    variance = sum(
        x["accuracy"] * (1 - x["accuracy"]) / int(x["n"]) for pair in pairs for x in pair
    )
    se, gain = math.sqrt(variance) / len(pairs), float(mine - other)
    z = distributions.norm.ppf((1 + confidence) / 2)
    n = sum(int(a["n"]) for a, _ in pairs)
    return {
        "accuracy": float(mine),
        "baseline": float(other),
        "gain": gain,
        "se": se,
        "low": gain - z * se,
        "high": gain + z * se,
        "relative": gain / float(other),
        "n": n,
        "needed": needed(gain, se, n),
    }


def sizes() -> pd.DataFrame:
    """Table 1 by the student's size, as points of `figures.accuracy_against`.

    A row a size, method and dataset, and one for the mean over the datasets ("mean"). Columns:
    dataset, student, arm (the method, or `teacher:NAME`), parameters (as the paper rounds them), n,
    seeds (1), estimate, low, high (Wilson; of the mean normal, over the choice of test questions),
    chance, majority.
    """
    table, facts = whole_table(False), datasets().set_index("dataset")
    base = facts[["chance", "majority"]]
    cells = table.join(base, on="dataset").rename(columns={"accuracy": "estimate"})
    means = []
    for (size, method), rows in cells.groupby(["size", "method"], sort=False):
        found = mean_gain(size, method, size, method)
        half = distributions.norm.ppf(0.975) * found["se"] / math.sqrt(2)
        mean = found["accuracy"]
        means.append(
            {
                **{"size": size, "method": method, "dataset": "mean", "n": found["n"]},
                **{"estimate": mean, "low": mean - half, "high": mean + half},
                **rows[["chance", "majority"]].mean().to_dict(),
            }
        )
    cells = pd.concat([pd.DataFrame(means), cells], ignore_index=True)
    teacher = cells["method"].isin(TEACHERS.values())
    name = cells["method"].str.removesuffix(" (teacher)")
    cells["arm"] = cells["method"].where(~teacher, "teacher:" + name)
    cells["parameters"] = cells["size"].map(parameters)
    columns = "dataset student arm parameters n seeds estimate low high chance majority"
    return cells.assign(student="FLAN-T5", seeds=1)[columns.split()]
