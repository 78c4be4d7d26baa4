"""Run folders: finished only with a manifest, reused if equal, rejected if different."""

import json
import multiprocessing
import subprocess
import sys
import time

import pytest

from tinyllm import paths, runs
from tinyllm.params import Params


def made(folder, spec):
    with runs.recording(folder, spec) as facts:
        (folder / "out.txt").write_text("whole")
        facts["rows"] = 3


def test_a_folder_is_finished_only_after_its_block_succeeds(tmp_path):
    spec = {"lr": 0.1}
    with pytest.raises(KeyboardInterrupt), runs.recording(tmp_path, spec):
        (tmp_path / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert not runs.finished(tmp_path, spec)
    with pytest.raises(runs.StaleRun, match=r"lr: 0\.1 "), runs.recording(tmp_path, {"lr": 0.2}):
        pytest.fail("never reached")
    made(tmp_path, spec)
    assert runs.finished(tmp_path, spec)
    manifest = runs.read_manifest(tmp_path)
    assert manifest["facts"] == {"rows": 3}
    assert manifest["outputs"]["out.txt"] == runs.sha256(tmp_path / "out.txt")
    assert {"versions", "git", "device", "seconds"} <= set(manifest)
    assert str(tmp_path) not in json.dumps(manifest)  # a manifest holds no local paths


@pytest.mark.parametrize("name", [runs.BEGUN, runs.MANIFEST])
def test_damaged_json_files_are_reported_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_text('{"spec": {')
    with pytest.raises(ValueError, match=rf"{name} is damaged .*; delete it"):
        runs.finished(tmp_path, {}) or made(tmp_path, {})


def test_work_is_missing_stale_or_finished_and_differences_are_named(tmp_path):
    assert not runs.finished(tmp_path / "absent", {"lr": 0.1})
    spec = {"lr": 0.1, "steps": (1, 2), "data": {"train": "a"}}
    made(tmp_path, spec)
    assert runs.finished(tmp_path, spec | {"steps": [1, 2]})
    for other, words in (({"lr": 0.1}, "steps: .* None asked for"), (None, "inputs are not")):
        with pytest.raises(runs.StaleRun, match=words):
            runs.finished(tmp_path, other)
    with pytest.raises(runs.StaleRun, match=r"data\.train: 'a' .* 'b' .*lr: 0\.1 .* 0\.2 "):
        runs.finished(tmp_path, spec | {"lr": 0.2, "data": {"train": "b"}})


def test_a_revision_that_the_hub_does_not_tell_now_is_not_compared(tmp_path):
    made(tmp_path, {"lr": 0.1, "revision": "abc"})
    assert runs.finished(tmp_path, {"lr": 0.1})
    with pytest.raises(runs.StaleRun, match="revision: 'abc' in the folder, 'def' asked for"):
        runs.finished(tmp_path, {"lr": 0.1, "revision": "def"})


def hold(folder, reached):
    with runs.recording(folder, {"x": 1}):
        reached.set()
        time.sleep(60)


def test_a_second_writer_is_rejected_until_the_first_ends(tmp_path, monkeypatch):
    """The lock also works if RANK is set in the environment, as in some pods."""
    monkeypatch.setenv("RANK", "3")
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=hold, args=(tmp_path, reached))
    process.start()
    assert reached.wait(60)
    with pytest.raises(RuntimeError, match="another process"), runs.recording(tmp_path, {"x": 1}):
        pytest.fail("never reached")
    process.kill()
    process.join()
    made(tmp_path, {"x": 1})  # a killed process leaves no lock


def test_student_paths_are_unique_and_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "my runs"))
    arms = ["tinyllm", "tinyllm:shuffled", "tinyllm+lora", "tinyllm-a", "dss:micro:a"]
    folders = {paths.student(Params(), arm, seed) for arm in arms for seed in (0, 1)}
    assert len(folders) == 10
    assert all(folder.is_relative_to(tmp_path / "my runs" / "micro") for folder in folders)


WORKER = """
import time
from multiprocessing import get_context
from tinyllm import runs
def work():
    runs.end_with_parent()
    print("begun", flush=True)
    time.sleep(20)
    print("went on", flush=True)
if __name__ == "__main__":
    process = get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


def test_workers_end_when_their_parent_process_ends(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, tmp_path / "worker.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.kill()
        assert process.stdout.read() == b""  # the pipe closes when the last process ends
