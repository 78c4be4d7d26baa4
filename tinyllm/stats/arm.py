"""One arm: accuracy with its interval, baselines without a model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from tinyllm.stats.rows import GROUP, score_matrix


def accuracy(
    predictions: pd.DataFrame,
    by: Sequence[str] = GROUP,
    column: str = "correct",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Share of questions with a true `column`, a row a group of `by`.

    Columns: n (different questions), seeds, k (true answers, mean over seeds), estimate (k / n);
    low and high, Wilson's interval of k of n: it covers the choice of questions. Seeds answer the
    same questions, so their rows are not counted as further ones. What seeds do stands beside it:
    seed_low, seed_high, seed_std (of the seeds' accuracies; std is empty for one seed).
    """
    lines = []
    for key, rows in predictions.groupby(list(by), sort=False):
        wide = score_matrix(rows, column)
        n, each = wide.shape[1], wide.mean(axis=1)
        k = float(each.mean() * n)
        low, high = wilson(k, n, confidence)
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "n": n,
                "seeds": len(each),
                "k": k,
                "estimate": k / n,
                "low": low,
                "high": high,
                "seed_low": each.min(),
                "seed_high": each.max(),
                "seed_std": each.std(),
            }
        )
    return pd.DataFrame(lines)


def wilson(k: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for k of n; k may be a mean count, so a fraction."""
    low, high = proportion_confint(k, n, alpha=1 - confidence, method="wilson")
    return min(float(low), k / n), max(float(high), k / n)  # rounding only: it holds k / n


def chance_and_majority(
    predictions: pd.DataFrame, by: Sequence[str] = ("dataset",)
) -> pd.DataFrame:
    """Baselines without a model, a row a group: n, chance, majority, label.

    chance: mean of 1 / number of options. majority: share of the commonest gold label; the label is
    the option's text where all questions have the same options (yes, no, maybe), else its place
    ((a), (b), ...). It is chosen on these very questions: the best that a constant answer can do.
    """
    lines = []
    for key, rows in predictions.groupby(list(by), sort=False):
        questions = rows.drop_duplicates(["dataset", "split", "id"])
        if same_options(questions):
            labels = option_texts(questions, "gold")
        else:
            labels = questions["gold"].map(lambda index: f"({chr(ord('a') + index)})")
        counts = labels.value_counts().sort_index().sort_values(ascending=False, kind="stable")
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "n": len(questions),
                "chance": float((1 / questions["options"].map(len)).mean()),
                "majority": counts.iloc[0] / len(questions),
                "label": counts.index[0],
            }
        )
    return pd.DataFrame(lines)


def results(
    predictions: pd.DataFrame, column: str = "correct", teachers: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The numbers of the main-results figure and table: `accuracy` with chance and majority.

    teachers: answers of the teachers themselves (see `teacher_accuracy`); their rows follow, as
    arms `teacher:NAME`, beside every student of their study and dataset.
    """
    base = chance_and_majority(predictions, ["study", "dataset"]).drop(columns="n")
    rows = accuracy(predictions, column=column)
    if teachers is not None and len(teachers):
        students = rows[["study", "dataset", "student"]].drop_duplicates()
        theirs = teacher_accuracy(teachers).merge(students, on=["study", "dataset"])
        rows = pd.concat([rows, theirs[[c for c in rows if c in theirs]]], ignore_index=True)
    return rows.merge(base, on=["study", "dataset"], how="left")


def teacher_accuracy(answers: pd.DataFrame) -> pd.DataFrame:
    """Share of test questions that each teacher has right, a row a study, dataset and arm.

    answers: a row a question with study, dataset, teacher (URI), shots (`none` or `random:K`), id,
        correct; one answer a question, so there are no seeds. Raises ValueError where a teacher
        answered other questions than another, or one twice.
    Columns as `accuracy`; arm is `teacher:URI, K-shot`.
    """
    lines = []
    for (study, dataset), rows in answers.groupby(["study", "dataset"], sort=False):
        asked = rows.pivot_table(
            index="id", columns=["teacher", "shots"], values="correct", aggfunc="size"
        )
        if (odd := asked.ne(1).any(axis=1)).any():
            raise ValueError(
                f"{study}/{dataset}: column 'id': {odd.idxmax()!r} is not answered once by every "
                "teacher; run notebook 02 again"
            )
        for (teacher, shots), part in rows.groupby(["teacher", "shots"], sort=False):
            n, k = len(part), float(part["correct"].sum())
            low, high = wilson(k, n)
            kind = "0-shot" if shots == "none" else f"{shots.rpartition(':')[2]}-shot"
            names = {"study": study, "dataset": dataset, "arm": f"teacher:{teacher}, {kind}"}
            numbers = {"n": n, "seeds": 1, "k": k, "estimate": k / n, "low": low, "high": high}
            lines.append({**names, **numbers, "seed_low": k / n, "seed_high": k / n})
    columns = "study dataset arm n seeds k estimate low high seed_low seed_high"
    return pd.DataFrame(lines, columns=columns.split())


def same_options(rows: pd.DataFrame) -> bool:
    """True if every question offers the same set of options, so that their texts are classes."""
    return rows["options"].map(lambda options: tuple(sorted(options))).nunique() == 1


def option_texts(rows: pd.DataFrame, column: str) -> pd.Series:
    """The options' texts at the indices in `column`."""
    pairs = zip(rows["options"], rows[column], strict=True)
    return pd.Series([options[index] for options, index in pairs], index=rows.index)
