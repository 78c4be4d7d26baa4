"""The learning rate is chosen by the rule that is written down, from valid alone."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from tinyllm import grid, paths, selection
from tinyllm.params import Params


def tried(accuracies: dict[float, tuple[float, float]], n: int = 500) -> pd.DataFrame:
    """Students of fine-tuning and TinyLLM at each rate, in the columns of `selection.collect`."""
    rows = [
        {
            "dataset": "obqa",
            "student": "minilm-ed",
            "lr": lr,
            "epochs": 3.0,
            "arm": arm,
            "seed": 0,
            "valid_accuracy": accuracy,
            "n": n,
        }
        for lr, both in accuracies.items()
        for arm, accuracy in zip(("finetune", "tinyllm"), both, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({1e-4: (0.42, 0.30), 2e-4: (0.42, 0.49), 4e-4: (0.45, 0.51)}, 4e-4),  # 2.5 points > 2.2
        ({1e-4: (0.42, 0.30), 2e-4: (0.44, 0.49), 4e-4: (0.45, 0.51)}, 2e-4),  # 1.5 points
        ({4e-4: (0.45, 0.45), 1e-4: (0.44, 0.44), 2e-4: (0.42, 0.30)}, 1e-4),  # whatever between
        ({1e-4: (0.47, 0.44), 2e-4: (0.48, 0.50)}, 2e-4),  # the mean of the arms counts
    ],
)
def test_the_smallest_rate_within_one_standard_error_of_the_best_mean_is_taken(accuracies, chosen):
    table = selection.choose(tried(accuracies))
    assert table.loc[table["chosen"], "lr"].tolist() == [chosen]
    assert table["mean"].tolist() == pytest.approx(
        [sum(accuracies[lr]) / 2 for lr in sorted(accuracies)]
    )


def test_a_rate_of_much_worse_fine_tuning_is_given_up_whatever_else_it_did():
    table = selection.choose(tried({1e-4: (0.40, 0.90), 2e-4: (0.45, 0.5)})).set_index("lr")
    assert table["chosen"].to_dict() == {1e-4: False, 2e-4: True}  # 5 points, more than 4.4
    assert table["given_up"].to_dict() == {1e-4: True, 2e-4: False}
    cheap = tried({1e-4: (0.40, 0.90), 2e-4: (0.45, 0.5)}).query("lr > 1e-4 or arm == 'finetune'")
    assert selection.choose(cheap).set_index("lr")["chosen"][2e-4]
    alone = cheap[cheap["arm"] == "finetune"]
    assert selection.choose(alone).set_index("lr")["chosen"].to_dict() == {1e-4: False, 2e-4: True}


def test_a_rate_that_lacks_an_arm_is_not_judged():
    with pytest.raises(ValueError, match=r"obqa/minilm-ed: lr 0.0002: tinyllm, seed 0, is not"):
        selection.choose(tried({1e-4: (0.4, 0.4), 2e-4: (0.4, 0.4)}).iloc[:3])


def test_the_search_can_see_one_test_question_at_most():
    studies = grid.load("laptop_search").studies
    assert {p.limit["test"] for p in studies} == {1}
    assert {p.lr for p in studies} == {1e-4, 2e-4, 4e-4}


def test_laptop_studies_run_with_the_rate_that_was_chosen_for_their_dataset():
    stored = selection.stored()
    for row in stored[stored["chosen"]].itertuples():
        file = paths.ROOT / "params" / "laptop" / f"{row.dataset}.yaml"
        params = Params.checked(**yaml.safe_load(file.read_text(encoding="utf-8")))
        assert (params.student, params.lr) == (row.student, row.lr)
