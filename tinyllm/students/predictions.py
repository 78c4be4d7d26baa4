"""A student's predictions, one row per question: columns, reading and writing.

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
STUDENT = ["study", "dataset", "split", "arm", "student", "seed"]  # one per file
DIGITS = 5


def write(frame: pd.DataFrame, file: Path) -> None:
    """Write predictions, compressed and without the schema that pandas adds.

    Raises ValueError if a score is not finite.
    """
    scores = [np.round(np.asarray(row, dtype=float), DIGITS) for row in frame["scores"]]
    if not all(np.isfinite(row).all() for row in scores):
        raise ValueError(f"{paths.shown(file)}: a score is not finite; lower lr and train again")
    names = [*SCHEMA, *([TIES] if TIES in frame else [])]
    rows = frame[names].assign(scores=[row.astype(np.float32) for row in scores])
    table = pyarrow.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    how = {"compression": "zstd", "compression_level": 19, "write_statistics": False}
    parquet.write_table(table, file, store_schema=False, **how)


def read(*files: Path, by_path: bool = False) -> pd.DataFrame:
    """Read the predictions in one or several files.

    by_path: take study and dataset from STUDY/DATASET/students/..., as a study may be renamed.
    Raises ValueError, with the remedy, if a file is damaged or two files hold the same student.
    """
    frames, seen = [], {}
    for file in map(Path, files):
        frame = _read(file, file.stat().st_mtime_ns)
        place = {"study": file.parents[5].name, "dataset": file.parents[4].name} if by_path else {}
        if any(frame[name].iat[0] != value for name, value in place.items()):
            frame = frame.assign(**place)
        key = tuple(frame[name].iat[0] for name in STUDENT)
        if (other := seen.setdefault(key, file)) != file:
            both = f"{paths.shown(other.parent)} and {paths.shown(file.parent)}"
            raise ValueError(f"{both} hold the same student; move the copy to another place")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


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
    """Read a file, once per process until it changes."""
    return table(file)
