"""The command `tinyllm`: exit statuses, and messages that name the value and the remedy."""

import json
import subprocess
import threading

import pytest
from filelock import FileLock

from tinyllm import paths
from tinyllm.batch import cli, kubernetes


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder that is not the repository, with runs and results of its own."""
    for name in ("RUNS", "FIGURES", "RESULTS"):
        monkeypatch.setenv(f"TINYLLM_{name}", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_every_command_with_what_it_does(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "2 bad input" in text
    for function in cli.COMMANDS:
        assert f"{function.__name__} {function.__doc__.splitlines()[0]}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "papers"], "'papers': no file "),
        (["status", "bad.yaml"], "did you mean `lr`"),
        (["plan", "micro_curves", "--device", "tpu"], "device: 'tpu': allowed are a100,"),
        (["run", "big.yaml"], "'some/model': its size is unknown"),
        (["run", "big.yaml", "--parameters", "some/model=big"], "expected MODEL=NUMBER"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_clear_line(elsewhere, capsys, arguments, message):
    (elsewhere / "bad.yaml").write_text("study: bad\nlrr: 0.1\n", encoding="utf-8")
    (elsewhere / "big.yaml").write_text("study: big\nstudent: some/model\n", encoding="utf-8")
    assert cli.main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("tinyllm: ") and message in text and "Traceback" not in text


def test_shipped_files_are_well_and_own_ones_are_planned_from_any_folder(elsewhere, capsys):
    files = sorted(paths.ROOT.glob("params/**/*.yaml"))
    assert len(files) > 20 and cli.main(["check", *map(str, files)]) == 0
    assert capsys.readouterr().out.count(" jobs") == len(files)
    (elsewhere / "my study.yaml").write_text("student: some/model\n", encoding="utf-8")
    assert cli.main(["plan", "my study.yaml", "--parameters", "some/model=3e9"]) == 0
    assert "total" in capsys.readouterr().out


def test_a_run_waits_for_another_one_of_the_same_study_or_says_so(elsewhere, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or 0)
    (elsewhere / "one.yaml").write_text("study: one\n", encoding="utf-8")
    folder = elsewhere / "runs" / "one" / "micro" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "run.txt").write_text("process 7 on somewhere", encoding="utf-8")
    held, release = threading.Event(), threading.Event()

    def another_run():
        with FileLock(folder / "run.lock"):
            held.set()
            release.wait()

    threading.Thread(target=another_run).start()
    held.wait()
    assert cli.main(["run", "one.yaml"]) == 1
    text = capsys.readouterr().err
    assert "process 7 on somewhere" in text and "tinyllm run --wait" in text
    threading.Timer(0.5, release.set).start()
    assert cli.main(["run", "one.yaml", "--wait", "--", "--until", "prepare"]) == 0
    assert "waiting for it" in capsys.readouterr().out
    # What stands behind the two dashes goes to snakemake.
    assert len(calls) == 1 and calls[0][-2:] == ["--until", "prepare"]
    assert str(paths.ROOT / "profiles" / "local") in calls[0]


def test_results_of_a_study_are_those_of_runs_or_stored_ones_or_an_error(
    elsewhere, capsys, committed_results
):
    (elsewhere / "none.yaml").write_text("study: none\n", encoding="utf-8")
    assert cli.main(["results", "none.yaml"]) == 1
    assert "not finished" in capsys.readouterr().out
    obqa = "params/laptop/obqa.yaml"
    assert cli.main(["results", obqa]) == 0
    text = capsys.readouterr().out
    assert "from results/" in text and "tinyllm:shuffled" in text and "p (Holm)" in text
    assert cli.main(["restore", obqa]) == 0
    assert "laptop/obqa, minilm-ed: 27 students" in capsys.readouterr().out
    # They count as done, though the questions are not in runs/.
    assert cli.main(["status", obqa]) == 0
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line[:3] == ["laptop", "obqa", "minilm-ed"] and line[5:9] == ["27", "27", "0", "0"]


def test_the_state_of_a_kubernetes_job(monkeypatch, capsys):
    def state(answer):
        done = subprocess.CompletedProcess([], int(answer is None), answer or "", "no connection")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        assert cli.main(["kubernetes", "status", "job.batch/one"]) == 0
        return capsys.readouterr().out.strip()

    conditions = [{"type": "Failed", "status": "True"}]
    assert state(json.dumps({"status": {"active": 1}})) == "running"
    assert state(json.dumps({"status": {"succeeded": 1}})) == "success"
    assert state(json.dumps({"status": {"conditions": conditions}})) == "failed"
    assert state("") == "failed"  # it is gone
    assert state(None) == "running"  # kubectl cannot ask just now
    with pytest.raises(RuntimeError, match="no connection"):
        kubernetes.cancel(["job.batch/one"])
