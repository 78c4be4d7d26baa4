"""The learning rate is chosen by the rule that is written down, from valid alone."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
import yaml

from tinyllm import grid, paths, results, runs, selection
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


def test_a_later_dataset_keeps_the_first_ones_rate_unless_fine_tuning_gives_it_up():
    # The other arm is not finished: 4 points are less than two standard errors, 6 are more.
    near = tried({1e-4: (0.45, None), 2e-4: (0.41, None)})
    kept = selection.choose(near, 2e-4).set_index("lr")["chosen"]
    assert kept.to_dict() == {1e-4: False, 2e-4: True}
    part = tried({1e-4: (0.45, 0.9), 2e-4: (0.41, None)})
    assert selection.choose(part, 2e-4)["mean"].tolist() == [0.45, 0.41]
    with pytest.raises(ValueError, match=r"obqa/minilm-ed: lr 0.0003, the first dataset's, is not"):
        selection.choose(near, 3e-4)
    far = tried({1e-4: (0.45, 0.40), 2e-4: (0.39, 0.90)})
    assert selection.choose(far, 2e-4).set_index("lr")["chosen"][1e-4]
    with pytest.raises(ValueError, match="tinyllm, seed 0, is not finished"):
        selection.choose(near)  # as a first dataset it needs the other arms


def test_a_rate_that_lacks_an_arm_is_not_judged():
    with pytest.raises(ValueError, match=r"obqa/minilm-ed: lr 0.0002: tinyllm, seed 0, is not"):
        selection.choose(tried({1e-4: (0.4, 0.4), 2e-4: (0.4, 0.4)}).iloc[:3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[f["arm"] == "tinyllm"], "needs the arm 'finetune'"),
        (lambda f: pd.concat([f, f]), "lr 0.0001 stands in two studies"),
        (lambda f: f.assign(valid_accuracy=None), "lr 0.0001: finetune is not finished"),
    ],
)
def test_what_the_rule_cannot_judge_is_an_error_that_names_it(change, words):
    with pytest.raises(ValueError, match=f"obqa/minilm-ed: .*{words}"):
        selection.choose(change(tried({1e-4: (0.4, 0.4), 2e-4: (0.4, 0.4)})))


def finish(params: Params, accuracy: float, n: int, **other: object):
    """Fine-tuning of one of the search, as if it had been trained; n: questions of valid."""
    data = paths.study(params.study, params.dataset) / "data"
    runs.write_json(data / runs.MANIFEST, {"spec": {}, "facts": {"rows": {"valid": n}}})
    student = results.student_folder(params, "finetune", 0)
    spec, facts = params.spec("lr", "epochs") | other, {"valid_accuracy": accuracy}
    runs.write_json(student / runs.MANIFEST, {"spec": spec, "facts": facts})


def test_a_search_is_judged_as_far_as_it_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path))
    old = tried({3e-4: (0.4, 0.4)})
    selection.choose(old).to_csv(tmp_path / selection.FILE, index=False)
    studies = grid.load("laptop_search").studies
    obqa, arc = ([p for p in studies if p.dataset == name] for name in ("obqa", "arc"))
    for params, accuracy in zip(obqa, (0.348, 0.416, 0.284), strict=True):
        finish(params, accuracy, 500)
    selection.main(["laptop_search"])
    stored = selection.stored()
    assert stored["lr"].tolist() == [1e-4, 2e-4, 4e-4]  # the old rate is gone
    assert stored.loc[stored["chosen"], "lr"].tolist() == [2e-4]
    assert "not yet: arc/minilm-ed: lr 0.0001: finetune is not finished" in capsys.readouterr().out
    for params, accuracy in zip(arc, (0.33, 0.31, 0.32), strict=True):
        finish(params, accuracy, 295)  # its own best rate is another, but the first one's will do
    selection.main(["laptop_search"])
    stored = selection.stored()
    chosen = stored[stored["chosen"]].set_index("dataset")["lr"]
    assert chosen.to_dict() == {"obqa": 2e-4, "arc": 2e-4}
    shutil.rmtree(tmp_path / "runs")  # on another machine, the search goes on
    (tmp_path / selection.FILE).unlink()
    selection.main(["laptop_search"])
    pd.testing.assert_frame_equal(selection.stored(), stored)
    finish(obqa[-1], 0.9, 500, epochs=99.0)
    selection.main(["laptop_search"])  # one of other parameters does not replace what was kept
    pd.testing.assert_frame_equal(selection.stored(), stored)
    (tmp_path / selection.STUDENTS).unlink()
    capsys.readouterr()
    selection.main(["laptop_search"])
    assert "not yet: obqa" in capsys.readouterr().out  # of other parameters
    (tmp_path / selection.FILE).unlink()
    selection.main(["laptop_search"])
    assert "minilm-ed: obqa, its first dataset, has no rate yet" in capsys.readouterr().out


def test_the_search_can_see_one_test_question_at_most():
    studies = grid.load("laptop_search").studies
    assert {p.limit["test"] for p in studies} == {1}
    assert {p.lr for p in studies} == {1e-4, 2e-4, 4e-4}


def test_laptop_studies_run_with_the_rate_that_was_chosen_for_their_dataset(committed_results):
    stored = selection.stored()
    assert stored["chosen"].any()
    for row in stored[stored["chosen"]].itertuples():
        file = paths.ROOT / "params" / "laptop" / f"{row.dataset}.yaml"
        params = Params.checked(**yaml.safe_load(file.read_text(encoding="utf-8")))
        assert (params.student, params.lr) == (row.student, row.lr)
