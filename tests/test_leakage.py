"""Nothing of test but its questions reaches a student, and these only to be scored."""

from dataclasses import replace

import pandas as pd
import torch
from safetensors.torch import load_file
from tiny import study

from tinyllm import paths
from tinyllm.data import load as data
from tinyllm.students import predictions, run
from tinyllm.teachers import ask

MARK = "LEAKED"


def trained(params):
    """History, weights and predictions of the study's one student."""
    run.train_all(params)
    folder = paths.student(params, params.arms[0], 0)
    (weights,) = (folder / "checkpoint").glob("*.safetensors")
    rows = predictions.read(folder / "predictions.parquet")
    return (folder / "history.csv").read_text(), load_file(weights), rows


def test_other_test_labels_and_rationales_give_the_same_students(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    params = study(tmp_path, arms=["tinyllm"])
    splits = dict(data.read(params))
    splits["test"] = [
        replace(row, answer=(row.answer + 1) % len(row.options), rationale=MARK)
        for row in splits["test"]
    ]
    changed = params.model_copy(update={"study": "changed"})
    data.save(splits, changed)
    ask.ask_all(changed)
    one, other = trained(params), trained(changed)
    assert one[0] == other[0]  # losses, and the scores of valid by which weights are chosen
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    columns = ["scores", "choice", "generated"]
    pd.testing.assert_frame_equal(one[2][columns], other[2][columns])
    assert (one[2]["gold"] != other[2]["gold"]).all()  # only what they are judged by differs


def test_no_prompt_of_a_rationale_holds_a_test_question(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    params = study(tmp_path)
    asked = {row.question for split in ("train", "valid") for row in data.read(params)[split]}
    hidden = [row.question for row in data.read(params)["test"] if row.question not in asked]
    prompts = [record.prompt for uri in params.teachers for record in ask.records(params, uri)]
    assert hidden and prompts
    assert not [text for text in hidden if any(text in prompt for prompt in prompts)]
