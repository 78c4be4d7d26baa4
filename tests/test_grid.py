"""A grid: which jobs it comes to, what each needs, and what cannot be asked for."""

import itertools
import json

import pytest
import yaml
from simulated import predictions

from tinyllm import grid, paths, results, status
from tinyllm.params import ParameterError, Params

GRIDS = sorted((paths.ROOT / "params" / "grid").glob("*.yaml"))


def write(folder, **values):
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    return tmp_path / "runs"


def by_rule(found, rule):
    return [job for job in found.jobs if job.rule == rule]


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_grid_file_gives_jobs_in_an_order_in_which_they_can_run(file):
    found = grid.load(file)
    seen = set()
    for job in found.jobs:
        assert set(job.after) <= seen, job.name
        seen.add(job)
    assert len({job.done for job in found.jobs}) == len(found.jobs)
    assert {job.rule for job in found.jobs} == set(grid.RULES)
    assert found.jobs[-1].rule == "figures"


def test_the_paper_grid_is_six_datasets_three_students_all_arms_three_seeds():
    found = grid.load("paper")
    assert {p.dataset for p in found.studies} == {
        "obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq",
    }  # fmt: skip
    students = {
        (p.dataset, p.student, arm, seed)
        for p in found.studies
        for arm in p.arms
        for seed in p.seeds
    }
    trained = by_rule(found, "distill")
    assert len(trained) == len(students)
    assert sum(len(job.work()) for job in trained) == len(students) == 3 * 3 * (5 * 9 + 7)


def test_teachers_are_asked_once_whatever_the_students_arms_and_seeds():
    asked = [(j.params.dataset, *j.params.teachers) for j in by_rule(grid.load("paper"), "prompt")]
    assert len(asked) == len(set(asked)) == 2 * 5 + 1
    # Nor again for another weight of what they wrote: each study waits for the last, and copies.
    jobs = [j for j in by_rule(grid.load("alpha"), "prompt") if "arc" in str(j.done)][::2]
    assert len(jobs) == 6
    assert all(before in after.after for before, after in itertools.pairwise(jobs))
    # Nor is a micro teacher trained in two studies at once, whatever questions they put to it.
    jobs = by_rule(grid.load("micro_curves"), "prompt")
    assert all(before in after.after for before, after in itertools.pairwise(jobs))


def test_a_parameter_file_alone_is_five_notebooks_as_they_are_run_by_hand():
    found = grid.load(paths.ROOT / "params" / "micro.yaml")
    assert [job.done.name for job in found.jobs] == [
        f"{notebook}.ipynb" for notebook in grid.RULES.values()
    ]
    assert all(job.whole for job in found.jobs)
    assert found.jobs[2].params == Params()


def test_a_students_job_waits_for_its_own_teachers_only(tmp_path, runs_folder):
    base = tmp_path / "base.yaml"
    base.write_text('arms: [finetune, "dss:a", kd, tinyllm]\nseeds: [0]\n', encoding="utf-8")
    found = grid.load(write(tmp_path, params=[str(base)]))
    prompts = {job: job.params.teachers for job in by_rule(found, "prompt")}
    assert list(prompts.values()) == [["micro:a"], ["micro:b"]]
    waits = {
        job.params.arms[0]: [each.params.teachers for each in job.after if each in prompts]
        for job in by_rule(found, "distill")
    }
    assert waits == {
        "finetune": [],
        "dss:a": [["micro:a"]],
        "kd": [["micro:a"], ["micro:b"]],
        "tinyllm": [["micro:a"], ["micro:b"]],
    }


@pytest.mark.parametrize(
    ("how", "jobs"), [("one", 4), ("arm", 2), ("seed", 2), ("all", 1)], ids=str
)
def test_students_are_grouped_as_asked_and_none_is_lost(tmp_path, runs_folder, how, jobs):
    base = tmp_path / "base.yaml"
    base.write_text("arms: [finetune, tinyllm]\nseeds: [0, 1]\n", encoding="utf-8")
    trained = by_rule(grid.load(write(tmp_path, params=[str(base)], students_a_job=how)), "distill")
    folders = [folder for job in trained for folder in job.work()]
    assert len(trained) == jobs and len(folders) == len(set(folders)) == 4
    # Only a job of the whole stage draws that stage's figures.
    assert [job.whole for job in trained] == [how == "all"] * jobs


def test_a_prompt_job_of_one_teacher_asks_for_every_variant_that_an_arm_needs(
    tmp_path, runs_folder
):
    base = tmp_path / "base.yaml"
    base.write_text('arms: ["tinyllm:no-examples", tinyllm]\n', encoding="utf-8")
    first, second = by_rule(grid.load(write(tmp_path, params=[str(base)])), "prompt")
    folders = [paths.shown(folder).split("rationales/")[1] for folder in first.work()]
    assert sorted(folders) == ["micro-a/default", "micro-a/none"]
    assert second.params.teachers == ["micro:b"]


def test_points_of_a_curve_leave_the_figures_and_tables_to_the_curve(runs_folder, tmp_path):
    found = grid.load("micro_curves")
    assert [job.rule for job in found.jobs if job.whole] == ["figures"]
    assert all(tmp_path in job.figures.parents for job in found.jobs[:-1])
    assert {params.study for params in found.studies} <= grid.curves()
    for study in ("micro", "micro-alpha-2"):
        folder = tmp_path / "results" / study / "obqa" / "m"
        folder.mkdir(parents=True)
        rows = predictions({"finetune": 0.5}, study=study, n=4, student="m")
        rows.to_parquet(folder / results.PREDICTIONS)
    assert set(results.stored().study) == {"micro", "micro-alpha-2"}
    assert set(results.reported().study) == {"micro"}


def test_grids_of_one_study_never_ask_for_the_same_job_in_two_ways():
    """Else one grid would run again, and store, what the other has done."""
    seen = {}
    for file in GRIDS:
        for job in grid.load(file).jobs[:-1]:
            name, params = seen.setdefault(job.done, (file.stem, job.params))
            assert job.params == params, (job.done, name, file.stem)


@pytest.mark.parametrize(
    "change", [{"seeds": [0, 1]}, {"arms": ["finetune", "tinyllm"]}, {"lr": 0.1}], ids=str
)
def test_another_seed_arm_or_rate_leaves_questions_and_teachers_jobs_as_they_are(
    tmp_path, runs_folder, change
):
    base, found = tmp_path / "base.yaml", []
    for values in (
        {"seeds": [0], "arms": ["tinyllm"]},
        {"seeds": [0], "arms": ["tinyllm"]} | change,
    ):
        base.write_text(yaml.safe_dump(values), encoding="utf-8")
        found.append(grid.load(write(tmp_path, params=[str(base)])).jobs)
    one, two = ({job.done: job.params for job in jobs} for jobs in found)
    kept = [job.done for job in found[0] if job.rule in ("prepare", "prompt")]
    assert len(kept) == 3 and all(one[done] == two[done] for done in kept)


def test_a_job_can_be_run_again_by_hand_from_its_parameter_file(tmp_path, runs_folder):
    for job in grid.load("paper").jobs[:40]:
        assert Params.from_yaml(job.write()) == job.params
    before = job.file.stat().st_mtime_ns
    assert job.write().stat().st_mtime_ns == before  # unchanged is not written again


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"params": []}, "params"),
        ({"params": ["micro.yaml"], "point": []}, "point"),
        ({"params": ["micro.yaml"], "students_a_job": "two"}, "students_a_job: 'two'"),
        ({"params": ["mikro.yaml"]}, "mikro.yaml"),
        ({"params": ["micro.yaml"], "points": [{"alfa": [1.0]}]}, "did you mean `alpha`"),
        ({"params": ["micro.yaml"], "points": [{}, {"lr": 0.1}]}, "'micro-t5' twice"),
        (
            {"params": ["micro.yaml"], "points": [{}, {"student": "micro-llama", "alpha": [2.0]}]},
            "alpha: [1.0] there, [2.0] asked for",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_grid_that_cannot_be_is_refused_by_file_name_and_reason(tmp_path, values, message):
    with pytest.raises(ParameterError) as error:
        grid.load(write(tmp_path, **values))
    assert "test.yaml" in str(error.value) and message in str(error.value)


def test_an_unknown_grid_is_refused_with_those_that_there_are():
    with pytest.raises(ParameterError, match=r"'papers'.*ablations, alpha, .*paper"):
        grid.load("papers")


def test_status_counts_done_failed_and_missing_and_says_why(runs_folder):
    found = grid.load(paths.ROOT / "params" / "micro.yaml")
    job = found.jobs[2]
    for folder in job.work()[:2]:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
    row = status.table(found).iloc[0]
    assert (row.students, row.done, row.failed, row.missing) == (72, 2, 0, 70)
    assert row.data == "0/1" and status.failures(found) == []

    error = {"output_type": "error", "ename": "ValueError", "evalue": "lr: \x1b[31mtoo\nhigh"}
    job.failed.parent.mkdir(exist_ok=True)
    job.failed.write_text(json.dumps({"cells": [{"outputs": [error]}]}), encoding="utf-8")
    row = status.table(found).iloc[0]
    assert (row.done, row.failed, row.missing) == (2, 70, 0)
    (line,) = status.failures(found)
    assert "03_distillation: ValueError: lr: too high" in line and "jupyter lab" in line

    job.failed.write_text('{"cells": [', encoding="utf-8")  # papermill is writing it
    assert status.failures(found) == []
    job.log.write_text("Executing\nended with status 137\n", encoding="utf-8")  # out of memory, say
    (line,) = status.failures(found)
    assert "03_distillation: ended with status 137" in line and "03_distillation.log" in line


def test_status_tells_students_of_other_parameters_from_those_asked_for(runs_folder):
    found = grid.load(paths.ROOT / "params" / "micro.yaml")
    one, two = found.jobs[2].work()[:2]
    for folder, lr in ((one, found.studies[0].lr), (two, 0.5)):
        folder.mkdir(parents=True)
        spec = {"spec": {"lr": lr, "student": "micro-t5", "cleaning": [], "seed": 0}}
        (folder / "manifest.json").write_text(json.dumps(spec), encoding="utf-8")
    row = status.table(found).iloc[0]
    assert (row.done, row.stale, row.missing) == (1, 1, 70)


def test_a_notebook_whose_work_is_gone_is_run_again(runs_folder):
    found = grid.load(paths.ROOT / "params" / "micro.yaml")
    job = found.jobs[0]
    job.folder.mkdir(parents=True)
    job.done.write_text("{}", encoding="utf-8")
    (job.work()[0]).mkdir()
    (job.work()[0] / "manifest.json").write_text("{}", encoding="utf-8")
    status.refresh(found)
    assert job.done.exists() and status.done(job)
    (job.work()[0] / "manifest.json").unlink()
    status.refresh(found, dry=True)
    assert job.done.exists()
    status.refresh(found)
    assert not job.done.exists()
