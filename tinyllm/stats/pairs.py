"""Two arms on the same questions: difference, interval, tests; families of tests; power."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

from tinyllm.stats.draws import question_weights
from tinyllm.stats.rows import score_matrix

SMALLEST = 20  # questions of a group that a bootstrap can say something of
RESAMPLES = 10_000  # the least p is 2 / 10001: small enough for Holm over dozens of arms


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

    The interval and p come from a two-level bootstrap (percentiles): questions are drawn anew
    within each dataset, and seeds too where there are several, their weights widened by
    sqrt(S / (S - 1)) so that few seeds do not make the spread look smaller than it is (Rao and Wu
    1988). Arms with the same seeds are drawn together. With one seed the interval speaks for that
    one training run only.

    Keys: arm, baseline, n, seeds, accuracy, baseline_accuracy, difference, low, high, se, p
    (two-sided); won and lost (questions that only the arm, only the baseline has right by the
    majority of seeds) and mcnemar_p, the exact test on them; smallest, the difference that this n
    could tell (see `smallest_difference`).
    """
    ours, theirs = _both(predictions, arm, baseline, column)
    names = sorted(set(ours.columns.get_level_values("dataset")))
    accuracies, draws = [], []
    for name in names:
        mine, other = ours[name].to_numpy(), theirs[name].to_numpy()
        together = ours.index.equals(theirs.index)
        accuracies.append((mine.mean(), other.mean()))
        draws.append(_difference_draws(mine, other, together, resamples, (seed, _stream(name))))
    drawn = np.mean(draws, axis=0)
    left, right = np.mean(accuracies, axis=0)
    interval = _interval(drawn, confidence)
    won, lost, exact = mcnemar(ours.mean() > 0.5, theirs.mean() > 0.5)
    n = ours.shape[1]
    return {
        "arm": arm,
        "baseline": baseline,
        "n": n,
        "seeds": min(len(ours), len(theirs)),
        "accuracy": float(left),
        "baseline_accuracy": float(right),
        "difference": float(left - right),
        "low": interval["low"],
        "high": interval["high"],
        "se": float(drawn.std(ddof=1)),
        "p": interval["p"],
        "won": won,
        "lost": lost,
        "mcnemar_p": exact,
        "smallest": smallest_difference(n, (won + lost) / n),
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

    Columns: group, n, seeds, baseline_accuracy, difference, low, high (95% interval of the
    bootstrap that `paired` uses), p (two-sided); the last three are empty for groups of fewer than
    SMALLEST questions, of which a bootstrap knows too little.
    """
    ours, theirs = _both(predictions, arm, baseline, column)
    together = ours.index.equals(theirs.index)
    label = groups.reindex(ours.columns.get_level_values("id")).map(str, na_action="ignore")
    lines, draws = [], []
    for name in sorted(label.dropna().unique()):
        mine, other = (
            side.loc[:, (label == name).to_numpy()].to_numpy() for side in (ours, theirs)
        )
        drawn = _difference_draws(
            mine, other, together, resamples, (seed, _stream(name)), (seed, _stream("seeds"))
        )
        draws.append(drawn)
        line = {"group": name, "n": mine.shape[1], "seeds": min(len(ours), len(theirs))}
        line |= {"baseline_accuracy": other.mean(), "difference": mine.mean() - other.mean()}
        lines.append(line | (_interval(drawn) if mine.shape[1] >= SMALLEST else {}))
    if len(lines) > 1:
        first, last = lines[0], lines[-1]
        line = {"group": f"{last['group']} minus {first['group']}", "seeds": first["seeds"]}
        line["difference"] = last["difference"] - first["difference"]
        enough = min(first["n"], last["n"]) >= SMALLEST
        lines.append(line | (_interval(draws[-1] - draws[0]) if enough else {}))
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


def _interval(drawn: np.ndarray, confidence: float = 0.95) -> dict[str, float]:
    """low, high and two-sided p of bootstrap draws of a difference."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((drawn <= 1e-12).sum(), (drawn >= -1e-12).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (len(drawn) + 1))
    return {"low": float(low), "high": float(high), "p": p}


def _stream(name: str) -> int:
    """A dataset's own stream of random numbers, so that datasets are drawn independently."""
    return zlib.crc32(name.encode())


def _seed_weights(seeds: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the seeds in each resample: (resamples, seeds), rows sum to 1."""
    if seeds == 1:
        return np.ones((resamples, 1))
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return 1 / seeds + np.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


def _difference_draws(
    mine: np.ndarray,
    other: np.ndarray,
    together: bool,
    resamples: int,
    seed: tuple[int, int],
    seeds: tuple[int, int] | None = None,
) -> np.ndarray:
    """Bootstrap draws (resamples,) of mean(mine) - mean(other); both (seeds, questions).

    seed, seeds: of the draws of questions, and of training seeds (the same unless given).
    """
    n = mine.shape[1]
    questions = question_weights(n, resamples, seed).astype(np.float32)
    rng = np.random.default_rng((*(seeds or seed), 1))
    if together:
        each = questions @ (mine - other).T.astype(np.float32)
        return (each * _seed_weights(len(mine), resamples, rng)).sum(axis=1) / n
    sums = [
        (questions @ side.T.astype(np.float32) * _seed_weights(len(side), resamples, rng)).sum(1)
        for side in (mine, other)
    ]
    return (sums[0] - sums[1]) / n


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[int, int, float]:
    """Exact McNemar test on answers to the same questions: (only ours right, only theirs, p)."""
    ours, theirs = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    won, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    if won + lost == 0:
        return 0, 0, 1.0
    return won, lost, float(distributions.binomtest(won, won + lost).pvalue)


def mcnemar_by_seed(
    predictions: pd.DataFrame, arm: str, baseline: str, column: str = "correct"
) -> pd.DataFrame:
    """The exact McNemar test within each seed that both arms have: seed, n, won, lost, p."""
    ours, theirs = (
        score_matrix(predictions[predictions["arm"] == name], column) for name in (arm, baseline)
    )
    lines = []
    for seed in ours.index.intersection(theirs.index):
        won, lost, p = mcnemar(ours.loc[seed], theirs.loc[seed, ours.columns])
        lines.append({"seed": seed, "n": ours.shape[1], "won": won, "lost": lost, "p": p})
    return pd.DataFrame(lines)


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


def smallest_difference(
    n: int, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """The smallest true difference in accuracy that n paired questions can tell, as a fraction.

    discordant: share of questions that only one of the arms has right; the closer two arms are in
        what they know, the smaller. NaN where not even a difference of `discordant`, all of them
        won, could be told.

    Normal approximation of McNemar's test (Connor 1987): n d^2 = (z_alpha sqrt(s) +
    z_power sqrt(s - d^2))^2 with s = discordant, d = the difference.
    """
    if not 0 <= discordant <= 1:
        raise ValueError(f"discordant: {discordant!r}: allowed is a share from 0 to 1")

    def lacking(difference: float) -> float:
        return questions_needed(difference, discordant, power, alpha) - n

    if discordant == 0 or lacking(discordant) > 0:
        return float("nan")
    return float(optimize.brentq(lacking, 1e-9, discordant, xtol=1e-12))


def questions_needed(
    difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Paired questions that it takes to tell `difference`; the formula of `smallest_difference`."""
    z_alpha, z_power = distributions.norm.ppf([1 - alpha / 2, power])
    rest = np.sqrt(max(discordant - difference**2, 0.0))
    return float((z_alpha * np.sqrt(discordant) + z_power * rest) ** 2 / difference**2)
