"""What is stored can be read again as it was, and what is broken names its file."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from simulated import history, predictions, teachers

from tinyllm import grid, handover, paths, results, runs, status
from tinyllm.params import Params

PARAMS = Params.checked(
    study="small", dataset="obqa", source="release", teachers=["release:flan-t5"],
    student="minilm-ed", arms=["finetune", "tinyllm"], seeds=[0, 1], alpha=0.5,
)  # fmt: skip
ROWS = predictions({"finetune": 0.5, "tinyllm": 0.6}, study="small", n=12, seeds=[0, 1])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Run folders of four finished students, and an empty results folder."""
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    for (arm, seed), rows in ROWS.groupby(["arm", "seed"]):
        tasks = [["answer", "predict: ", 1.0]]
        tasks += [["release:flan-t5", "explain: ", 0.5]] if arm == "tinyllm" else []
        spec = {"tasks": tasks, "arm": arm, "seed": seed}
        with runs.recording(results.student_folder(PARAMS, arm, seed), spec) as facts:
            facts |= {"parameters": 7, "train_questions": 40, "train_flops": 100 + seed}
            folder = results.student_folder(PARAMS, arm, seed)
            rows.to_parquet(folder / results.PREDICTIONS)
            history([arm], [seed]).drop(columns=["arm", "seed"]).to_csv(
                folder / results.HISTORY, index=False
            )
    return tmp_path


def test_what_is_stored_is_what_was_collected(folders):
    rows, curves = results.collect(PARAMS)
    assert len(rows) == len(ROWS)
    folder = results.store(PARAMS, rows, curves)
    pd.testing.assert_frame_equal(results.stored("small", "obqa"), rows)
    pd.testing.assert_frame_equal(results.stored_histories("small", "obqa")["minilm-ed"], curves)
    assert sorted(f.name for f in folder.iterdir()) == sorted(
        [results.PREDICTIONS, results.HISTORY, results.MANIFESTS]
    )
    assert results.stored_studies() == [("small", "obqa")]


def test_facts_say_what_each_student_was_trained_with(folders):
    results.store(PARAMS, *results.collect(PARAMS))
    facts = results.stored_facts().set_index(["arm", "seed"])
    assert facts.loc[("tinyllm", 1), "train_flops"] == 101
    assert facts.loc[("tinyllm", 0), ["teachers", "alpha"]].tolist() == [1, 0.5]
    assert facts.loc[("finetune", 0), "teachers"] == 0
    assert facts["alpha"].isna()[("finetune", 0)]
    assert facts["train_tokens"].isna().all()  # those manifests do not record it
    assert set(facts["student"]) == {"minilm-ed"}


def test_stored_students_can_be_given_back_to_a_checkout_without_runs(folders, monkeypatch):
    rows, curves = results.collect(PARAMS)
    results.store(PARAMS, rows, curves)
    kept = runs.read_manifest(results.student_folder(PARAMS, "tinyllm", 1))
    monkeypatch.setenv("TINYLLM_RUNS", str(folders / "elsewhere"))
    with pytest.raises(FileNotFoundError):
        results.collect(PARAMS)
    part = PARAMS.model_copy(update={"seeds": [1]})
    assert handover.restore(part) == 2
    assert runs.read_manifest(results.student_folder(PARAMS, "tinyllm", 1)) == kept
    assert handover.restore(PARAMS) == 2  # those that were not there yet
    again, same = results.collect(PARAMS)
    pd.testing.assert_frame_equal(again, rows)
    pd.testing.assert_frame_equal(same, curves)


def test_students_of_an_unfinished_study_wait_in_results_and_are_drawn_nowhere(
    folders, monkeypatch
):
    rows, _ = results.collect(PARAMS)
    part = PARAMS.model_copy(update={"arms": ["finetune"]})
    results.store(part, *results.collect(part))
    unfinished = results.student_folder(PARAMS, "tinyllm", 1)
    (unfinished / runs.MANIFEST).rename(unfinished / "later.json")
    assert handover.keep(PARAMS) == 1  # tinyllm, seed 0
    counts = status.table(grid.Grid("g", (PARAMS,), "all", "all")).iloc[0]
    assert (counts["done"], counts["stored"], counts["waiting"]) == (3, 2, 1)
    assert set(results.stored()["arm"]) == {"finetune"}
    assert results.stored_studies() == [("small", "obqa")]
    monkeypatch.setenv("TINYLLM_RUNS", str(folders / "elsewhere"))
    assert handover.restore(PARAMS) == 3
    again = results.student_folder(PARAMS, "tinyllm", 1)
    again.mkdir(parents=True)
    for file in unfinished.iterdir():
        file.rename(again / file.name.replace("later.json", runs.MANIFEST))
    assert handover.keep(PARAMS) == 1  # the other waits already
    assert results.store(part, *results.collect(part)) == results.stored_folder(PARAMS)
    assert (results.stored_folder(PARAMS) / results.WAITING).exists()  # those of other arms
    results.store(PARAMS, *results.collect(PARAMS))
    pd.testing.assert_frame_equal(results.stored("small", "obqa"), rows)
    assert not (results.stored_folder(PARAMS) / results.WAITING).exists()
    assert handover.keep(PARAMS) == 0


def again_with(folder, **changes):
    """The student in a folder, as if it had been trained with other parameters."""
    manifest = runs.read_manifest(folder)
    runs.write_json(folder / runs.MANIFEST, manifest | {"spec": manifest["spec"] | changes})


def test_a_student_of_other_parameters_is_not_kept_and_stops_no_other(folders):
    again_with(results.student_folder(PARAMS, "finetune", 1), lr=3.0)
    with pytest.raises(runs.StaleRun, match=r"lr"):
        handover.keep(PARAMS)
    waiting = results.stored_folder(PARAMS) / results.WAITING
    assert len(list(waiting.glob("*/manifest.json"))) == 3


def test_what_was_trained_anew_is_kept_and_given_back_and_not_what_it_replaced(
    folders, monkeypatch
):
    results.store(PARAMS, *results.collect(PARAMS))
    anew = PARAMS.model_copy(update={"lr": 3.0})
    stored = results.stored_folder(PARAMS) / results.MANIFESTS
    old = [json.loads(line) for line in stored.read_text().splitlines()]
    for one in old:
        one["spec"]["lr"] = PARAMS.lr
    stored.write_text("".join(json.dumps(one) + "\n" for one in old))
    again_with(results.student_folder(PARAMS, "tinyllm", 1), lr=3.0)
    one = anew.model_copy(update={"arms": ["tinyllm"], "seeds": [1]})
    assert handover.keep(one) == 1
    monkeypatch.setenv("TINYLLM_RUNS", str(folders / "elsewhere"))
    assert handover.restore(one) == 1
    given = runs.read_manifest(results.student_folder(PARAMS, "tinyllm", 1))
    assert given["spec"]["lr"] == 3.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": [0.1]}, r"alpha.release:flan-t5: 0.5 there, 0.1 asked for"),
        ({"teachers": ["release:llama2"]}, r"release:llama2: None there, 0.5 asked for"),
    ],
    ids=["alpha", "teachers"],
)
def test_students_of_other_weights_or_teachers_are_refused(folders, changes, words):
    other = PARAMS.model_copy(update=changes)
    with pytest.raises(runs.StaleRun, match=words):
        results.collect(other)
    counts = status.table(grid.Grid("g", (other,), "all", "all")).iloc[0]
    assert (counts["done"], counts["stale"]) == (2, 2)  # fine-tuning knows neither


def test_students_of_other_questions_are_refused(folders):
    student = results.student_folder(PARAMS, "finetune", 0)
    again_with(student, data="those of then")
    results.collect(PARAMS)  # nothing here says that the questions are others
    data = paths.study("small", "obqa") / "data"
    runs.write_json(data / runs.MANIFEST, {"spec": {}, "facts": {"content": "those of now"}})
    with pytest.raises(runs.StaleRun, match="data: 'those of then' there, 'those of now' asked"):
        results.collect(PARAMS)


def test_teachers_answers_are_stored_beside_the_students(folders):
    rows, curves = results.collect(PARAMS)
    asked = teachers(rows, {"hf:big/model": 0.7}).assign(scores=None)
    results.store(PARAMS, rows, curves, asked)
    there = results.stored_teachers("small", "obqa")
    assert list(there) == results.TEACHER_COLUMNS and len(there) == 12
    file = folders / "results" / "small" / "obqa" / results.TEACHERS
    there.drop(columns="correct").to_parquet(file)
    with pytest.raises(ValueError, match=r"teachers\.parquet: column 'correct': is missing"):
        results.stored_teachers()


def test_the_overview_lists_runs_and_results_and_what_is_not_stored(folders):
    assert results.overview()["to do"].tolist() == ["run notebook 04, which stores them"]
    results.store(PARAMS, *results.collect(PARAMS))
    line = results.overview().iloc[0]
    assert (line["arms"], line["seeds"], line["finished"], line["stored"]) == (2, 2, 4, 4)
    assert line["to do"] == ""


def test_nothing_stored_is_an_empty_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path))
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    for frame in (results.stored(), results.stored_facts(), results.stored_teachers()):
        assert frame.empty
    assert results.overview().empty


def test_a_broken_file_is_named(folders):
    file = results.student_folder(PARAMS, "tinyllm", 1) / results.PREDICTIONS
    file.write_text("no parquet")
    with pytest.raises(ValueError, match=r"seed1/predictions\.parquet: is no readable parquet"):
        results.collect(PARAMS)


def test_students_that_answered_different_questions_are_refused_together(folders):
    file = results.student_folder(PARAMS, "tinyllm", 1) / results.PREDICTIONS
    rows = pd.read_parquet(file)
    rows.iloc[1:].to_parquet(file)
    with pytest.raises(ValueError, match=r"students together: row .*was not scored on it"):
        results.collect(PARAMS)


def test_an_unfinished_student_is_named(folders):
    (results.student_folder(PARAMS, "finetune", 0) / runs.MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 4 .* \(finetune, seed 0\)"):
        results.collect(PARAMS)
