"""A student's predictions, one row per question: columns, reading, writing and checks.

Option scores are log-probabilities per token, rounded to DIGITS decimals.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from tinyllm import paths

PREDICTIONS, HISTORY = "predictions.parquet", "history.csv"  # in the folder of every student
CHECKPOINT, CHECKPOINTS = "checkpoint", "checkpoints"  # folders of its weights, and in training
SCHEMA = (
    *("study", "dataset", "arm", "student", "seed", "split", "id", "options", "gold", "choice"),
    *("scores", "tokens", "correct", "generated", "exact", "named", "extracted", "in_train"),
)
TIES = "ties"  # optional column: how many options share the best score before rounding (1: none)
TEST = ["study", "dataset", "split"]  # identify a set of test questions
STUDENT = ["arm", "student", "seed"]  # identify a student that answers them
DIGITS = 5
REMEDY = "Delete that student's folder and run notebooks 03 and 04 again."


def write(frame: pd.DataFrame, file: Path) -> None:
    """Check and write predictions, compressed and without the schema that pandas adds."""
    check(frame, file)
    names = [*SCHEMA, *([TIES] if TIES in frame else [])]
    scores = [np.round(np.asarray(row, dtype=float), DIGITS) for row in frame["scores"]]
    rows = frame[names].assign(scores=[row.astype(np.float32) for row in scores])
    table = pyarrow.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    how = {"compression": "zstd", "compression_level": 19, "write_statistics": False}
    parquet.write_table(table, file, store_schema=False, **how)


def read(*files: Path, by_path: bool = False) -> pd.DataFrame:
    """Read the predictions in one or several files.

    by_path: take study and dataset from STUDY/DATASET/students/..., as a study may be renamed.
    Raises ValueError if a file is not valid (see `check`), if two files hold the same student, or
    if students of a study and dataset answered different questions.
    """
    frames, seen = [], {}
    for file in map(Path, files):
        frame = _read(file, file.stat().st_mtime_ns)
        place = {"study": file.parents[5].name, "dataset": file.parents[4].name} if by_path else {}
        if any(frame[name].iat[0] != value for name, value in place.items()):
            frame = frame.assign(**place)
        key = tuple(frame[name].iat[0] for name in (*TEST, *STUDENT))
        if (other := seen.setdefault(key, file)) != file:
            both = f"{paths.shown(other.parent)} and {paths.shown(file.parent)}"
            raise ValueError(f"{both} hold the same student; move the copy to another place")
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)
    _refuse_other_questions(rows)
    return rows


def table(file: Path) -> pd.DataFrame:
    """Read a CSV or parquet file of the results; raises ValueError, with the remedy, if damaged."""
    try:
        return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None):  # not opened, for example too many open files
            raise
        remedy = "delete it, or the student's folder, and run notebooks 03 and 04 again"
        raise ValueError(f"{paths.shown(file)} is damaged ({error}); {remedy}") from None


@cache
def _read(file: Path, written: int) -> pd.DataFrame:
    """Read and check a file, once per process until it changes."""
    frame = table(file)
    check(frame, file)
    return frame


def check(frame: pd.DataFrame, file: Path) -> None:
    """Raise ValueError, with file and column, if predictions are incomplete or inconsistent."""
    if frame.empty:
        raise ValueError(f"{paths.shown(file)}: there are no rows. {REMEDY}")
    if missing := [name for name in SCHEMA if name not in frame]:
        raise ValueError(f"{paths.shown(file)}: column {missing[0]!r} is missing. {REMEDY}")
    count = frame["options"].map(np.size)
    finite = frame["scores"].map(lambda row: np.isfinite(np.asarray(row, dtype=float)).sum())
    problems = {name: frame[name].isna() for name in SCHEMA}
    problems["scores"] = finite != count
    for name in ("gold", "choice"):
        problems[name] |= ~frame[name].between(0, count - 1)
    problems["correct"] |= frame["correct"].astype(bool) != (frame["choice"] == frame["gold"])
    problems["id"] |= frame.duplicated([*TEST, *STUDENT, "id"])
    for name, wrong in problems.items():
        if wrong.any():
            question = frame.loc[wrong, "id"].iloc[0]
            raise ValueError(
                f"{paths.shown(file)}: column {name!r} of question {question!r} is empty, not "
                f"finite, out of range, duplicated or contradicts another column. {REMEDY}"
            )


def _refuse_other_questions(frame: pd.DataFrame) -> None:
    rows = frame[[*TEST, *STUDENT, "id", "gold"]].assign(options=frame["options"].map(tuple))
    students = rows[[*TEST, *STUDENT]].drop_duplicates().groupby(TEST).size().rename("students")
    wanted = rows[TEST].join(students, on=TEST)["students"]
    answered = rows.groupby([*TEST, "id", "gold", "options"])["arm"].transform("size")
    if (wrong := answered != wanted).any():
        study, dataset, _, question = rows.loc[wrong, [*TEST, "id"]].iloc[0]
        raise ValueError(
            f"{study}/{dataset}: not all students have the question {question!r} with the same "
            "options and gold answer. Score all arms on the same test questions: the same `limit` "
            "and `data_seed`."
        )
