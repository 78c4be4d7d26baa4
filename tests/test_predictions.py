"""Predictions round-trip; errors name the file."""

import math

import pandas as pd
import pytest
from simulated import predictions as simulated

from tinyllm.students import predictions


@pytest.fixture
def whole() -> pd.DataFrame:
    return simulated({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0, 1])


def test_predictions_round_trip_through_a_file(whole, tmp_path):
    file = tmp_path / "predictions.parquet"
    predictions.write(whole, file)
    again = predictions.read(file)
    for name in ("options", "tokens", "scores"):
        again[name] = again[name].map(list)
    pd.testing.assert_frame_equal(again, whole, check_dtype=False, rtol=0, atol=6e-6)


def test_a_score_that_is_not_finite_is_never_stored(whole, tmp_path):
    whole.at[7, "scores"] = [0.0, math.nan, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"predictions\.parquet: a score is not finite"):
        predictions.write(whole, tmp_path / "predictions.parquet")
    assert not any(tmp_path.iterdir())


def test_the_damaged_one_of_several_files_is_named(whole, tmp_path):
    files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for file, (_, part) in zip(files, whole.groupby("arm"), strict=True):
        predictions.write(part, file)
    assert len(predictions.read(*files)) == 20
    files[1].write_text("no parquet")
    with pytest.raises(ValueError, match=r"two\.parquet is damaged .* again"):
        predictions.read(*files)
