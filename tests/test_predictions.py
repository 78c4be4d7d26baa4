"""Predictions round-trip; errors name the file, column and question."""

import math

import pandas as pd
import pytest
from simulated import predictions as simulated

from tinyllm.students import predictions


@pytest.fixture
def whole() -> pd.DataFrame:
    return simulated({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0, 1])


@pytest.fixture
def files(whole, tmp_path):
    """One file per arm."""
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for file, (_, part) in zip(files, whole.groupby("arm"), strict=True):
        predictions.write(part, file)
    return files


def test_predictions_round_trip_through_a_file(whole, tmp_path):
    file = tmp_path / "predictions.parquet"
    predictions.write(whole, file)
    again = predictions.read(file)
    for name in ("options", "tokens", "scores"):
        again[name] = again[name].map(list)
    pd.testing.assert_frame_equal(again, whole, check_dtype=False, rtol=0, atol=6e-6)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scores", [0.0, math.nan, 0.0, 0.0]),
        ("scores", [0.0, 1.0]),
        ("gold", 4),
        ("choice", -1),
        ("correct", None),
        ("id", "q1"),  # a second answer by the same student
    ],
)
def test_invalid_cells_are_reported_with_file_column_question_and_remedy(whole, column, value):
    broken = whole.astype({column: object})
    broken.at[7, column] = value
    with pytest.raises(ValueError) as error:
        predictions.check(broken, "a.parquet")
    question = "q1" if column == "id" else "q2"
    assert str(error.value).startswith(f"a.parquet: column '{column}' of question '{question}'")
    assert str(error.value).endswith(predictions.REMEDY)


@pytest.mark.parametrize("change", ["row", "gold", "options"])
def test_files_with_different_questions_are_rejected(whole, files, change):
    assert len(predictions.read(*files)) == 20
    part = whole[whole["arm"] == "tinyllm"].astype({"gold": object})
    if change == "row":
        part = part.drop(index=part.index[2])
    else:
        part.at[part.index[2], change] = ["w", "x", "y", "other"] if change == "options" else 0
    part["correct"] = part["choice"] == part["gold"]
    predictions.write(part, files[1])
    with pytest.raises(ValueError, match=r"'q2' .*`limit`"):
        predictions.read(*files)


def test_the_broken_one_of_several_files_is_named(whole, files):
    whole.drop(columns="scores").to_parquet(files[1])
    with pytest.raises(ValueError, match=r"two\.parquet: column 'scores' is missing"):
        predictions.read(*files)
    files[1].write_text("no parquet")
    with pytest.raises(ValueError, match=r"two\.parquet is damaged .* again"):
        predictions.read(*files)
