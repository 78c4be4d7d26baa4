"""Grids: every job is one notebook with flat parameters; no two jobs do the same work."""

import itertools

import pytest
from tiny import write_yaml

from tinyllm import paths
from tinyllm.batch import grid
from tinyllm.params import ParameterError, Params

GRIDS = sorted((paths.ROOT / "params" / "grid").glob("*.yaml"))


pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def make(tmp_path):
    """Builds a grid of one parameter file with the given values."""

    def _make(how="one", points=({},), **values):
        values = {"arms": ["finetune", "tinyllm"], "seeds": [0], **values}
        write_yaml(tmp_path / "base.yaml", **values)
        recipe = {"params": ["base.yaml"], "points": list(points), "students_per_job": how}
        return grid.load(write_yaml(tmp_path / "grid.yaml", **recipe))

    return _make


def by_rule(one, rule):
    return [job for job in one.jobs if job.rule == rule]


def students(job):
    return [(job.done.parent, arm, seed) for arm in job.params.arms for seed in job.params.seeds]


def test_prompt_jobs_contain_only_the_settings_of_their_own_server(make):
    a, b = (f"openai:http://127.0.0.1:9/v1#{name}" for name in "ab")
    servers = {a: {"system": "A."}, b: {"system": "B."}}
    one = make(teachers=[a, b], servers=servers)
    for job in one.jobs:
        job.write()
        assert Params.from_yaml(job.path("yaml")) == job.params
    asking = {job.params.teachers[0]: job for job in by_rule(one, "prompt")}
    assert [list(job.params.servers) for job in asking.values()] == [[a], [b]]
    other = make(teachers=[a, b], servers=servers | {b: {"system": "Else."}})
    again = {job.params.teachers[0]: job for job in by_rule(other, "prompt")}
    assert again[a].asks == asking[a].asks and again[b].asks != asking[b].asks


def test_studies_that_share_samples_or_answers_wait_for_each_other(make):
    drawn = {"study": "drawn", "temperature": 0.7, "samples": 3}
    points = [{"temperature": 0.7}, drawn, {"study": "greedy"}]
    first, *others = by_rule(make(points=points, teachers=["hf:m"]), "prompt")
    assert [set(first.asks) < set(job.asks) for job in others] == [True, False]
    assert all(first in job.after or others[0] in job.after for job in others)


def test_shipped_grids_list_jobs_in_a_runnable_order(tmp_path):
    known = {}
    for file in GRIDS:
        shipped, before = grid.load(file), set()
        for job in shipped.jobs:
            assert set(job.after) <= before, job.name
            before.add(job)
        assert len({job.done for job in shipped.jobs}) == len(shipped.jobs)
        assert {job.rule for job in shipped.jobs} == set(grid.RULES)
        # No two grids define the same job differently: each would rerun the other's work.
        for job in shipped.jobs[:-1]:
            name, params = known.setdefault(job.done, (file.stem, job.params))
            assert job.params == params, (job.done, name, file.stem)
        # The points of a curve draw no figures of their own; one job draws the curve.
        if shipped.studies[0].curve:
            assert [job.rule for job in shipped.jobs if job.whole] == ["figures"]
            assert all(tmp_path in job.figures.parents for job in shipped.jobs[:-1])


def test_teachers_are_prompted_once_for_all_students_arms_and_seeds():
    asked = [(j.params.dataset, *j.params.teachers) for j in by_rule(grid.load("paper"), "prompt")]
    assert len(asked) == len(set(asked)) == 2 * 5 + 1
    # Studies with the same prompts wait for each other: the second reuses the rationales.
    jobs = [j for j in by_rule(grid.load("alpha"), "prompt") if "arc" in str(j.done)][::2]
    assert len(jobs) == 6 and len({job.asks for job in jobs}) == 1
    assert all(before in after.after for before, after in itertools.pairwise(jobs))
    # A micro teacher is never trained by two studies at the same time.
    jobs = by_rule(grid.load("micro_curves"), "prompt")
    assert all(before in after.after for before, after in itertools.pairwise(jobs))


def test_a_single_parameter_file_gives_the_five_notebooks():
    micro = grid.load(paths.ROOT / "params" / "micro.yaml")
    assert [job.done.name for job in micro.jobs] == [f"{n}.ipynb" for n in grid.RULES.values()]
    assert all(job.whole for job in micro.jobs)
    job = micro.jobs[2]
    assert job.params == micro.studies[0]
    job.write()
    before = job.path("yaml").stat().st_mtime_ns
    job.write()  # an unchanged file is not rewritten: Snakemake compares dates
    assert job.path("yaml").stat().st_mtime_ns == before


def test_student_jobs_wait_only_for_their_own_teachers(make):
    one = make(arms=["finetune", "dss:a", "kd", "tinyllm", "tinyllm:no-examples"])
    first, second = by_rule(one, "prompt")
    assert (first.params.teachers, second.params.teachers) == (["micro:a"], ["micro:b"])
    assert set(first.params.arms) == {"inference", "tinyllm", "kd", "tinyllm:no-examples"}
    waits = {job.params.arms[0]: set(job.after) for job in by_rule(one, "distill")}
    assert waits["finetune"] == {one.jobs[0]} and waits["dss:a"] == {one.jobs[0], first}
    assert waits["kd"] == waits["tinyllm"] == {one.jobs[0], first, second}


@pytest.mark.parametrize(("how", "jobs"), [("one", 4), ("all", 1)])
def test_students_are_grouped_into_jobs_as_requested(make, how, jobs):
    trained = by_rule(make(how, seeds=[0, 1]), "distill")
    every = [student for job in trained for student in students(job)]
    assert len(trained) == jobs and len(every) == len(set(every)) == 4
    # Only a job that covers the whole stage draws its figures.
    assert [job.whole for job in trained] == [how == "all"] * jobs


def test_paths_relative_to_the_grid_work_from_any_folder_and_with_spaces(tmp_path, monkeypatch):
    folder = tmp_path / "my own grids"
    folder.mkdir()
    (folder / "my data.jsonl").touch()
    values = {"study": "own", "dataset": "own", "source": "file:my data.jsonl", "teachers": []}
    write_yaml(folder / "my base.yaml", **values, arms=["finetune"])
    write_yaml(folder / "my grid.yaml", params=["my base.yaml", "laptop/obqa.yaml"])
    write_yaml(folder / "home.yaml", params=["~/my base.yaml"])
    (folder / "other.jsonl").touch()
    point = {"study": "other", "dataset": "other", "source": "file:other.jsonl", "teachers": []}
    (tmp_path / "other.jsonl").touch()  # beside the base: the grid's own comes first
    write_yaml(tmp_path / "base.yaml", **values, arms=["finetune"])
    write_yaml(folder / "points.yaml", params=["../base.yaml"], points=[point])
    monkeypatch.setenv("HOME", str(folder))
    assert grid.load(folder / "home.yaml").studies[0].dataset == "own"
    monkeypatch.chdir(tmp_path)
    first, second = grid.load("my own grids/my grid.yaml").studies
    assert first.source == f"file:{folder / 'my data.jsonl'}" and second.dataset == "obqa"
    [third] = grid.load("my own grids/points.yaml").studies
    assert third.source == f"file:{folder / 'other.jsonl'}"
    assert grid.load("params/micro.yaml").studies[0].study == "micro"  # the repository's file


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"params": []}, "params"),
        ({"params": ["mikro.yaml"]}, "parameter file {folder}/mikro.yaml: [Errno 2] No such file"),
        ({"points": [{"alfa": [1.0]}]}, "did you mean `alpha`"),
        ({"points": [{}, {"lr": 0.1}]}, "'micro-t5' twice"),
        ({"points": [{}, {"student": "x", "alpha": [2.0]}]}, "alpha: [10.0]"),
    ],
)
def test_invalid_grids_are_rejected_with_file_name_and_reason(tmp_path, values, message):
    with pytest.raises(ParameterError) as error:
        grid.load(write_yaml(tmp_path / "test.yaml", **{"params": ["micro.yaml"]} | values))
    message = message.replace("{folder}", str(tmp_path))  # in the grid file's folder
    assert "test.yaml" in str(error.value) and message in str(error.value)
