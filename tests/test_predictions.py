"""Predictions are written small and read as they were; what is broken names file, row, column."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from simulated import predictions as simulated

from tinyllm.students import predictions


@pytest.fixture
def whole() -> pd.DataFrame:
    return simulated({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0, 1])


def test_a_file_gives_back_what_was_written(whole, tmp_path):
    file = tmp_path / "predictions.parquet"
    predictions.write(whole, file)
    again = predictions.read(file)
    others = whole.columns.drop(["scores", "options", "tokens"])
    pd.testing.assert_frame_equal(again[others], whole[others], check_dtype=False)
    for name in ("options", "tokens"):
        assert [list(row) for row in again[name]] == [list(row) for row in whole[name]]
    for kept, scores in zip(again["scores"], whole["scores"], strict=True):
        assert list(kept) == pytest.approx(list(scores), abs=6e-6)


def test_a_missing_column_is_named_with_its_file(whole):
    with pytest.raises(ValueError, match=r"a\.parquet: column 'scores' is missing"):
        predictions.check(whole.drop(columns="scores"), "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'id': there are no rows"):
        predictions.check(whole.iloc[:0], "a.parquet")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scores", [0.0, math.nan, 0.0, 0.0]),
        ("scores", [0.0, 1.0]),
        ("scores", 3.0),
        ("tokens", [1, 1, 1]),
        ("options", ["x"]),
        ("options", None),
        ("gold", 4),
        ("choice", -1),
        ("named", -2),
        ("correct", None),
        ("ties", 0),
    ],
)
def test_a_broken_cell_is_named_with_file_row_column_and_remedy(whole, column, value):
    broken = whole.assign(ties=1).astype({column: object})
    broken.at[7, column] = value
    with pytest.raises(ValueError) as error:
        predictions.check(broken, "a.parquet")
    assert str(error.value).startswith(f"a.parquet: row 7 (id 'q2'), column '{column}': ")
    assert str(error.value).endswith(predictions.REMEDY)


def test_a_question_that_a_student_answers_twice_is_named(whole):
    twice = pd.concat([whole, whole.iloc[[6]]], ignore_index=True)
    with pytest.raises(ValueError, match=r"a\.parquet: row 20 \(id 'q1'\), column 'id'"):
        predictions.check(twice, "a.parquet")


@pytest.mark.parametrize("change", ["row", "gold", "options"])
def test_students_that_answered_different_questions_are_refused(whole, tmp_path, change):
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for file, (_, part) in zip(files, whole.groupby("arm"), strict=True):
        predictions.write(part, file)
    if change == "row":
        part = part.drop(index=part.index[2])
    else:
        part[change] = part[change].astype(object)
        part.at[part.index[2], change] = ["w", "x", "y", "other"] if change == "options" else 0
        part["correct"] = part["choice"] == part["gold"]
        part["extracted"] = part["named"] == part["gold"]
    part.to_parquet(files[1])
    with pytest.raises(ValueError, match=r"\(id 'q2'\).*not all students have .*`limit`"):
        predictions.read(*files)


def test_of_several_files_the_broken_one_is_named(whole, tmp_path):
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for file, (_, part) in zip(files, whole.groupby("arm"), strict=True):
        predictions.write(part, file)
    assert len(predictions.read(*files)) == 20
    part.assign(gold=7).to_parquet(files[1])
    with pytest.raises(ValueError, match=r"two\.parquet: row 0"):
        predictions.read(*files)
    files[1].write_text("no parquet")
    with pytest.raises(ValueError, match=r"two\.parquet: not a readable parquet file"):
        predictions.read(*files)
