"""A student's predictions: one row per question, their columns, and what makes them whole.

Option scores are log-probabilities per token, rounded to DIGITS decimals. Nothing here imports
torch.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from tinyllm import paths

PREDICTIONS, HISTORY = "predictions.parquet", "history.csv"  # in the folder of every student
SCHEMA = (
    *("study", "dataset", "arm", "student", "seed", "split", "id", "options", "gold", "choice"),
    *("scores", "tokens", "correct", "generated", "exact", "named", "extracted", "in_train"),
)
TIES = "ties"  # optional column: how many options share the best score before rounding (1: none)
TEST = ["study", "dataset", "split"]  # one set of test questions
STUDENT = ["arm", "student", "seed"]  # one trained student, which answers them
DIGITS = 5
REMEDY = "Delete that student's folder and run notebooks 03 and 04 again."


def write(frame: pd.DataFrame, file: Path) -> None:
    """Write whole predictions (see `check`) small: without the schema that pandas adds, which would
    be a fifth of a small file."""
    check(frame, paths.shown(file))
    names = [*SCHEMA, *([TIES] if TIES in frame else [])]
    scores = [np.round(np.asarray(row, dtype=float), DIGITS) for row in frame["scores"]]
    rows = frame[names].assign(scores=[row.astype(np.float32) for row in scores])
    table = pyarrow.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    parquet.write_table(
        table,
        file,
        compression="zstd",
        compression_level=19,
        write_statistics=False,
        store_schema=False,
    )


def read(*files: Path) -> pd.DataFrame:
    """The predictions in one or several files, each read once per process, until it changes.

    ValueError, naming the file, where they are not whole (`check`), or where students of a study
    and dataset answered different questions.
    """
    frames = []
    for file in map(Path, files):
        try:
            stat = file.stat()
            frames.append(_read(file, stat.st_mtime_ns, stat.st_size))
        except (OSError, pyarrow.ArrowException) as error:
            problem = f"{paths.shown(file)}: not a readable parquet file: {error}"
            raise ValueError(problem) from None
    return _same_questions(pd.concat(frames, ignore_index=True))


@cache
def _read(file: Path, *_: int) -> pd.DataFrame:
    return check(pd.read_parquet(file), paths.shown(file))


def check(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The predictions as they came, if they are whole; else ValueError with source, row, column."""
    if frame.empty or not set(SCHEMA) <= set(frame):
        lacking = [f"{name!r} is missing" for name in SCHEMA if name not in frame]
        problem = lacking[0] if lacking else "'id': there are no rows"
        raise ValueError(f"{source}: column {problem}. {REMEDY}")
    refuse = partial(_refuse, frame, source)
    for column in SCHEMA:
        refuse(column, frame[column].isna(), "is empty.")
    count = frame["options"].map(len).to_numpy()
    refuse("options", count < 2, "fewer than 2 options.")
    starts = np.r_[0, count.cumsum()[:-1]]
    for column in ("scores", "tokens"):
        length = [len(row) if isinstance(row, list | np.ndarray) else -1 for row in frame[column]]
        refuse(column, length != count, "is no list of one number per option.")
        finite = np.isfinite(np.concatenate(frame[column].tolist()).astype(float))
        refuse(column, ~np.logical_and.reduceat(finite, starts), "has a value that is not finite.")
    for column, least in (("gold", 0), ("choice", 0), ("named", -1)):
        outside = (frame[column] < least) | (frame[column] >= count)
        refuse(column, outside, "is not the index of one of the options.")
    for column, index in (("correct", "choice"), ("extracted", "named")):
        wrong = frame[column].astype(bool) != (frame[index] == frame["gold"])
        refuse(column, wrong, f"does not say whether {index} equals gold.")
    if TIES in frame:
        refuse(TIES, ~frame[TIES].between(1, count), "is no number of options that share a score.")
    refuse("id", frame.duplicated([*TEST, *STUDENT, "id"]), "is there twice for one student.")
    return frame


def _same_questions(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[[*TEST, *STUDENT, "id", "gold"]].assign(options=frame["options"].map(tuple))
    students = rows[[*TEST, *STUDENT]].drop_duplicates().groupby(TEST).size().rename("students")
    wanted = rows[TEST].join(students, on=TEST)["students"]
    answered = rows.groupby([*TEST, "id", "gold", "options"])["arm"].transform("size")
    problem = (
        "not all students have this question, options and gold answer. Score all arms on the same "
        "test questions: the same `limit` and `data_seed`."
    )
    _refuse(frame, "the students together", "id", answered != wanted, problem, remedy="")
    return frame


def _refuse(frame, source, column: str, wrong, problem: str, remedy: str = REMEDY) -> None:
    """ValueError that names the first row where `wrong` is true, if there is one."""
    wrong = np.asarray(wrong, dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        place = f"{source}: row {row} (id {frame['id'].iloc[row]!r}), column {column!r}"
        raise ValueError(f"{place}: {problem} {remedy}".rstrip())
