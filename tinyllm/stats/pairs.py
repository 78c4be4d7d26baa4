"""Two arms on the same questions: difference, interval, tests; families of tests; power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

from tinyllm.stats.rows import score_matrix, with_arms

SMALLEST = 20  # questions of a group that anything is said of
POWER = 0.8


def paired(
    predictions: pd.DataFrame,
    arm: str,
    baseline: str,
    column: str = "correct",
    confidence: float = 0.95,
) -> dict:
    """`arm` against `baseline` on the same questions: difference, interval, tests.

    predictions: of one study, split and student, on one dataset or several; the difference is then
        the plain mean of the datasets' differences, like the paper's column of means.

    Questions and seeds are samples of those that there might be. A difference by seed and question
    is taken apart as in a two-way analysis of variance, into mean, question, seed and rest; the
    mean has the variance

        Vq + Vs - Vr,   Vq = var(means by question) / n,   Vs = var(means by seed) / S,
                        Vr = var(rest) / (n S), which is part of both Vq and Vs

    (Vq alone where Vs < Vr). Arms of different seeds have a Vs - Vr each. Interval and p are
    Student's with Satterthwaite's degrees of freedom: about S - 1 where the noise is the seeds',
    n - 1 where it is the questions'. With one seed they speak for that one training run only.

    Keys: arm, baseline, n, seeds (of the dataset that has the fewest), accuracy, baseline_accuracy,
    difference, low, high, se, p (two-sided; never below the sign test's of n questions that all
    agree); smallest, the true difference that this test would tell from zero with about 80% power;
    won and lost (questions that only the arm, only the baseline has right by the majority of seeds)
    and mcnemar_p, the exact test on them, which takes the trained students as given.
    """
    both = [
        _both(rows, arm, baseline, column)
        for _, rows in predictions.groupby("dataset", observed=True)
    ]
    mine, others = zip(*both, strict=True)
    won, lost, exact = mcnemar(
        *(np.concatenate([each.mean() > 0.5 for each in side]) for side in (mine, others))
    )
    return {
        "arm": arm,
        "baseline": baseline,
        "n": sum(each.shape[1] for each in mine),
        "seeds": min(map(len, (*mine, *others))),
        "accuracy": float(np.mean([each.to_numpy().mean() for each in mine])),
        "baseline_accuracy": float(np.mean([each.to_numpy().mean() for each in others])),
        **_told(_mean([_gap(*sides) for sides in both]), confidence),
        "won": won,
        "lost": lost,
        "mcnemar_p": exact,
    }


def by_group(
    predictions: pd.DataFrame,
    groups: pd.Series,
    arm: str,
    baseline: str,
    column: str = "correct",
) -> pd.DataFrame:
    """`arm` minus `baseline` within groups of questions, and how far two groups' gains differ.

    predictions: of one study, split and student, on one dataset or several: differences are then
        the plain means of the datasets', as in `paired`. groups: a label by dataset and question
        id; questions without one are left out, and a dataset without a label's questions does not
        count there. Rows are the labels as sorted texts, then `LAST minus FIRST`: the gain on the
        last label's questions over that on the first's, by the same seeds (n is empty; absent where
        no dataset has both).

    Columns: group, n, seeds, baseline_accuracy, difference, low, high (95% interval, as `paired`
    has it), p (two-sided); the last three are empty for groups of fewer than SMALLEST questions, of
    which too little is known.
    """
    pairs = [
        _both(rows, arm, baseline, column)
        for _, rows in predictions.groupby("dataset", observed=True)
    ]
    found: list[dict[str, tuple[pd.DataFrame, pd.DataFrame]]] = []  # by dataset: sides by label
    for ours, theirs in pairs:
        label = groups.reindex(ours.columns).map(str, na_action="ignore")
        chosen = {name: (label == name).to_numpy() for name in label.dropna().unique()}
        found.append({name: (ours.loc[:, at], theirs.loc[:, at]) for name, at in chosen.items()})
    names = sorted(set().union(*found))
    lines = []
    for name in names:
        sides = [each[name] for each in found if name in each]
        gap = _mean([_gap(*both) for both in sides])
        line = {"group": name, "n": gap.n, "seeds": min(len(s) for both in sides for s in both)}
        line["baseline_accuracy"] = float(np.mean([other.to_numpy().mean() for _, other in sides]))
        told = _told(gap) if gap.n >= SMALLEST else {"difference": gap.difference}
        lines.append(line | told)
    ends = [each for each in found if names and {names[0], names[-1]} <= set(each)]
    if len(names) > 1 and ends:
        gap = _mean([_minus(_gap(*each[names[-1]]), _gap(*each[names[0]])) for each in ends])
        seeds = min(len(side) for each in ends for side in each[names[0]])
        line = {"group": f"{names[-1]} minus {names[0]}", "seeds": seeds}
        few = min(lines[0]["n"], lines[-1]["n"]) < SMALLEST
        lines.append(line | ({"difference": gap.difference} if few else _told(gap)))
    columns = ["group", "n", "seeds", "baseline_accuracy", "difference", "low", "high", "p"]
    return pd.DataFrame(lines, columns=columns)


def _both(
    predictions: pd.DataFrame, arm: str, baseline: str, column: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`score_matrix` of two arms, which must have answered the same questions."""
    sides = [predictions[predictions["arm"] == name] for name in (arm, baseline)]
    for name, rows in zip((arm, baseline), sides, strict=True):
        if rows.empty:
            have = ", ".join(sorted(predictions["arm"].unique()))
            raise ValueError(f"column 'arm': there is no {name!r}; there are {have}")
    if sides[0]["student"].iloc[0] != sides[1]["student"].iloc[0]:
        raise ValueError(f"column 'student': {arm!r} and {baseline!r} have different ones")
    ours, theirs = (score_matrix(rows, column) for rows in sides)
    if not ours.columns.equals(theirs.columns):
        odd = ours.columns.symmetric_difference(theirs.columns)[0]
        raise ValueError(f"column 'id': {odd} is scored for only one of {arm!r} and {baseline!r}")
    return ours, theirs


@dataclass(frozen=True)
class _Runs:
    """What training runs add to a difference: values by seed (S,), of which the mean counts.

    rest: the variance that questions give that mean (Vr); freedom: how well it is known.
    """

    by_seed: np.ndarray
    rest: float
    freedom: int


@dataclass(frozen=True)
class _Gap:
    """A difference of two arms on n questions, and what its variance is made of.

    questions: Vq and its degrees of freedom, of each dataset or group. runs: an independent sample
    of training runs each; none for one seed.
    """

    difference: float
    n: int
    questions: tuple[tuple[float, int], ...]
    runs: tuple[_Runs, ...]


def _gap(ours: pd.DataFrame, theirs: pd.DataFrame) -> _Gap:
    """mean(ours) - mean(theirs); both (seeds, questions), of the same questions."""
    sides = [ours.to_numpy(dtype=float), -theirs.to_numpy(dtype=float)]
    if ours.index.equals(theirs.index):
        sides = [sides[0] + sides[1]]
    each = sum(side.mean(axis=0) for side in sides)
    n = len(each)
    # Of one question nothing is known but that scores lie between 0 and 1.
    questions = (each.var(ddof=1) / n, n - 1) if n > 1 else (1.0, 1)
    runs = tuple(_runs(side) for side in sides if len(side) > 1)
    return _Gap(float(each.mean()), n, (questions,), runs)


def _runs(scores: np.ndarray) -> _Runs:
    """Of scores (seeds, questions), at least two seeds."""
    by_seed = scores.mean(axis=1)
    rest = scores - by_seed[:, None] - scores.mean(axis=0) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    return _Runs(by_seed, (rest**2).sum() / max(freedom, 1) / scores.size, max(freedom, 1))


def _mean(gaps: Sequence[_Gap]) -> _Gap:
    """The plain mean of differences on different datasets, whose runs are independent."""
    share = 1 / len(gaps)
    return _Gap(
        share * sum(gap.difference for gap in gaps),
        sum(gap.n for gap in gaps),
        tuple((share**2 * part, free) for gap in gaps for part, free in gap.questions),
        tuple(
            _Runs(share * each.by_seed, share**2 * each.rest, each.freedom)
            for gap in gaps
            for each in gap.runs
        ),
    )


def _minus(one: _Gap, other: _Gap) -> _Gap:
    """The difference of differences on other questions by the same runs."""
    runs = tuple(
        _Runs(a.by_seed - b.by_seed, a.rest + b.rest, a.freedom + b.freedom)
        for a, b in zip(one.runs, other.runs, strict=True)
    )
    questions = one.questions + other.questions
    return _Gap(one.difference - other.difference, one.n + other.n, questions, runs)


def _told(gap: _Gap, confidence: float = 0.95) -> dict[str, float]:
    """difference, low, high, se, p and smallest of a difference, see `paired`."""
    variance = sum(part for part, _ in gap.questions)
    known = sum(part**2 / free for part, free in gap.questions)
    for each in gap.runs:
        seeds = len(each.by_seed)
        if (part := each.by_seed.var(ddof=1) / seeds) > each.rest:
            variance += part - each.rest
            known += part**2 / (seeds - 1) + each.rest**2 / each.freedom
    se, p = np.sqrt(variance), float(abs(gap.difference) < 1e-12)
    half = smallest = 0.0
    if variance > 1e-20:  # else all questions agree
        student = distributions.t(variance**2 / known)
        half, power = se * student.ppf([(1 + confidence) / 2, POWER])
        p, smallest = 2 * student.sf(abs(gap.difference) / se), half + power
    numbers = {
        **{"difference": gap.difference, "low": gap.difference - half},
        **{"high": gap.difference + half, "se": se, "smallest": smallest},
        "p": max(p, min(1.0, 2.0 ** (1 - gap.n))),
    }
    return {name: float(value) for name, value in numbers.items()}


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[int, int, float]:
    """Exact McNemar test on answers to the same questions: (only ours right, only theirs, p)."""
    ours, theirs = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    won, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    if won + lost == 0:
        return 0, 0, 1.0
    return won, lost, float(distributions.binomtest(won, won + lost).pvalue)


def compare(
    predictions: pd.DataFrame,
    baseline: str = "finetune",
    column: str = "correct",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Every arm against `baseline` within each study, dataset and student, as `paired` has it.

    Adds p_holm, Holm's correction over all rows returned (the family shown), and significant
    (p_holm < 1 - confidence). Raises ValueError where a group has no baseline.
    """
    lines = []
    for key, rows in predictions.groupby(["study", "dataset", "student"], sort=False):
        for arm in rows["arm"].unique():
            if arm != baseline:
                line = paired(rows, arm, baseline, column, confidence)
                lines.append(
                    {**dict(zip(["study", "dataset", "student"], key, strict=True)), **line}
                )
    table = pd.DataFrame(lines)
    if table.empty:
        raise ValueError(f"column 'arm': there is nothing beside {baseline!r} to compare with it")
    return holm(table, 1 - confidence)


def compare_means(predictions: pd.DataFrame, baseline: str = "finetune") -> pd.DataFrame:
    """Every arm against `baseline` over all datasets of a study and student that have both.

    As `paired` has it (the plain mean of the datasets' differences), with `datasets` (how many
    count) and p_holm, significant, over these arms. Index: arm. Empty where no dataset has the
    baseline and another arm.
    """
    lines = []
    for arm in predictions["arm"].unique():
        rows = with_arms(predictions, arm, baseline)
        if arm != baseline and len(rows):
            lines.append({"datasets": rows["dataset"].nunique(), **paired(rows, arm, baseline)})
    return holm(pd.DataFrame(lines)).set_index("arm") if lines else pd.DataFrame()


def ablations(predictions: pd.DataFrame) -> pd.DataFrame:
    """Fine-tuning, each single teacher and every variant of `tinyllm`, minus `tinyllm` itself.

    As `compare`, over the groups that have `tinyllm` and something to compare it with; empty where
    none has. Arms with adapters differ in more than one part and are left out.
    """
    arms = predictions["arm"]
    rows = predictions[
        (arms.eq("finetune") | arms.str.startswith(("dss:", "tinyllm")))
        & ~arms.str.contains("+lora", regex=False)
    ]
    kept = [
        part
        for _, part in rows.groupby(["study", "dataset", "student"], sort=False)
        if {"tinyllm"} < set(part["arm"])
    ]
    return compare(pd.concat(kept), "tinyllm") if kept else pd.DataFrame()


def holm(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The table with p_holm (Holm's correction of column p) and significant (p_holm < alpha)."""
    corrected = multipletests(table["p"], method="holm")[1]
    return table.assign(p_holm=corrected, significant=corrected < alpha)
