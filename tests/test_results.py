"""Stored results are read and restored unchanged, and never replaced by fewer rows."""

import json
import shutil
from dataclasses import asdict

import pandas as pd
import pytest
from simulated import history, predictions

from tinyllm import paths, runs
from tinyllm.data.question import Question
from tinyllm.evaluation import results
from tinyllm.params import SPLITS, Params
from tinyllm.students import predictions as students

ARMS = {"finetune": 0.5, "tinyllm": 0.6}
ROWS = predictions(ARMS, study="small", n=12, seeds=[0, 1])
VALUES = {"study": "small", "dataset": "obqa", "source": "release", "student": "minilm-ed"}
VALUES |= {"teachers": ["release:flan-t5"], "arms": list(ARMS), "seeds": [0, 1], "alpha": 0.5}
VALUES |= {"lr": 0.002}
PARAMS = Params.checked(**VALUES)


def with_(**changes) -> Params:
    return Params.checked(**VALUES | changes)


def train(
    params: Params, rows: pd.DataFrame, code: int = 1, used: str = "fp32", **more: str
) -> None:
    """Create run folders of finished students with these predictions."""
    for (arm, seed), part in rows.groupby(["arm", "seed"]):
        tasks = [["answer", "predict: ", 1.0]]
        tasks += [["release:flan-t5", "explain: ", 0.5]] if arm.startswith("tinyllm") else []
        folder = paths.student(params, arm, seed)
        spec = {"arm": arm, "seed": seed, "student": params.student, "tasks": tasks, "data": "d"}
        with runs.recording(folder, spec | {"lr": params.lr} | more) as facts:
            facts |= {"train_flops": 100 + seed, "n": len(part), "curve": params.curve}
            facts |= {"versions": {"train": code}, "computed_in": used}
            students.write(part, folder / results.PREDICTIONS)
            curve = history([arm], [seed]).drop(columns=["arm", "seed"])
            curve.to_csv(folder / results.HISTORY, index=False)
            (folder / "checkpoint").mkdir()
            (folder / "checkpoint" / "model.safetensors").write_text("weights")


@pytest.fixture
def folders(own_folders):
    """Run folders of four finished students and an empty results folder."""
    for table in (results.stored, results.whole, results.facts, results.baselines):
        assert table().empty
    train(PARAMS, ROWS)
    return own_folders


def contents(params: Params) -> list[bytes]:
    """Predictions and learning curve of every student in runs/."""
    asked = [paths.student(params, arm, seed) for arm in params.arms for seed in params.seeds]
    return [
        (run / name).read_bytes()
        for run in asked
        for name in (results.PREDICTIONS, results.HISTORY)
    ]


def test_store_and_restore_preserve_results_without_weights(folders, monkeypatch):
    before = contents(PARAMS)
    rows = students.read(*sorted(paths.runs().rglob(results.PREDICTIONS)))
    copied = results.store(PARAMS)
    assert (len(rows), len(copied)) == (len(ROWS), 4)
    key = ["arm", "seed", "id"]
    pd.testing.assert_frame_equal(
        results.stored("small", "obqa").sort_values(key, ignore_index=True),
        rows.sort_values(key, ignore_index=True),
    )
    for folder in copied:
        files = {file.name for file in folder.iterdir()}
        assert files == {results.PREDICTIONS, results.HISTORY, runs.MANIFEST}
    # Restore to another runs folder: all students except one already begun in it.
    monkeypatch.setenv("TINYLLM_RUNS", str(folders / "elsewhere"))
    begun = paths.student(PARAMS, "tinyllm", 0)
    runs.write_json(begun / runs.BEGUN, {})
    assert len(results.restore(PARAMS)) == 3
    shutil.rmtree(begun)
    assert results.restore(PARAMS) == [begun]
    assert contents(PARAMS) == before


def test_a_retrained_student_replaces_only_its_own_stored_results(folders):
    results.store(PARAMS)
    assert len(results.store(with_(seeds=[0], arms=["finetune"]))) == 1
    (paths.student(PARAMS, "finetune", 0) / runs.MANIFEST).unlink()
    assert len(results.store(PARAMS)) == 3 and len(results.stored()) == len(ROWS)
    again = predictions(ARMS, study="small", n=12, seeds=[0, 1], rng=5)
    shutil.rmtree(paths.student(PARAMS, "tinyllm", 1))
    train(PARAMS, again[(again["arm"] == "tinyllm") & (again["seed"] == 1)])
    results.store(with_(arms=["tinyllm"], seeds=[1]))
    for seed in (0, 1):
        new, run = (place(PARAMS, "tinyllm", seed) for place in (paths.stored, paths.student))
        assert runs.read_manifest(new) == runs.read_manifest(run)
    assert sorted(f.name for f in new.parent.iterdir()) == ["seed0", "seed1"]  # no other files


def test_missing_or_torn_files_are_stored_again_and_torn_runs_are_not_stored(folders):
    results.store(PARAMS)
    kept, run = (place(PARAMS, "finetune", 0) for place in (paths.stored, paths.student))
    (kept / results.PREDICTIONS).unlink()
    results.store(PARAMS)
    (kept / results.PREDICTIONS).write_bytes(b"half a file")
    with pytest.raises(runs.StaleRun, match="seed0 changed since it was finished; delete it"):
        results.finished(kept, PARAMS)
    results.store(PARAMS)
    (kept / results.HISTORY).unlink()
    assert not runs.intact(kept)
    results.store(PARAMS)
    assert runs.intact(kept)
    (run / results.PREDICTIONS).write_bytes(b"half a file")
    with pytest.raises(runs.StaleRun, match="seed0 changed since it was finished; delete it"):
        results.store(PARAMS)
    (run / results.PREDICTIONS).unlink()
    assert len(results.store(PARAMS)) == 3 and runs.intact(kept)
    (run / runs.MANIFEST).unlink()
    assert results.restore(PARAMS) == []  # it has weights that the stored student does not have
    assert (run / "checkpoint" / "model.safetensors").exists()


def test_a_damaged_table_and_a_copied_student_are_named_and_a_renamed_study_is_read(folders):
    results.store(PARAMS)
    table = paths.results() / "small" / "obqa" / results.BASELINES
    table.touch()
    with pytest.raises(ValueError, match=r"baselines\.csv is damaged .*delete it"):
        results.baselines()
    table.unlink()
    kept = paths.stored(PARAMS, "finetune", 0)
    shutil.copytree(kept, kept.with_name("seed0.bak"))
    with pytest.raises(ValueError, match=r"seed0 and .*seed0\.bak hold the same student"):
        results.stored()
    shutil.rmtree(kept.with_name("seed0.bak"))
    (paths.results() / "small").rename(paths.results() / "other")
    assert set(results.stored()["study"]) == set(results.facts()["study"]) == {"other"}


def test_stored_results_are_not_replaced_by_fewer_rows_or_mixed_settings(folders):
    results.store(PARAMS)

    def refused(words, rows, more=(), **changes):
        shutil.rmtree(folders / "runs", ignore_errors=True)
        params = PARAMS.model_copy(update=changes)
        train(params, rows, **dict(more))
        with pytest.raises(runs.StaleRun, match=words):
            results.store(params)

    refused("12 test questions would be replaced by 3", ROWS[ROWS["id"].isin(["q0", "q1", "q2"])])
    first = ROWS[ROWS["seed"] == 0]
    refused(r"lr: 0\.002 in the folder, 3\.0 asked for", first, lr=3.0, seeds=[0])
    refused("training code: 1 in the folder, 2", first, {"code": 2}, seeds=[0])
    refused("precision used: 'fp32' in the folder, 'bf16'", first, {"used": "bf16"}, seeds=[0])
    new = predictions({"tinyllm": 0.6}, study="small", n=12, seeds=[2])
    for other in ({"learn_from": "thinking"}, {"samples": 2}):  # with the same teacher
        refused(next(iter(other)), new, other, seeds=[2], **other)
    shutil.rmtree(folders / "runs")
    with pytest.raises(runs.StaleRun, match="lr"):
        results.restore(with_(lr=3.0))
    results.restore(PARAMS)  # then one more seed, by newer code
    train(PARAMS, predictions({"tinyllm": 0.6}, study="small", n=12, seeds=[2]), code=2)
    with pytest.raises(runs.StaleRun, match=r"/runs/.*training code: 1"):
        results.store(with_(seeds=[0, 1, 2]))
    assert set(results.facts()["lr"]) == {0.002} and len(results.stored()) == len(ROWS)


def test_students_trained_with_other_parameters_are_rejected(folders):
    for changes, words in (
        ({"alpha": 0.1}, r"alpha.release:flan-t5: 0.5 in the folder, 0.1 asked for"),
        ({"teachers": ["release:llama2"]}, r"alpha.release:flan-t5: 0.5 in the folder, None"),
    ):
        with pytest.raises(runs.StaleRun, match=words):
            results.store(with_(**changes))
    # Parameters that a notebook does not set are not compared.
    names = set(VALUES) - {"lr", "alpha"}
    assert len(results.store(Params.checked(**{name: VALUES[name] for name in names}))) == 4


def test_students_of_other_questions_are_rejected_and_baselines_are_stored(folders):
    data = paths.data(PARAMS)
    runs.write_json(data / runs.MANIFEST, {"facts": {"content": "d"}})
    rows = [Question(f"q{i}", "", "?", ["yes", "no"], int(i > 2)) for i in range(4)]
    for split in SPLITS:
        pd.DataFrame([asdict(row) for row in rows]).to_parquet(data / f"{split}.parquet")
    results.store(PARAMS)
    line = results.baselines("small").iloc[-1]
    assert (line["questions"], line["chance"], line["always"]) == (4, 0.5, "yes")
    runs.write_json(data / runs.MANIFEST, {"facts": {"content": "others"}})
    with pytest.raises(runs.StaleRun, match="data: 'd' in the folder, 'others' asked for"):
        results.store(PARAMS)


def test_results_of_a_users_file_are_rejected_after_it_changed_without_runs(folders, tmp_path):
    results.store(PARAMS)
    shutil.rmtree(paths.runs())
    file = tmp_path / "mine.jsonl"
    lines = [json.dumps({"question": f"{n}?", "A": "x", "B": "y", "answer": "A"}) for n in range(9)]
    file.write_text("\n".join(lines))
    given = {**VALUES, "source": f"file:{file}", "columns": {}, "limit": {}, "teachers": []}
    given |= {"arms": ["finetune"]}
    with pytest.raises(runs.StaleRun, match="data: 'd' in the folder"):
        results.finished(paths.stored(PARAMS, "finetune", 0), Params.checked(**given))
    file.unlink()  # nothing to compare with
    assert results.finished(paths.stored(PARAMS, "finetune", 0), Params.checked(**given))


def test_facts_record_training_settings_and_whole_keeps_only_complete_studies(folders):
    results.store(PARAMS)
    facts = results.facts("small").set_index(["arm", "seed"])
    assert facts.loc[("tinyllm", 1), "train_flops"] == 101
    assert facts.loc[("tinyllm", 0), ["teachers", "alpha", "lr"]].tolist() == [1, 0.5, PARAMS.lr]
    assert facts.loc[("finetune", 0), "teachers"] == 0 and facts["alpha"].isna()[("finetune", 0)]
    point = with_(study="any-name", curve=True)
    train(point, ROWS.assign(study="any-name"))
    results.store(point)
    begun = with_(dataset="arc", arms=["tinyllm"])  # without a fine-tuned student
    train(begun, ROWS[ROWS["arm"] == "tinyllm"].assign(dataset="arc"))
    results.store(begun)
    assert set(results.stored()["study"]) == {"small", "any-name"}
    whole = results.whole()
    assert set(whole["study"]) == {"small"} and set(whole["dataset"]) == {"obqa"}


def test_storing_teacher_answers_keeps_those_of_other_teachers(folders):
    rows = ROWS[(ROWS["arm"] == "finetune") & (ROWS["seed"] == 0)].assign(shots="random:2")
    for teacher, right in (("hf:one", False), ("hf:two", False), ("hf:one", True)):
        results.store_teachers(PARAMS, rows.assign(teacher=teacher, correct=right))
    rows = results.stored_teachers("small", "obqa")
    assert list(rows) == results.ANSWERS
    assert rows.groupby("teacher").size().to_dict() == {"hf:one": 12, "hf:two": 12}
    assert rows.groupby("teacher")["correct"].all().to_dict() == {"hf:one": True, "hf:two": False}
    one = rows[rows["teacher"] == "hf:one"]
    for other in (one.head(3), one.assign(gold=one["gold"] + 1)):  # fewer, or other questions
        with pytest.raises(runs.StaleRun, match=r"answers to \d+ questions would be lost"):
            results.store_teachers(PARAMS, other)
    assert len(results.stored_teachers("small", "obqa")) == 24


def test_stored_studies_are_complete(committed_results):
    rows, facts = results.stored(), results.facts()
    assert len(facts) == rows[results.STUDENT].drop_duplicates().shape[0] > 100
    assert facts["n"].sum() == len(rows)
    for name in ("curve", "computed_in", "precision"):
        assert facts.loc[facts["steps"] > 0, name].notna().all()
    assert (rows["correct"] == (rows["choice"] == rows["gold"])).all()
    assert not results.whole()["study"].str.contains("alpha|data").any()
