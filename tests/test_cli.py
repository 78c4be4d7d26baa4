"""The command `tinyllm`: exit statuses, and messages that name the value and the remedy."""

import json
import shutil
import subprocess

import pytest
from filelock import FileLock
from tiny import write_yaml

from tinyllm import paths
from tinyllm.batch import cli, grid, kubernetes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "papers"], "'papers': no file "),
        (["status", "bad.yaml"], "did you mean `lr`"),
        (["plan", "nameless.yaml"], "nameless.yaml: study: is missing"),
        (["plan", "own.yaml"], "own.yaml: dataset: is missing; add dataset: NAME"),
        (["run", "big.yaml"], "'some/model'"),
        (["run", "long.yaml"], "max_input: 1024: minilm-ed has positions for 512 tokens"),
        (["run", "big.yaml", "--parameters", "some/model=big"], "MODEL=NUMBER"),
    ],
)
def test_bad_input_exits_with_status_2_and_a_clear_message(moved, capsys, arguments, message):
    write_yaml(moved / "bad.yaml", study="bad", lrr=0.1)
    write_yaml(moved / "nameless.yaml", dataset="quiz")  # it would go into the study `micro`
    write_yaml(moved / "own.yaml", study="own", source="file:quiz.csv")
    write_yaml(moved / "big.yaml", study="big", student="some/model")
    write_yaml(moved / "long.yaml", study="long", student="minilm-ed", max_input=1024)
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("tinyllm: ") and message in text and "Traceback" not in text


@pytest.mark.parametrize(("name", "visible"), [("cpu", ""), ("a100", None)])
def test_a_run_on_the_cpu_hides_the_gpu_from_its_jobs(moved, monkeypatch, name, visible):
    seen = []

    def call(command, env, pass_fds):
        seen.append(env.get("CUDA_VISIBLE_DEVICES"))
        return 1

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setenv("TINYLLM_DEVICE", name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    write_yaml(moved / "one.yaml", study="one")
    cli.main(["run", "one.yaml"])
    assert seen == [visible]
    monkeypatch.setenv("TINYLLM_DEVICE", "gpu9")
    assert cli.main(["run", "one.yaml"]) == 2


def test_run_locks_the_study_and_forces_jobs_without_results(moved, monkeypatch, capsys):
    calls, devices = [], []

    def call(command, env, pass_fds):
        assert len(pass_fds) == 1
        calls.append(command)
        devices.append(env["TINYLLM_DEVICE"])
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no nvidia-smi
    monkeypatch.delenv("TINYLLM_DEVICE", raising=False)
    write_yaml(moved / "one.yaml", study="one")
    done = moved / "runs" / "one" / "micro" / "notebooks" / "01_data_prep.ipynb"
    done.parent.mkdir(parents=True)
    done.write_text("{}", encoding="utf-8")  # an executed notebook whose results are missing
    with FileLock(done.with_name("run.lock")):
        for more in ([], ["--dry-run"]):
            assert cli.main(["run", "one.yaml", *more]) == 1 and not calls
    assert "one/micro: another `tinyllm run` is active" in capsys.readouterr().err
    # Arguments after `--` are passed to snakemake, together with the jobs to force.
    for options in (["--until", "prepare"], ["-R", "figures"]):
        assert cli.main(["run", "one.yaml", "--", *options]) == 0
    assert str(paths.ROOT / "profiles" / "local") in calls[0]
    assert calls[0][calls[0].index("--forcerun") + 1] == str(done)
    assert devices == ["cpu", "cpu"]  # no job asks for a GPU
    assert calls[0][-2:] == ["--until", "prepare"] and calls[1][-3:] == ["-R", str(done), "figures"]


def test_the_lock_of_a_killed_run_is_held_while_its_jobs_go_on(moved):
    one = grid.load(write_yaml(moved / "one.yaml", study="one"))
    with cli.locked(one) as locks:
        job = subprocess.Popen(["sleep", "60"], pass_fds=locks)
    with pytest.raises(RuntimeError, match="another `tinyllm run` is active"), cli.locked(one):
        pass
    job.kill()
    job.wait()
    with cli.locked(one):
        pass


def test_results_and_restore_read_stored_results_or_report_none(moved, capsys, committed_results):
    write_yaml(moved / "none.yaml", study="none")
    assert cli.main(["results", "none.yaml"]) == 1
    assert "no student is stored" in capsys.readouterr().out
    obqa = "params/laptop/obqa.yaml"
    assert cli.main(["results", obqa]) == 0
    assert "tinyllm:shuffled" in capsys.readouterr().out
    assert cli.main(["restore", obqa]) == 0
    assert "laptop/obqa, minilm-ed: 27 students" in capsys.readouterr().out
    # The students count as done although the questions are not in runs/.
    assert cli.main(["status", obqa]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:3] == ["laptop", "obqa", "minilm-ed"] and line[5:9] == ["27", "27", "0", "0"]


def test_status_says_why_the_questions_cannot_be_read(moved, capsys):
    write_yaml(moved / "own.yaml", study="own", dataset="quiz", source="file:quiz.csv", teachers=[])
    assert cli.main(["status", "own.yaml"]) == 0
    assert "missing: no file" in capsys.readouterr().out


def test_kubernetes_job_states_are_mapped_to_snakemake_states(monkeypatch, capsys):
    def state(answer):
        done = subprocess.CompletedProcess([], int(answer is None), answer or "", "no connection")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        assert cli.main(["kubernetes", "status", "job.batch/one"]) == 0
        return capsys.readouterr().out.strip()

    conditions = [{"type": "Failed", "status": "True"}]
    assert state(json.dumps({"status": {"active": 1}})) == "running"
    assert state(json.dumps({"status": {"succeeded": 1}})) == "success"
    assert state(json.dumps({"status": {"conditions": conditions}})) == "failed"
    assert state("") == "failed"  # the job no longer exists
    assert state(None) == "running"  # kubectl cannot reach the cluster at the moment
    with pytest.raises(RuntimeError, match="no connection"):
        kubernetes.cancel(["job.batch/one"])
