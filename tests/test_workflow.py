"""Status and workflow: dry runs of every grid, and a real run of one grid."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from tiny import write_yaml

from tinyllm import paths, runs
from tinyllm.batch import cli, grid, status
from tinyllm.data import load as data
from tinyllm.students.predictions import PREDICTIONS

GRIDS = sorted(file.stem for file in (paths.ROOT / "params" / "grid").glob("*.yaml"))


def questions(file, answer="yes"):
    """Write eight questions as a user's file."""
    rows = [
        {"question": f"{i}?", "options": ["yes", "no"], "answer": answer, "split": split}
        for i, split in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def own_questions(folder, dataset="good", **changes):
    """A parameter file for a study of such questions with an untrained student."""
    questions(folder / f"{dataset}.jsonl")
    values = {"study": "own", "dataset": dataset, "source": f"file:{dataset}.jsonl", "seeds": [0]}
    values |= {"teachers": [], "arms": ["inference"], "workers": 1}
    return write_yaml(folder / f"{dataset}.yaml", **values | changes)


def finish(one):
    """Mark every job of a grid as done without running it; questions are real, students are not."""
    from tinyllm.students import run

    for job in one.jobs:
        if job.rule == "prepare":
            data.save(data.load(job.params), job.params)
        if job.rule == "distill":
            for folder, spec in run.work(job.params):
                with runs.recording(folder, spec):
                    (folder / PREDICTIONS).write_text("of a student")
                target = paths.results() / folder.relative_to(paths.runs())
                shutil.copytree(folder, target, dirs_exist_ok=True)
        if job.rule == "figures":
            job.figures.mkdir()
            (job.figures / "one.png").touch()
        job.write()
        job.done.write_text("{}", encoding="utf-8")


@pytest.fixture
def done(moved):
    """A finished grid of two datasets with two students each."""
    arms = ["inference", "finetune"]
    bases = [str(own_questions(moved, dataset, arms=arms)) for dataset in ("one", "two")]
    one = grid.load(write_yaml(moved / "grid.yaml", params=bases))
    finish(one)
    return one


def unfinished(one):
    return [str(job) for job in status.Status(one).unfinished]


def of(dataset, *names):
    return [f"own/{dataset} {name}" for name in names]


PREPARE, FIRST, SECOND, EVALUATE, FIGURES = (
    "01_data_prep",
    "03_distillation_inference_micro-t5_seed0",
    "03_distillation_finetune_micro-t5_seed0",
    "04_evaluation_micro-t5",
    "05_paper_figures",
)


def test_only_deleted_results_and_their_dependents_are_unfinished(done):
    assert unfinished(done) == []
    row = status.Status(done).table().iloc[0]
    assert (row.questions, row.students, row.done, row.stored) == ("1/1", 2, 2, 2)
    shutil.rmtree(next(job.figures for job in done.jobs if job.rule == "figures"))
    assert unfinished(done) == of("one", FIGURES)
    # Missing results and the jobs that depend on them.
    (paths.student(done.studies[0], "finetune", 0) / runs.MANIFEST).unlink()
    assert unfinished(done) == [*of("one", SECOND, EVALUATE, FIGURES)]
    (paths.data(done.studies[1]) / "train.parquet").unlink()
    every = of("two", PREPARE, FIRST, SECOND, EVALUATE)
    assert unfinished(done) == [*of("one", SECOND, EVALUATE), *every, *of("one", FIGURES)]


@pytest.mark.parametrize("damage", ["missing", "changed"])
@pytest.mark.parametrize("place", [paths.student, paths.stored])
def test_a_missing_or_changed_file_of_a_finished_job_is_detected(done, place, damage):
    file = place(done.studies[0], "finetune", 0) / PREDICTIONS
    file.unlink() if damage == "missing" else file.write_text("torn")
    again = [SECOND] * (place == paths.student and damage == "missing")
    assert unfinished(done) == of("one", *again, EVALUATE, FIGURES)


def test_stored_students_are_counted_also_without_their_run_folders(done):
    shutil.rmtree(paths.student(done.studies[0], "finetune", 0))
    now = status.Status(done)
    row = now.table().iloc[0]
    assert (row.done, row.missing, row.stored) == (1, 1, 2) and "tinyllm restore" in now.report()


def test_restored_students_without_their_inputs_are_not_stale(done, monkeypatch):
    params = done.studies[0]
    folders = [paths.student(params, arm, 0) for arm in params.arms]
    monkeypatch.setattr("tinyllm.students.run.work", lambda _: [(f, None) for f in folders])
    job = next(job for job in done.jobs if job.rule == "distill")
    assert status.states(job) == ["finished"] * len(folders)
    (paths.runs() / "rationales" / "one").mkdir(parents=True)  # of other parameters, perhaps
    assert all(state.startswith("stale") for state in status.states(job))


def test_changed_question_files_are_detected_by_content(done, moved, capfd):
    file = moved / "one.jsonl"
    os.utime(file)
    assert unfinished(done) == []
    questions(file, answer="no")
    changed = of("one", PREPARE, FIRST, SECOND, EVALUATE, FIGURES)
    assert unfinished(done) == changed
    report = status.Status(done).report()
    assert "stale: " in report and "one.jsonl" in report and "4 of 9 jobs are done" in report
    # A dry run lists them and changes nothing.
    assert cli.main(["run", "grid.yaml", "--dry-run"]) == 0
    text = "".join(capfd.readouterr())
    assert all(job in text for job in changed)
    assert "own/two 01" not in text and "own/two 03" not in text
    assert all(job.done.exists() for job in done.jobs)


def test_stored_results_must_match_the_runs_and_other_parameters_are_stale(done, moved):
    folder = paths.student(done.studies[0], "finetune", 0)
    manifest = runs.read_manifest(folder)
    runs.write_json(folder / runs.MANIFEST, manifest | {"finished": "later"})
    assert unfinished(done) == of("one", EVALUATE, FIGURES)
    own_questions(moved, "one", arms=["inference", "finetune"], lr=0.5)
    now = status.Status(grid.load(moved / "grid.yaml"))
    assert now.table().iloc[0][["done", "stale", "missing"]].tolist() == [1, 1, 0]
    assert "lr: 0.0002 in the folder, 0.5 asked for" in now.report()
    assert cli.main(["store", str(moved / "grid.yaml")]) == 1


def test_failed_jobs_are_listed_with_reason_and_notebook(done):
    job = next(job for job in done.jobs if job.rule == "distill")
    shutil.rmtree(paths.student(job.params, "inference", 0))
    job.done.unlink()
    failed = job.path("failed.ipynb")
    error = {"output_type": "error", "ename": "ValueError", "evalue": "lr: \x1b[31mtoo\nhigh"}
    failed.write_text(json.dumps({"cells": [{"outputs": [error]}]}), encoding="utf-8")
    assert status.failure(job) == "ValueError: lr: too high"
    assert status.Status(done).table().iloc[0].failed == 1
    assert str(failed) in "\n".join(status.failures(done))
    failed.write_text('{"cells": [', encoding="utf-8")  # while papermill writes the file
    assert status.failures(done) == []
    job.path("log").write_text("Executing\nended with status 137\n", encoding="utf-8")
    assert status.failure(job) == "ended with status 137"  # for example, out of memory
    job.path("log").write_text("Aborted!\nended with status 1\n", encoding="utf-8")  # Ctrl-C
    assert status.failure(job) is None


@pytest.mark.parametrize("profile", ["local", "slurm", "kubernetes"])
def test_every_grid_and_profile_passes_a_dry_run(moved, monkeypatch, capfd, profile):
    from snakemake.cli import main

    def in_this_process(command, env, pass_fds):
        with pytest.raises(SystemExit) as ended:
            main(command[3:])
        return ended.value.code

    monkeypatch.setattr(subprocess, "call", in_this_process)
    for name in GRIDS if profile == "local" else ["laptop"]:
        assert cli.main(["run", name, "--profile", profile, "--dry-run"]) == 0, capfd.readouterr()
        lines = [line.split() for line in "".join(capfd.readouterr()).splitlines()]
        jobs = [job.rule for job in grid.load(name).jobs]
        assert all([rule, str(jobs.count(rule))] in lines for rule in grid.RULES), name


def called(folder, *arguments):
    """Arguments for subprocess to call `tinyllm run` with all output in a folder."""
    env = {f"TINYLLM_{name}": str(folder / name.lower()) for name in ("RUNS", "FIGURES", "RESULTS")}
    command = [sys.executable, "-m", "tinyllm.batch.cli", "run", *arguments]
    how = {"cwd": folder, "env": os.environ | env, "text": True}
    return {"args": command, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **how}


def run(folder, *arguments, **how):
    return subprocess.run(**called(folder, *arguments), **how)


@pytest.mark.slow
def test_a_killed_grid_resumes_and_changed_data_are_rejected(tmp_path):
    folder = tmp_path / 'study #2: "with blanks"'
    folder.mkdir()
    bases = [own_questions(folder, dataset).name for dataset in ("good", "bad")]
    file = write_yaml(folder / "my grid.yaml", params=bases, students_per_job="all").name
    notebooks = folder / "runs" / "own" / "good" / "notebooks"
    first = subprocess.Popen(**called(folder, file), start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(notebooks.glob("01*.failed.ipynb")):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    again = run(folder, file)
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("inference") >= 2
    executed = {file: file.stat().st_mtime_ns for file in notebooks.glob("0[134]*.ipynb")}
    assert len(executed) == 3

    questions(folder / "bad.jsonl", answer="no")
    refused = run(folder, file, "--", "--retries", "0")
    assert refused.returncode == 1
    assert "failed: own/bad 01_data_prep: StaleRun" in refused.stdout
    assert "bad.jsonl" in refused.stdout and "delete that folder" in refused.stdout
    assert "accuracy" not in refused.stdout

    for name in ("data", "students"):
        shutil.rmtree(folder / "runs" / "own" / "bad" / name)
    again = run(folder, file)
    assert again.returncode == 0, again.stdout
    assert {file: file.stat().st_mtime_ns for file in executed} == executed
    stored = folder / "results/own/bad/students/inference/micro-t5/seed0"
    content = runs.content(folder / "runs/own/bad/data")
    assert runs.read_manifest(stored)["spec"]["data"] == content


KUBECTL = """#!{python}
# Stands for a cluster: a Job is run at once, in this process.
import json, pathlib, subprocess, sys

jobs, arguments = pathlib.Path({folder!r}), sys.argv[3:]
if arguments[0] == "create":
    job = json.load(sys.stdin)
    name = f"job.batch/tinyllm-{{len(list(jobs.iterdir()))}}"
    container = job["spec"]["template"]["spec"]["containers"][0]
    done = subprocess.run(container["command"], cwd=container["workingDir"], capture_output=True)
    job["status"] = {{"failed" if done.returncode else "succeeded": 1}}
    (jobs / name.split("/")[1]).write_text(json.dumps(job))
    print(name)
elif arguments[0] == "get":
    print((jobs / arguments[1].split("/")[1]).read_text())
else:
    (jobs.parent / "deleted").write_text(" ".join(arguments[1:]))
"""


@pytest.mark.slow
def test_the_kubernetes_profile_submits_a_job_with_resource_limits(tmp_path, monkeypatch):
    folder = tmp_path / "with blanks"
    kubectl, jobs = tmp_path / "bin" / "kubectl", tmp_path / "jobs"
    for place in (folder, kubectl.parent, jobs):
        place.mkdir()
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(jobs)), encoding="utf-8")
    kubectl.chmod(0o755)
    commands = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = own_questions(folder).name
    options = ["--", "--latency-wait", "5", "--until", "prepare"]
    done = run(folder, file, "--profile", "kubernetes", *options)
    assert done.returncode == 0, done.stdout
    (submitted,) = [json.loads(job.read_text(encoding="utf-8")) for job in jobs.iterdir()]
    pod = submitted["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory"}  # no GPU for such a small student
    assert int(limits["memory"].removesuffix("M")) >= 2000
    assert pod["activeDeadlineSeconds"] >= 600
    env = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
    assert env["TINYLLM_RUNS"] == str(folder / "runs") and "OPENAI_API_KEY" not in env
    assert (folder / "runs/own/good/notebooks/01_data_prep.ipynb").exists()
    # As Snakemake does on Ctrl-C: one executable, the job names as arguments, no shell.
    profile = paths.ROOT / "profiles" / "kubernetes"
    values = yaml.safe_load((profile / "config.yaml").read_text(encoding="utf-8"))
    word = str(profile / values["cluster-generic-cancel-cmd"])
    subprocess.check_call([word, "job.batch/tinyllm-0"])
    assert (tmp_path / "deleted").read_text().startswith("job.batch/tinyllm-0 ")


@pytest.mark.slow
def test_figures_are_redrawn_from_results_with_the_numbers_of_the_repository(tmp_path):
    env = os.environ | {f"TINYLLM_{name}": str(tmp_path / name) for name in ("RUNS", "FIGURES")}
    command = [sys.executable, "-m", "tinyllm.batch.cli", "figures"]
    subprocess.run(command, env=env | {"TINYLLM_RESULTS": ""}, check=True)
    stored = {file.name: file for file in (paths.ROOT / "figures").glob("*.csv")}
    drawn = {file.name: file for file in (tmp_path / "FIGURES").glob("*.csv")}
    assert drawn.keys() == stored.keys() - {"rationale_audit.csv"}  # that is notebook 02's
    for name, file in drawn.items():
        pd.testing.assert_frame_equal(pd.read_csv(file), pd.read_csv(stored[name]))

    no_folder = tmp_path / "a file"
    no_folder.touch()
    env |= {"TINYLLM_FIGURES": str(no_folder), "TINYLLM_RESULTS": str(tmp_path / "none")}
    assert subprocess.run(command, env=env).returncode == 1
