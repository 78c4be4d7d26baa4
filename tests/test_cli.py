"""The command `tinyllm`: exit statuses, and messages that name the value and the remedy."""

import subprocess
import threading

import nbformat
import pytest
from filelock import FileLock

from tinyllm import params, paths
from tinyllm.batch import cli, kubernetes


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder that is not the repository, with runs and results of its own."""
    for name in ("RUNS", "FIGURES", "RESULTS"):
        monkeypatch.setenv(f"TINYLLM_{name}", str(tmp_path / name.lower()))
    monkeypatch.delenv("TINYLLM_PARAMETERS", raising=False)
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
        (["check", "bad.yaml"], "did you mean `lr`"),
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


def test_every_shipped_parameter_file_and_grid_is_well(elsewhere, capsys):
    files = sorted(paths.ROOT.glob("params/**/*.yaml"))
    assert len(files) > 20 and cli.main(["check", *map(str, files)]) == 0
    assert capsys.readouterr().out.count(" jobs") == len(files)


def test_a_grid_by_name_or_relative_path_is_planned_from_any_folder(elsewhere, capsys):
    (elsewhere / "my study.yaml").write_text("student: some/model\n", encoding="utf-8")
    for arguments in (
        ["paper"],
        ["params/micro.yaml"],
        ["my study.yaml", "--parameters", "some/model=3e9"],
    ):
        assert cli.main(["plan", *arguments]) == 0
        assert "total" in capsys.readouterr().out


def test_options_behind_two_dashes_go_to_snakemake(elsewhere, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command) or 0)
    assert cli.main(["run", "micro_curves", "--", "--until", "prepare"]) == 0
    assert calls[0][-2:] == ["--until", "prepare"]
    assert f"{paths.ROOT / 'profiles' / 'local'}" in calls[0]


def test_a_run_waits_for_another_one_of_the_same_study_or_says_so(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "call", lambda command: 0)
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


def test_results_of_a_study_that_is_not_there_are_an_error(elsewhere, capsys):
    assert cli.main(["results", "params/micro.yaml"]) == 1
    assert "not finished" in capsys.readouterr().out


def test_stored_results_are_shown_and_restored_without_runs(elsewhere, capsys, committed_results):
    obqa = "params/laptop/obqa.yaml"
    assert cli.main(["results", obqa]) == 0
    text = capsys.readouterr().out
    assert "tinyllm:shuffled" in text and "p (Holm)" in text
    assert cli.main(["restore", obqa]) == 0
    assert "laptop/obqa, minilm-ed: 27 students" in capsys.readouterr().out


def test_the_parameters_cell_of_a_notebook_is_rewritten_for_its_stage(tmp_path):
    file = tmp_path / "03_distillation.ipynb"
    cell = nbformat.v4.new_code_cell("lr = 1", metadata={"tags": ["parameters"], "papermill": {}})
    other = nbformat.v4.new_code_cell("lr = 1", metadata={"papermill": {}})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, other]), file)
    assert cli.main(["cells", str(file)]) == 0
    first, second = nbformat.read(file, as_version=4).cells
    assert first.source == params.cell("students") and second.source == "lr = 1"
    assert (first.metadata, second.metadata) == ({"tags": ["parameters"]}, {})


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ('{"status": {"active": 1}}', "running"),
        ('{"status": {"succeeded": 1}}', "success"),
        ('{"status": {"conditions": [{"type": "Failed", "status": "True"}]}}', "failed"),
        ("", "failed"),
        (RuntimeError("kubectl: no connection"), "running"),
    ],
)
def test_the_state_of_a_kubernetes_job(monkeypatch, capsys, answer, state):
    def kubectl(*arguments):
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(kubernetes, "kubectl", kubectl)
    assert cli.main(["kubernetes", "status", "job.batch/one"]) == 0
    assert capsys.readouterr().out.strip() == state
