"""Students from end to end: trained, killed, resumed, scored, saved and loaded."""

import multiprocessing
import os
import signal
from dataclasses import replace
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from simulated import notebook
from tiny import saved_model, study

from tinyllm import arms, paths, runs
from tinyllm.data import load as data
from tinyllm.data.question import Question
from tinyllm.evaluation import results
from tinyllm.models import score
from tinyllm.params import SPLITS, ParameterError, Params
from tinyllm.students import predictions, run, student
from tinyllm.teachers import ask

ARMS = ["inference", "lora", "kd:2", "tinyllm+lora:4", "tinyllm:no-examples", "tinyllm:gibberish"]
ARMS += ["finetune:x3"]
GIBBERISH, ADAPTED = "tinyllm:gibberish", "tinyllm+lora:4"


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """TINYLLM_RUNS shared by these tests, whose studies have different names. One thread, so that
    equal students are bitwise identical."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYLLM_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield paths.runs()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def params(folder):
    """A trained study with every kind of arm."""
    made = study(folder, arms=ARMS, workers=2)
    run.train_all(made)
    return made


@pytest.fixture(scope="module")
def facts(params):
    rows = {arm: runs.read_manifest(paths.student(params, arm, 0))["facts"] for arm in ARMS}
    return pd.DataFrame.from_dict(rows, orient="index")


def outcome(params, arm, seed=0):
    """Predictions, history and trained weights of a finished student."""
    path = paths.student(params, arm, seed)
    (weights,) = (path / "checkpoint").glob("*.safetensors")
    rows = predictions.read(path / "predictions.parquet").drop(columns=["study"])
    return rows, (path / "history.csv").read_text(), load_file(weights)


def same(one, two):
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1] == two[1]
    assert one[2].keys() == two[2].keys()
    assert all(torch.equal(one[2][name], two[2][name]) for name in one[2])


@pytest.mark.parametrize("arm", ARMS)
def test_saved_students_of_every_arm_give_their_stored_scores(params, arm):
    stored = predictions.read(paths.student(params, arm, 0) / "predictions.parquet")
    assert len(stored) == 12 and set(stored.arm) == {arm}
    model, encoding = student.untrained(params, arms.resolve(arm, params.teachers), 0)
    if arm != "inference":
        model, encoding = notebook("03")["load_student"](params, arm, 0)
    again = score.score_options(model, encoding, data.read(params)["test"])
    for row, scores in zip(again, stored.scores, strict=True):
        assert row["scores"] == pytest.approx(list(scores), abs=1e-4)


def test_students_record_their_size_cost_and_learning_curves(params, facts):
    whole = facts.parameters[GIBBERISH]
    assert facts.trained_parameters[GIBBERISH] == whole
    assert facts.train_flops[GIBBERISH] == 6 * whole * facts.train_tokens[GIBBERISH]
    _, _, adapters = outcome(params, ADAPTED)
    assert sum(t.numel() for t in adapters.values()) == facts.trained_parameters[ADAPTED]
    assert facts.trained_parameters["lora"] == 2 * facts.trained_parameters[ADAPTED] < 0.2 * whole
    assert facts.train_flops["lora"] < 5 * facts.parameters["lora"] * facts.train_tokens["lora"]
    assert facts.steps["lora"] == 3 and facts.steps["finetune:x3"] == 9
    assert facts.train_tokens["finetune:x3"] == 3 * facts.train_tokens["lora"]
    tasks = {"kd:2": {"answer", "options"}, GIBBERISH: {"answer", *params.teachers, "gibberish"}}
    for arm, names in tasks.items():
        history = pd.read_csv(paths.student(params, arm, 0) / "history.csv")
        assert set(history.task[history.metric == "loss"]) == names


def test_routed_and_auto_alpha_arms_are_trained_and_stored(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    two = ["hf:" + saved_model(tmp_path / name) for name in ("one", "two")]
    arms_of = ["tinyllm:routed-random:x2", "tinyllm:alpha-auto"]
    changes = {"study": "routed", "teachers": two, "arms": arms_of, "alpha": [0.5, 2.5]}
    chosen = study(folder, **changes)
    run.train_all(chosen)
    assert len(results.store(chosen)) == 2 and len(results.stored("routed")) == 24
    random, auto = (runs.read_manifest(paths.student(chosen, arm, 0)) for arm in arms_of)
    assert random["spec"]["tasks"][1][::2] == ["routed", 1.5] and random["facts"]["steps"] == 6
    assert random["facts"]["chosen"].count("%") == len(auto["facts"]["final_alpha"]) == 2
    with pytest.raises(runs.StaleRun, match="alpha"):
        results.store(Params.checked(**chosen.model_dump() | {"alpha": [1.0, 2.5]}))


def test_weights_are_kept_only_for_trained_students_with_keep_weights(params, facts):
    assert not facts.loc["inference", ["steps", "trained_parameters", "train_flops"]].any()
    path = paths.student(params, "inference", 0)
    assert not (path / "checkpoint").exists()  # the weights are those of `student`
    light = params.model_copy(update={"arms": ["finetune"], "seeds": [4], "keep_weights": False})
    path = run.train_one(light, "finetune", 4)
    assert not list(path.glob("checkpoint*"))


def test_a_spec_lists_arm_inputs_and_is_none_until_they_exist(params, folder):
    (teacher,) = params.teachers
    learned = run.spec(params, "kd:2", 0)
    assert learned["answers"] == {teacher: ask.content(params, teacher, "answers")}
    assert learned["rationales"] == {}
    absent = params.model_copy(update={"arms": ["tinyllm:no-forcing", "finetune"]})
    assert [spec is None for _, spec in run.work(absent)] == [True, False]
    drawn = study(folder, study="drawn", samples=2, temperature=1.0, arms=["tinyllm", "finetune"])
    assert run.spec(drawn, "tinyllm", 0)["learn_sample"] == "each-epoch"
    assert not {"samples", "learn_sample", "temperature"} & set(run.spec(drawn, "finetune", 0))


def test_students_train_on_all_samples_or_on_the_agreeing_one(folder, monkeypatch):
    drawn = study(folder, study="agreed", samples=2, temperature=1.0, arms=["tinyllm"])
    spy = Mock(side_effect=student.train)
    monkeypatch.setattr(student, "train", spy)
    run.train_one(drawn, "tinyllm", 0)
    run.train_one(drawn.model_copy(update={"learn_sample": "agreeing"}), "tinyllm", 1)
    assert [len(call.args[2]) for call in spy.call_args_list] == [2, 1], "samples to learn"


def test_finished_students_are_reused_and_other_parameters_are_rejected(params, monkeypatch):
    monkeypatch.setattr(student, "make", lambda *_, **__: pytest.fail("trained again"))
    path = paths.student(params, "lora", 0)
    assert run.train_one(params, "lora", 0) == path
    assert run.train_all(params)[ARMS.index("lora")] == path
    other = params.model_copy(update={"lr": 0.1, "max_input": 64})
    with pytest.raises(runs.StaleRun, match=r"lr: 0\.002 .* 0\.1 .*max_input: 256 .* 64 "):
        run.train_one(other, "lora", 0)


OTHER = {
    "student": "micro-llama", "task_prefix": "decoder", "alpha": [3.0], "lr": 0.1, "final_lr": 0.5,
    "batch_size": 3, "accumulation": 2, "epochs": 2.0, "warmup": 0.3, "max_input": 99,
    "max_target": 9, "evals": 2, "patience": 1, "precision": "fp32", "nproc": 2,
    "max_new_tokens": 7, "learn_from": "both", "cleaning": ["repair"],
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_every_training_parameter_is_in_the_spec(params, monkeypatch, name):
    monkeypatch.setattr(ask, "content", lambda *_: "same")
    other = params.model_copy(update={name: OTHER[name]})
    assert run.spec(params, "tinyllm", 0) != run.spec(other, "tinyllm", 0)


def test_each_seed_starts_and_trains_its_own_student(params, monkeypatch):
    begun, trained = Mock(side_effect=student.untrained), Mock(side_effect=student.train)
    monkeypatch.setattr(student, "untrained", begun)
    monkeypatch.setattr(student, "train", trained)
    for seed in (5, 6):
        run.train_one(params, "finetune", seed)
    assert [call.args[2] for call in begun.call_args_list] == [5, 6]
    assert [call.kwargs["seed"] for call in trained.call_args_list] == [5, 6]


def test_an_arm_whose_teacher_wrote_nothing_is_rejected(params, monkeypatch):
    monkeypatch.setattr(ask, "rationales", lambda *_: {})
    with pytest.raises(ParameterError, match="no rationale of"):
        run.train_one(params, "tinyllm", 7)


def test_checkpoints_are_chosen_on_valid_and_test_is_scored_once(params, monkeypatch):
    splits, whole = [], score.score_options

    def watched(model, encoding, rows, **how):
        splits.append({row.id.partition("-")[0] for row in rows})
        return whole(model, encoding, rows, **how)

    monkeypatch.setattr(score, "score_options", watched)
    run.train_one(params.model_copy(update={"evals": 3}), "finetune", 8)
    assert splits == [{"valid"}] * 3 + [{"test"}]


def test_test_questions_do_not_influence_training(params, folder):
    """Other test questions and labels give the same trained student."""
    blind = study(folder, asked=False, study="blind", arms=[GIBBERISH])
    splits = data.read(blind)
    splits["test"] = [
        replace(row, question="what?", answer=(row.answer + 1) % 4) for row in splits["test"]
    ]
    (paths.data(blind) / "manifest.json").unlink()
    data.save(splits, blind)
    ask.ask_all(blind)
    run.train_all(blind)
    one, two = outcome(params, GIBBERISH), outcome(blind, GIBBERISH)
    assert (one[0].gold != two[0].gold).all()  # although it was scored on other labels
    same(one, (one[0], *two[1:]))


def train_and_die(environment, params, killed):
    """Train a student in this process; if `killed`, kill it while a checkpoint is written."""

    def torn(content, stream):
        if killed and "optimizer" in content and content["state"]["step"] == 4:
            stream.write(b"half a checkpoint")
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        torch_save(content, stream)

    os.environ.update(environment)
    torch.set_num_threads(1)
    torch_save, torch.save = torch.save, torn
    run.train_one(params, "tinyllm", 0)


def in_a_process(params, killed=False):
    """Exit code of `train_and_die` in a separate process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tinyllm.students.run"])
    process = context.Process(target=train_and_die, args=(dict(os.environ), params, killed))
    process.start()
    process.join()
    return process.exitcode


def test_a_killed_and_resumed_student_equals_an_uninterrupted_one(folder):
    changes = {"limit": {"train": 24, "valid": 8, "test": 8}, "batch_size": 8, "epochs": 4.0}
    changes |= {"evals": 6, "student": saved_model(folder / "student", dropout=0.2)}
    params = study(folder, study="whole", arms=["tinyllm"], **changes)
    assert in_a_process(params) == 0
    killed = params.model_copy(update={"study": "killed"})
    data.save(data.load(killed), killed)
    path = paths.student(killed, "tinyllm", 0)
    assert in_a_process(killed, killed=True) == -signal.SIGKILL
    assert not runs.finished(path, run.spec(killed, "tinyllm", 0))
    assert len(list((path / "checkpoints").glob("step-*.pt"))) == 1
    assert in_a_process(killed) == 0
    same(outcome(killed, "tinyllm"), outcome(params, "tinyllm"))
    assert not (path / "checkpoints").exists()


def test_checkpoints_of_unknown_parameters_are_deleted(params, monkeypatch):
    """`begun.json`, which has the parameters, was deleted after a power cut."""
    old = paths.student(params, "finetune", 9) / "checkpoints"
    old.mkdir(parents=True)
    monkeypatch.setattr(student, "make", lambda *_: {"left": old.exists()})
    path = run.train_one(params, "finetune", 9)
    assert runs.read_manifest(path)["facts"]["left"] is False


def test_a_killed_worker_fails_only_its_own_student(params, monkeypatch):
    """The first of three is killed; the other two finish, and a rerun trains the first."""
    killed = params.model_copy(update={"arms": ["finetune"], "seeds": [1, 2, 3], "workers": 1})
    wait, pids = run.wait, []

    def killing(sentinels, timeout):
        if not pids:
            pids.extend(process.pid for process in multiprocessing.active_children())
            os.kill(*pids, signal.SIGKILL)
        return wait(sentinels, timeout)

    def finished():
        return [runs.finished(*work) for work in run.work(killed)]

    monkeypatch.setattr(run, "wait", killing)
    with pytest.raises(RuntimeError, match=r"1 of 3 students failed:\nfinetune, seed 1: .*-9"):
        run.train_all(killed)
    assert finished() == [False, True, True]
    run.train_all(killed)
    assert finished() == [True] * 3


MINILM = {"student": "minilm-ed", "arms": ["finetune"]}


def test_limits_beyond_the_student_are_rejected_before_training(folder, monkeypatch, minilm_file):
    monkeypatch.setattr(run, "_side_by_side", lambda *_: pytest.fail("trained"))
    params = study(folder, asked=False, study="fit", **MINILM | {"max_target": 600})
    with pytest.raises(ParameterError, match="512"):
        run.train_all(params)


def test_unknown_tokens_and_indistinguishable_options_are_reported(monkeypatch, minilm_file):
    faces = [Question(f"q{i}", "", "Which face is glad?", ["😀", "😡"], 0) for i in range(3)]
    monkeypatch.setattr(data, "read", lambda params: dict.fromkeys(SPLITS, faces))
    with pytest.warns(UserWarning, match=r"of 9 questions, 9 have text .* 9 have options"):
        student.check(Params.checked(**MINILM))


def test_gold_answers_longer_than_a_limit_are_reported(monkeypatch, minilm_file):
    long = [Question(f"q{i}", "", "Who?", ["a cat or a dog", "it"], i % 2) for i in range(4)]
    monkeypatch.setattr(data, "read", lambda params: dict.fromkeys(SPLITS, long))
    words = (
        r"4: 6 of 12 gold answers are longer \(up to 5 tokens\), so they are never an exact match"
    )
    with pytest.warns(UserWarning, match=f"max_new_tokens: {words}"):
        student.check(Params.checked(**MINILM, max_new_tokens=4, max_target=6))
    with pytest.warns(UserWarning, match=r"max_target: 5: 6 of 12 .* so they are cut in training"):
        student.check(Params.checked(**MINILM, max_new_tokens=5, max_target=5))


def test_decoder_only_training_is_the_same_with_activation_checkpointing(folder):
    ends = []
    for checkpointing in (False, True):
        changes = {"study": f"causal{checkpointing}", "checkpointing": checkpointing}
        changes |= {"student": "micro-llama", "task_prefix": "decoder", "arms": ["tinyllm"]}
        params = study(folder, **changes)
        start, _ = student.untrained(params, arms.resolve("tinyllm", params.teachers), 0)
        assert start.is_activation_checkpointing == checkpointing
        run.train_all(params)
        ends.append(outcome(params, "tinyllm")[2])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_torchrun_and_one_process_train_on_the_same_tokens_and_steps(folder):
    """Two processes (gloo, CPU); 9 questions, 8 per step: one process idles in the last step."""
    ends = []
    for nproc, batch_size in ((1, 8), (2, 4)):
        changes = {"nproc": nproc, "batch_size": batch_size, "epochs": 2.0, "evals": 2}
        changes |= {"study": f"processes{nproc}", "limit": {"train": 9, "valid": 8, "test": 8}}
        params = study(folder, arms=["tinyllm"], **changes)
        (path,) = run.train_all(params)
        assert runs.intact(path) and runs.finished(path, run.spec(params, "tinyllm", 0))
        facts = runs.read_manifest(path)["facts"]
        ends.append([facts[name] for name in ("train_tokens", "steps", "targets")])
    assert ends[0] == ends[1]
