"""Two arms on the same questions: difference, interval, tests; families of tests; power."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

from tinyllm.stats.draws import question_weights
from tinyllm.stats.rows import score_matrix

SMALLEST = 20  # questions of a group that a bootstrap can say something of
RESAMPLES = 4_000  # a standard error within 1%; the least p, 2 / 4001, outlives Holm over dozens
POWER = 0.8


def paired(
    predictions: pd.DataFrame,
    arm: str,
    baseline: str,
    column: str = "correct",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`arm` against `baseline` on the same questions: difference, interval, tests.

    predictions: of one study, split and student, on one dataset or several; the difference is then
        the plain mean of the datasets' differences, like the paper's column of means.

    The standard error comes from a two-level bootstrap: questions are drawn anew within each
    dataset, and seeds too where there are several, their weights widened by sqrt(S / (S - 1)) so
    that few seeds do not make the spread look smaller than it is (Rao and Wu 1988). Arms with the
    same seeds are drawn together. Interval and p are Student's, since a spread of three seeds is
    hardly known: with Satterthwaite's degrees of freedom, S - 1 where all noise is the seeds',
    n - 1 where all is the questions' (percentiles of the draws cover 80 to 90% where seeds
    matter). With one seed the interval speaks for that one training run only.

    Keys: arm, baseline, n, seeds (of the dataset that has the fewest), accuracy, baseline_accuracy,
    difference, low, high, se, p (two-sided); smallest, the true difference that this test would
    tell from zero with 80% power; won and lost (questions that only the arm, only the baseline has
    right by the majority of seeds) and mcnemar_p, the exact test on them, which takes the trained
    students as given.
    """
    names = sorted(predictions["dataset"].unique())
    both = [
        _both(predictions[predictions["dataset"] == name], arm, baseline, column) for name in names
    ]
    gaps = [
        _gap(*sides, resamples, (seed, _stream(name)))
        for name, sides in zip(names, both, strict=True)
    ]
    found = _told(_mean(gaps), confidence)
    left, right = (
        np.mean([side.to_numpy().mean() for side in sides]) for sides in zip(*both, strict=True)
    )
    majorities = [
        np.concatenate([side.mean() > 0.5 for side in sides]) for sides in zip(*both, strict=True)
    ]
    won, lost, exact = mcnemar(*majorities)
    return {
        "arm": arm,
        "baseline": baseline,
        "n": sum(ours.shape[1] for ours, _ in both),
        "seeds": min(len(side) for sides in both for side in sides),
        "accuracy": float(left),
        "baseline_accuracy": float(right),
        **found,
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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """`arm` minus `baseline` within groups of questions, and how far two groups' gains differ.

    predictions: of one study, dataset, split and student. groups: a label by question id; questions
        without one are left out. Rows are the labels as sorted texts, then `LAST minus FIRST`: the
        gain on the last label's questions over that on the first's, in which seeds are drawn
        together (n is empty; absent where there is one label).

    Columns: group, n, seeds, baseline_accuracy, difference, low, high (95% interval, as `paired`
    has it), p (two-sided); the last three are empty for groups of fewer than SMALLEST questions, of
    which a bootstrap knows too little.
    """
    ours, theirs = _both(predictions, arm, baseline, column)
    label = groups.reindex(ours.columns.get_level_values("id")).map(str, na_action="ignore")
    lines, gaps = [], []
    for name in sorted(label.dropna().unique()):
        sides = [side.loc[:, (label == name).to_numpy()] for side in (ours, theirs)]
        gaps.append(_gap(*sides, resamples, (seed, _stream(name)), (seed, _stream("seeds"))))
        mine, other = (side.to_numpy().mean() for side in sides)
        line = {"group": name, "n": sides[0].shape[1], "seeds": min(map(len, sides))}
        lines.append(line | {"baseline_accuracy": other, "difference": mine - other})
    if len(gaps) > 1:
        name = f"{lines[-1]['group']} minus {lines[0]['group']}"
        gap = _minus(gaps[-1], gaps[0])
        gaps.append(gap)
        lines.append({"group": name, "seeds": lines[0]["seeds"], "difference": gap.difference})
    enough = [line.get("n", 0) >= SMALLEST for line in lines]
    if len(gaps) > 1:
        enough[-1] = enough[0] and enough[-2]
    for line, gap, told in zip(lines, gaps, enough, strict=True):
        if told:
            line |= _told(gap)
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
class _Gap:
    """A difference of two arms: the bootstrap's draws of it (resamples,), and what seeds do.

    by_seed: arrays (S,) whose mean adds to the difference, each an independent sample of training
    runs: the differences by seed of arms with the same seeds, else both arms' accuracies; empty for
    one seed. n: questions.
    """

    difference: float
    draws: np.ndarray
    by_seed: tuple[np.ndarray, ...]
    n: int


def _gap(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    resamples: int,
    seed: tuple[int, int],
    seeds: tuple[int, int] | None = None,
) -> _Gap:
    """mean(ours) - mean(theirs); both (seeds, questions), of the same questions.

    seed, seeds: of the draws of questions, and of training seeds (the same unless given).
    """
    n = ours.shape[1]
    questions = question_weights(n, resamples, seed).astype(np.float32)
    rng = np.random.default_rng((*(seeds or seed), 1))
    sides = [ours.to_numpy(dtype=float), -theirs.to_numpy(dtype=float)]
    if ours.index.equals(theirs.index):
        sides = [sides[0] + sides[1]]
    draws = sum(
        (questions @ side.T.astype(np.float32) * _seed_weights(len(side), resamples, rng)).sum(1)
        for side in sides
    )
    difference = sum(side.mean() for side in sides)
    by_seed = tuple(side.mean(axis=1) for side in sides if len(side) > 1)
    return _Gap(float(difference), draws / n, by_seed, n)


def _mean(gaps: Sequence[_Gap]) -> _Gap:
    """The plain mean of differences on different datasets, whose runs are independent."""
    share = 1 / len(gaps)
    return _Gap(
        share * sum(gap.difference for gap in gaps),
        share * sum(gap.draws for gap in gaps),
        tuple(share * values for gap in gaps for values in gap.by_seed),
        sum(gap.n for gap in gaps),
    )


def _minus(one: _Gap, other: _Gap) -> _Gap:
    """The difference of differences on other questions by the same runs."""
    by_seed = zip(one.by_seed, other.by_seed, strict=True)
    return _Gap(
        one.difference - other.difference,
        one.draws - other.draws,
        tuple(mine - theirs for mine, theirs in by_seed),
        one.n + other.n,
    )


def _told(gap: _Gap, confidence: float = 0.95) -> dict[str, float]:
    """difference, low, high, se, p (two-sided) and smallest of a difference, see `paired`."""
    se, least = float(gap.draws.std(ddof=1)), 2 / (len(gap.draws) + 1)
    parts = [(values.var(ddof=1) / len(values), len(values) - 1) for values in gap.by_seed]
    parts.append((max(se**2 - sum(part for part, _ in parts), 0.0), max(gap.n - 1, 1)))
    if se < 1e-9:  # nothing varies
        p = 1.0 if abs(gap.difference) < 1e-12 else least
        half = smallest = 0.0
    else:
        total = sum(part for part, _ in parts)
        student = distributions.t(total**2 / sum(part**2 / free for part, free in parts))
        half, power = se * student.ppf([(1 + confidence) / 2, POWER])
        p = max(least, 2 * student.sf(abs(gap.difference) / se))
        smallest = half + power
    low, high = gap.difference - half, gap.difference + half
    numbers = {"low": low, "high": high, "se": se, "p": p, "smallest": smallest}
    return {"difference": gap.difference, **{name: float(x) for name, x in numbers.items()}}


def _stream(name: str) -> int:
    """A dataset's own stream of random numbers, so that datasets are drawn independently."""
    return zlib.crc32(name.encode())


def _seed_weights(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the seeds in each resample: (resamples, seeds), rows sum to 1."""
    if seeds == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return 1 / seeds + np.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


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
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Every arm against `baseline` within each study, dataset and student, as `paired` has it.

    Adds p_holm, Holm's correction over all rows returned (the family shown), and significant
    (p_holm < 1 - confidence). Raises ValueError where a group has no baseline.
    """
    lines = []
    for key, rows in predictions.groupby(["study", "dataset", "student"], sort=False):
        for arm in rows["arm"].unique():
            if arm != baseline:
                line = paired(rows, arm, baseline, column, confidence, resamples)
                lines.append(
                    {**dict(zip(["study", "dataset", "student"], key, strict=True)), **line}
                )
    table = pd.DataFrame(lines)
    if table.empty:
        raise ValueError(f"column 'arm': there is nothing beside {baseline!r} to compare with it")
    return holm(table, 1 - confidence)


def ablations(predictions: pd.DataFrame, resamples: int = RESAMPLES) -> pd.DataFrame:
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
    return compare(pd.concat(kept), "tinyllm", resamples=resamples) if kept else pd.DataFrame()


def holm(table: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The table with p_holm (Holm's correction of column p) and significant (p_holm < alpha)."""
    corrected = multipletests(table["p"], method="holm")[1]
    return table.assign(p_holm=corrected, significant=corrected < alpha)
