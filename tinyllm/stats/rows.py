"""Predictions, a row a question: their columns, what makes them whole, the scores as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SCHEMA = (
    *("study", "dataset", "arm", "student", "seed", "split", "id", "options", "gold", "choice"),
    *("scores", "logprobs", "tokens", "correct", "generated", "exact", "in_train"),
)
OPTIONAL = (
    "named",
    "extracted",
)  # files scored before the option named in free text was looked for
REMEDY = "Delete that student's folder under runs/ and run notebooks 03 and 04 again."
SAME = "Score all arms on the same test split: the same `limit` and `data_seed`."
RUN = ["study", "dataset", "split", "arm", "student", "seed"]  # one trained student on one split
GROUP = ["study", "dataset", "arm", "student"]


def check(predictions: pd.DataFrame, source: str | Path) -> pd.DataFrame:
    """The predictions as they came, if they are whole; else ValueError with file, row and column.

    source: the file that they were read from, for the message. Rows are counted from 0. Columns
    in OPTIONAL may be absent, but not from some rows only.
    """

    def fail(column: str, row: int | None, problem: str, remedy: str = REMEDY) -> None:
        where = f"row {row} (id {predictions['id'].iloc[row]!r}), " if row is not None else ""
        raise ValueError(f"{source}: {where}column {column!r}: {problem} {remedy}")

    for column in SCHEMA:
        if column not in predictions:
            have = ", ".join(map(str, predictions.columns))
            fail(column, None, f"is missing; there are {have}.")
    if predictions.empty:
        fail("id", None, "there are no rows.")
    there = [column for column in OPTIONAL if column in predictions]
    for column in (*RUN, "id", "options", "gold", "choice", "correct", "exact", "in_train", *there):
        if (empty := predictions[column].isna().to_numpy()).any():
            fail(column, int(empty.argmax()), "is empty.")
    number = predictions["options"].map(len).to_numpy()
    if (few := number < 2).any():
        fail("options", int(few.argmax()), f"{number[few.argmax()]} options; 2 or more are needed.")
    for column in ("scores", "logprobs", "tokens"):
        for row, (values, options) in enumerate(zip(predictions[column], number, strict=True)):
            if not isinstance(values, list | tuple | np.ndarray):
                fail(column, row, f"holds {values!r}; every option needs a number.")
            if len(values) != options:
                fail(column, row, f"{len(values)} numbers for {options} options.")
            if not np.isfinite(np.asarray(values, dtype=float)).all():
                fail(column, row, f"holds {list(values)}; every option needs a finite number.")
    for column, least in (("gold", 0), ("choice", 0), ("named", -1)):
        if column not in predictions:
            continue
        index = predictions[column].to_numpy()
        if (outside := (index < least) | (index >= number)).any():
            row = int(outside.argmax())
            fail(column, row, f"{index[row]} is the index of none of its {number[row]} options.")
    for column, index in (("correct", "choice"), ("extracted", "named")):
        if not {column, index} <= set(predictions):
            continue
        agrees = (predictions[index] == predictions["gold"]).to_numpy()
        if (wrong := predictions[column].to_numpy(dtype=bool) != agrees).any():
            fail(column, int(wrong.argmax()), f"does not say whether {index} equals gold.")
    _check_same_questions(predictions, fail)
    return predictions


def _check_same_questions(predictions: pd.DataFrame, fail) -> None:
    """Each question once a run; the same questions, options and gold answers in every run."""
    twice = predictions.duplicated([*RUN, "id"]).to_numpy()
    if twice.any():
        row = int(twice.argmax())
        run = " / ".join(str(predictions[column].iloc[row]) for column in RUN)
        fail("id", row, f"stands twice in {run}.")
    frame = predictions[[*RUN, "id", "gold"]].reset_index(drop=True)
    frame["gold"] = list(zip(frame["gold"], predictions["options"].map(tuple), strict=True))
    for (_, dataset, split), rows in frame.groupby(RUN[:3], sort=False):
        first: dict | None = None
        for run, part in rows.groupby(RUN[3:], sort=False):
            gold = dict(zip(part["id"], part["gold"], strict=True))
            rowof = dict(zip(part["id"], part.index, strict=True))
            if first is None:
                first, name, first_row = gold, run, rowof
                continue
            if lacking := sorted(first.keys() - gold.keys(), key=str):
                problem = f"{dataset}/{split}: {run} was not scored on it, but {name} was"
                fail("id", first_row[lacking[0]], f"{problem} ({len(lacking)} such).", SAME)
            if more := sorted(gold.keys() - first.keys(), key=str):
                problem = f"{dataset}/{split}: {name} was not scored on it, but {run} was"
                fail("id", rowof[more[0]], f"{problem} ({len(more)} such).", SAME)
            if other := [key for key in gold if gold[key] != first[key]]:
                column = "options" if gold[other[0]][1] != first[other[0]][1] else "gold"
                fail(column, rowof[other[0]], f"{dataset}/{split}: {run} and {name} differ.")


def with_arms(predictions: pd.DataFrame, *arms: str) -> pd.DataFrame:
    """The rows of the datasets that have all of these arms."""
    have = predictions.groupby("dataset", observed=True)["arm"].agg(set)
    complete = have.index[have.map(set(arms).issubset)]
    return predictions[predictions["dataset"].isin(complete)]


def score_matrix(rows: pd.DataFrame, column: str = "correct") -> pd.DataFrame:
    """One arm's scores as a table: a row a seed, a column a question (dataset, id), both sorted.

    Raises ValueError where an average over it would hide something: rows of several studies,
    splits, arms or students, a question twice, a question that a seed lacks, an empty score.
    """
    for name in ("study", "split", "arm", "student"):
        values = sorted(map(str, rows[name].unique()))
        if len(values) != 1:
            raise ValueError(f"column {name!r}: one value at a time, not {values}; group by it")
    key = ["seed", "dataset", "id"]
    if (twice := rows.duplicated(key)).any():
        seed, dataset, question = rows.loc[twice, key].iloc[0]
        raise ValueError(f"column 'id': {question!r} stands twice in {dataset}, seed {seed}")
    wide = rows.pivot(index="seed", columns=["dataset", "id"], values=column)
    wide = wide.sort_index(axis=0).sort_index(axis=1).astype(float)
    if (lacking := wide.isna().to_numpy()).any():
        row, place = np.argwhere(lacking)[0]
        dataset, question = wide.columns[place]
        raise ValueError(
            f"column {column!r}: no score of {dataset} {question!r} for seed {wide.index[row]}"
        )
    return wide
