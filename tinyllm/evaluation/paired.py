"""Accuracies and differences of arms, with intervals over questions and seeds, and verdicts.

Questions and seeds are samples from a larger population. The differences by seed and question are
decomposed, as in a two-way analysis of variance, into mean, question effects, seed effects and
residuals. The variance of the mean is

    Vq + Vs - Vr,   Vq = var(means by question) / n,   Vs = var(means by seed) / S,
                    Vr = var(residuals) / (n S), which is part of both Vq and Vs

(only Vq if Vs < Vr). Arms with different seeds add a Vs - Vr each. Intervals and tests use
Student's t with Satterthwaite's degrees of freedom. With one seed, they only apply to that training
run. Accuracies and differences are fractions of 1.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from tinyllm.evaluation.accuracy import matrix, wilson

MARGIN = 0.025  # of the equivalence test; chosen after the first three datasets of laptop
LEVEL, POWER, CONFIDENCE = 0.05, 0.8, 0.95
BASELINE, OURS = "finetune", "tinyllm"


class Estimate(NamedTuple):
    """A mean over n questions, its variance, and the sum of variance ** 2 / df over its parts."""

    value: float
    n: int
    variance: float
    parts: float


def estimate(*sides: pd.DataFrame) -> Estimate:
    """The mean of the sum of tables [seeds, questions]; tables with the same seeds are paired."""
    tables = [side.to_numpy(dtype=float) for side in sides]
    if all(side.index.equals(sides[0].index) for side in sides):
        tables = [np.sum(tables, axis=0)]
    by_question = np.sum([table.mean(axis=0) for table in tables], axis=0)
    n = len(by_question)
    # With one question, the variance is only known to be at most 1, as differences are in [-1, 1].
    variance = by_question.var(ddof=1) / n if n > 1 else 1.0
    parts = variance**2 / max(n - 1, 1)
    for table in tables:
        seeds = len(table)
        if seeds > 1:
            by_seed = table.mean(axis=1)
            residuals = table - by_seed[:, None] - table.mean(axis=0) + table.mean()
            df = max((seeds - 1) * (n - 1), 1)
            vs, vr = by_seed.var(ddof=1) / seeds, (residuals**2).sum() / df / table.size
            if vs > vr:
                variance += vs - vr
                parts += vs**2 / (seeds - 1) + vr**2 / df
    return Estimate(float(by_question.mean()), n, variance, parts)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean over datasets, whose questions and training runs are independent."""
    value, n, variance, parts = np.sum(estimates, axis=0)
    count = len(estimates)
    return Estimate(value / count, int(n), variance / count**2, parts / count**4)


def interval(one: Estimate) -> dict[str, float]:
    """low, high (95%), se, df, p (two-sided) and smallest (see `paired`) of an estimate."""
    se, df, half, smallest = np.sqrt(one.variance), np.inf, 0.0, 0.0
    p = float(abs(one.value) < 1e-12)
    if one.variance > 1e-20:  # else all questions agree
        df = one.variance**2 / one.parts
        half, power = se * stats.t(df).ppf([(1 + CONFIDENCE) / 2, POWER])
        p, smallest = 2 * stats.t(df).sf(abs(one.value) / se), half + power
    low, high = max(one.value - half, -1.0), min(one.value + half, 1.0)  # ±100 points
    line = {"low": low, "high": high, "se": se, "df": df}
    line |= {"p": max(p, min(1.0, 2.0 ** (1 - one.n))), "smallest": smallest}
    return {name: float(value) for name, value in line.items()}


def mean_interval(rows: pd.DataFrame, column: str = "correct") -> dict:
    """One arm's accuracy with its 95% interval over questions and seeds.

    rows: predictions of one study, arm and student; several datasets are averaged.
    column: see `accuracy.credit`.
    Keys: estimate, low, high, se, df, n, seeds, by_seed (each seed's accuracy).
    """
    tables = [matrix(part, column) for _, part in rows.groupby("dataset", observed=True)]
    whole = mean([estimate(table) for table in tables])
    line = interval(whole)
    low, high = max(line["low"], 0.0), min(line["high"], 1.0)
    if line["se"] == 0:  # every answer right, or every answer wrong
        low, high = wilson(whole.value * whole.n, whole.n)
    line = {"estimate": whole.value, "low": low, "high": high, "se": line["se"], "df": line["df"]}
    return line | {"n": whole.n, "seeds": min(map(len, tables)), "by_seed": _by_seed(tables)}


def accuracies(rows: pd.DataFrame, column: str = "correct") -> pd.DataFrame:
    """`mean_interval` of each study, dataset, student and arm, one row each."""
    by = ["study", "dataset", "student", "arm"]
    groups = rows.groupby(by, sort=False, observed=True)
    lines = [dict(zip(by, key, strict=True)) | mean_interval(part, column) for key, part in groups]
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=by)


def _by_seed(tables: list[pd.DataFrame]) -> list[float]:
    """Means by seed if all tables have the same seeds, else an empty list."""
    same = all(table.index.equals(tables[0].index) for table in tables)
    return np.mean([table.mean(axis=1) for table in tables], axis=0).tolist() if same else []


def paired(rows: pd.DataFrame, arm: str, baseline: str, column: str = "correct") -> dict:
    """`arm` minus `baseline` on the same questions.

    rows: predictions of one student; the differences on several datasets are averaged with equal
        weights, like the paper's column of means.
    Keys: arm, baseline, n, seeds (of the dataset that has the fewest), accuracy, baseline_accuracy,
    difference, low, high, se, df, p (two-sided; never below that of a sign test in which all n
    questions agree); smallest, the true difference that this test detects with 80% power; by_seed
    (each seed's difference, if both arms have the same seeds).
    Raises ValueError if an arm is missing, or if they answered different questions.
    """
    tables = _tables(rows[rows["arm"].isin([arm, baseline])], column)
    ours, theirs = tables.get(arm, {}), tables.get(baseline, {})
    if not ours or ours.keys() != theirs.keys():
        known = {arm: list(ours), baseline: list(theirs)}
        raise ValueError(f"column 'arm': both arms are needed on the same datasets, not {known}")
    return {"arm": arm, "baseline": baseline} | _difference(ours, theirs)


def _tables(rows: pd.DataFrame, column: str) -> dict[str, dict[str, pd.DataFrame]]:
    """`matrix` of each arm and dataset, by arm, then by dataset."""
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    for (arm, dataset), part in rows.groupby(["arm", "dataset"], observed=True):
        tables.setdefault(arm, {})[dataset] = matrix(part, column)
    return tables


def _difference(ours: Mapping, theirs: Mapping) -> dict:
    """The keys of `paired` from n on; tables of two arms on the same datasets, by dataset."""
    both = [(ours[dataset], theirs[dataset]) for dataset in ours]
    for mine, other in both:
        if len(unpaired := mine.columns.symmetric_difference(other.columns)):
            raise ValueError(f"column 'id': {unpaired[0]!r} is scored for only one of the arms")
    whole = mean([estimate(mine, -other) for mine, other in both])
    gaps = [mine - other for mine, other in both if mine.index.equals(other.index)]
    means = [np.mean([t.to_numpy().mean() for t in side.values()]) for side in (ours, theirs)]
    return {
        "n": whole.n,
        "seeds": min(len(table) for pair in both for table in pair),
        **{"accuracy": float(means[0]), "baseline_accuracy": float(means[1])},
        **{"difference": whole.value, **interval(whole)},
        "by_seed": _by_seed(gaps) if len(gaps) == len(both) else [],
    }


def singles(arms: Sequence[str]) -> list[str]:
    """The arms that learn from one teacher (`dss:...`), without LoRA and without extra epochs."""
    changed = re.compile(r".*(\+lora.*|:x\d+)")
    return [arm for arm in arms if arm.startswith("dss:") and not changed.fullmatch(arm)]


def comparisons(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs to compare: each arm with fine-tuning, TinyLLM with single teachers and its variants.

    With a single teacher, its arm takes the place of TinyLLM. Arms that choose or weight teachers
    are also compared with each single teacher, and a choice with the random choice trained for as
    many epochs.
    """
    alone = singles(arms)
    ours = alone[0] if OURS not in arms and len(alone) == 1 else OURS
    pairs = [(arm, BASELINE) for arm in arms if arm != BASELINE and BASELINE in arms]
    parts = [arm for arm in arms if arm.startswith((f"{OURS}:", f"{OURS}-")) and "+lora" not in arm]
    pairs += [(ours, arm) for arm in (*alone, *parts) if ours in arms and arm != ours]
    for arm in parts:
        if arm.startswith((f"{OURS}:routed", f"{OURS}:alpha")):
            pairs += [(arm, single) for single in alone]
        drawn = re.sub("routed-(similar|quality)", "routed-random", arm)
        pairs += [(arm, drawn)] if drawn != arm and drawn in arms else []
    return pairs


def with_arms(rows: pd.DataFrame, *arms: str) -> pd.DataFrame:
    """The rows of the datasets that have all of these arms."""
    present = rows[["dataset", "arm"]].drop_duplicates().groupby("dataset", observed=True)["arm"]
    complete = [dataset for dataset, names in present if set(arms) <= set(names)]
    return rows[rows["dataset"].isin(complete)]


def compare(predictions: pd.DataFrame, column: str = "correct") -> pd.DataFrame:
    """Every comparison of each study and student, on each dataset and on the mean over datasets.

    Columns: study, student, dataset, datasets (number), those of `paired`, p_holm, verdict. The
    mean (dataset "mean") is over the datasets that have both arms, if there are several. Holm's
    family is all comparisons on one dataset, or on the mean.
    """
    tables = []
    for (study, student), rows in predictions.groupby(["study", "student"], sort=False):
        known = _tables(rows, column)
        for dataset, part in [*rows.groupby("dataset", sort=False), ("mean", rows)]:
            names, lines = {"study": study, "student": student, "dataset": dataset}, []
            present = set(part["dataset"])
            for pair in comparisons(part["arm"].unique()):
                both = present.intersection(*(known[arm] for arm in pair))
                if len(both) > (dataset == "mean"):  # a mean needs at least two datasets
                    sides = ({d: known[arm][d] for d in sorted(both)} for arm in pair)
                    line = names | {"datasets": len(both), "arm": pair[0], "baseline": pair[1]}
                    lines.append(line | _difference(*sides))
            tables += [holm(pd.DataFrame(lines))] if lines else []
    names = ["study", "student", "dataset", "arm", "baseline", "verdict"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)


def holm(table: pd.DataFrame) -> pd.DataFrame:
    """The table with p_holm (Holm's correction of column p over its rows) and `verdict`."""
    p = table["p"].sort_values()  # statsmodels' function collects garbage: 0.1 s at each call
    table = table.assign(p_holm=(p * range(len(p), 0, -1)).cummax().clip(upper=1))
    return table.assign(verdict=[verdict(row) for row in table.to_dict("records")])


def equivalence(row: Mapping, margin: float = MARGIN) -> float:
    """p of two one-sided tests that the true difference of a row lies within +-margin.

    p < 0.05 means that the 90% interval lies within the margin.
    Never below (1 - margin) ** n: arms that differ by the margin disagree on at least that share of
    the questions, so agreement on a few questions does not show equivalence.
    """
    room = margin - abs(row["difference"])
    p = float(room <= 0) if row["se"] == 0 else stats.t(row["df"]).sf(room / row["se"])
    return float(max(p, (1 - margin) ** row["n"]))


def verdict(row: Mapping | None, margin: float = MARGIN) -> str:
    """The verdict on a row of `paired` or `compare`.

    better, worse: p below 5%, after Holm's correction if the row has it. equivalent: otherwise, if
    `equivalence` is below 5%. inconclusive: neither, or only one seed, since that interval does not
    include training noise. not tested: no data.
    """
    if row is None or pd.isna(row["p"]):
        return "not tested"
    if row["seeds"] < 2:
        return "inconclusive"
    if row.get("p_holm", row["p"]) < LEVEL:
        return "better" if row["difference"] > 0 else "worse"
    return "equivalent" if equivalence(row, margin) < LEVEL else "inconclusive"
