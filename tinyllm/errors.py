"""Errors by question: where arms, and their teachers, agree and disagree.

Where questions are counted, one is right for an arm if the majority of its seeds has it right.
Shares come with Wilson's 95% interval over questions, in percent.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from tinyllm import stats


def percent(k: float, n: int) -> str:
    """A share with its interval: `68.0 [64.2, 71.6]`; empty for none of none."""
    if n == 0:
        return ""
    low, high = stats.wilson(k, n)
    return f"{100 * k / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def shares(predictions: pd.DataFrame) -> pd.DataFrame:
    """Share of the seeds that have a question right: a row a question (id), a column an arm.

    predictions: of one study, dataset and student. Raises ValueError where arms answered different
    questions.
    """
    wide = {
        arm: stats.score_matrix(rows).mean() for arm, rows in predictions.groupby("arm", sort=False)
    }
    table = pd.DataFrame(wide)
    if table.isna().any(axis=None):
        question = table.index[table.isna().any(axis=1)][0]
        raise ValueError(f"column 'id': {question!r} was not scored for every arm")
    return table.droplevel("dataset")


def right(predictions: pd.DataFrame) -> pd.DataFrame:
    """Whether the majority of the seeds has a question right; rows and columns as `shares`."""
    return shares(predictions) > 0.5


def by_question(predictions: pd.DataFrame) -> pd.DataFrame:
    """How many questions are right for how many of the arms, from all to none.

    Columns: arms right, questions, % of n with interval. What no arm knows and what every arm knows
    tells nothing about the arms apart.
    """
    table = right(predictions)
    counts = table.sum(axis=1).value_counts()
    n, arms = len(table), table.shape[1]
    rows = [(f"{k} of {arms}", int(counts.get(k, 0))) for k in range(arms, -1, -1)]
    frame = pd.DataFrame(rows, columns=["arms right", "questions"])
    return frame.assign(**{f"% of {n}": [percent(k, n) for k in frame["questions"]]})


def pairs(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every two arms: how many questions both, only one, and neither has right.

    Columns: one, two (arms), both, only one, only two, neither (questions), disagree % (with
    interval), mcnemar_p (exact, of one against two, not corrected). Most disagreement first.
    """
    table = right(predictions)
    lines = []
    for one, two in combinations(table, 2):
        a, b = table[one], table[two]
        won, lost, p = stats.mcnemar(a, b)
        lines.append(
            {
                **{"one": one, "two": two, "both": int((a & b).sum()), "only one": won},
                **{"only two": lost, "neither": int((~a & ~b).sum())},
                "disagree %": percent(won + lost, len(table)),
                "mcnemar_p": f"{p:.2g}",
                "_": won + lost,
            }
        )
    columns = ["one", "two", "both", "only one", "only two", "neither", "disagree %", "mcnemar_p"]
    frame = pd.DataFrame(lines, columns=[*columns, "_"])
    return frame.sort_values("_", ascending=False, kind="stable", ignore_index=True)[columns]


def by_teachers(predictions: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (mean over seeds) of every arm where all teachers, some or none are right.

    answers: the teachers' own answers (`results.stored_teachers`) on the same questions, with the
    most in-context examples that each was given. Columns: questions, then the arms' accuracies in
    percent with interval. Empty where the teachers were not asked.
    """
    if answers.empty:
        return pd.DataFrame()
    shots = answers["shots"].map(lambda text: 0 if text == "none" else int(text.split(":")[1]))
    most = answers[shots == shots.groupby(answers["teacher"]).transform("max")]
    wide = most.pivot(index="id", columns="teacher", values="correct").astype(bool)
    table = shares(predictions)
    if odd := sorted(set(wide.index) ^ set(table.index)):
        raise ValueError(
            f"column 'id': {odd[0]!r} was answered by only one of students and teachers "
            f"({len(odd)} such); run notebooks 02 to 04 again on the same test questions"
        )
    wide = wide.loc[table.index]
    kinds = wide.apply(lambda row: " and ".join(row.index[row]) or "none", axis=1)
    order = sorted(kinds.unique(), key=lambda kind: (kind == "none", -kind.count(" and "), kind))
    lines = []
    for kind in order:
        part = table[kinds == kind]
        each = {arm: percent(part[arm].sum(), len(part)) for arm in table}
        lines.append({"right teachers": kind, "questions": len(part), **each})
    return pd.DataFrame(lines)


def examples(
    predictions: pd.DataFrame, arm: str = "tinyllm", baseline: str = "finetune", rows: int = 8
) -> pd.DataFrame:
    """Questions that one arm has right with every seed and the other with none, `rows` at most."""
    shares = predictions.pivot_table(index="id", columns="arm", values="correct", aggfunc="mean")
    if not {arm, baseline} <= set(shares):
        return pd.DataFrame()
    first = predictions.drop_duplicates("id").set_index("id")
    lines = []
    for winner, loser in ((arm, baseline), (baseline, arm)):
        chosen = shares[(shares[winner] == 1) & (shares[loser] == 0)].index
        for name in sorted(chosen)[: rows // 2]:
            options, gold = first.at[name, "options"], first.at[name, "gold"]
            lost = predictions[(predictions["id"] == name) & (predictions["arm"] == loser)]
            lines.append(
                {
                    "right": winner,
                    "wrong": loser,
                    "such questions": len(chosen),
                    "id": name,
                    "gold": options[gold],
                    "chosen instead": options[lost["choice"].mode().iloc[0]],
                }
            )
    return pd.DataFrame(lines)
