"""Run folders: finished only with a manifest, skipped only when equal, refused when different."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyllm import runs


def test_a_folder_is_finished_only_after_its_block_ended_well(tmp_path):
    spec = {"lr": 0.1}
    with pytest.raises(KeyError), runs.recording(tmp_path, spec):
        (tmp_path / "half.txt").write_text("half")
        raise KeyError
    assert not runs.finished(tmp_path, spec)
    with runs.recording(tmp_path, spec) as facts:
        (tmp_path / "out.txt").write_text("whole")
        facts["rows"] = 3
    assert runs.finished(tmp_path, spec)
    manifest = runs.read_manifest(tmp_path)
    assert manifest["facts"] == {"rows": 3}
    assert manifest["outputs"]["out.txt"] == runs.sha256(tmp_path / "out.txt")
    assert {"versions", "git", "device", "seconds"} <= set(manifest)


def test_other_parameters_are_refused_and_named(tmp_path):
    with runs.recording(tmp_path, {"lr": 0.1, "data": {"train": "a"}}):
        pass
    with pytest.raises(runs.StaleRun) as caught:
        runs.finished(tmp_path, {"lr": 0.2, "data": {"train": "b"}})
    assert "lr: 0.1 there, 0.2 asked for" in str(caught.value)
    assert "data.train: 'a' there, 'b' asked for" in str(caught.value)


def test_an_unfinished_input_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the notebook of that stage first"):
        runs.inputs(tmp_path / "nothing")


def test_a_manifest_names_no_folder_of_this_machine(tmp_path):
    with runs.recording(tmp_path, {"x": 1}):
        (tmp_path / "a.txt").write_text("a")
    assert str(tmp_path) not in json.dumps(runs.read_manifest(tmp_path))


def test_stopped_work_goes_on_only_with_the_same_parameters(tmp_path):
    with pytest.raises(KeyboardInterrupt), runs.recording(tmp_path, {"lr": 0.1}):
        raise KeyboardInterrupt
    with pytest.raises(runs.StaleRun, match=r"lr: 0.1 there, 0.2 asked for"):  # noqa: SIM117
        with runs.recording(tmp_path, {"lr": 0.2}):
            raise AssertionError("never reached")
    with runs.recording(tmp_path, {"lr": 0.1}):
        pass
    assert runs.finished(tmp_path, {"lr": 0.1})


def test_only_one_process_works_in_a_folder(tmp_path):
    with runs.recording(tmp_path, {"x": 1}):  # noqa: SIM117
        with pytest.raises(RuntimeError, match="another process is writing"):
            with runs.recording(tmp_path, {"x": 1}):
                raise AssertionError("never reached")
    with runs.recording(tmp_path, {"x": 1}):  # nor does the lock outlive its holder
        pass


def test_the_same_work_of_another_study_is_copied_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    first = tmp_path / "one" / "obqa" / "rationales" / "t"
    with runs.recording(first, {"teacher": "t"}):
        (first / "out.txt").write_text("said")
    there = tmp_path / "two" / "obqa" / "rationales" / "t"
    assert not runs.shared(there, {"teacher": "other"}) and not there.exists()
    assert runs.shared(there, {"teacher": "t"})
    assert (there / "out.txt").read_text() == "said"
    assert runs.read_manifest(there) == runs.read_manifest(first)
    with pytest.raises(runs.StaleRun):  # what stands there is still refused where it is other work
        runs.shared(there, {"teacher": "other"})
    # Work that was begun goes on instead, and other datasets are other work.
    begun = tmp_path / "three" / "obqa" / "rationales" / "t"
    with pytest.raises(KeyboardInterrupt), runs.recording(begun, {"teacher": "t"}):
        raise KeyboardInterrupt
    assert not runs.shared(begun, {"teacher": "t"})
    assert not runs.shared(tmp_path / "one" / "arc" / "rationales" / "t", {"teacher": "t"})


WORKER = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from tinyllm import runs
def work(file):
    open(file, "w").write("begun")
    time.sleep(60)
    open(file, "w").write("ended")
if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), runs.end_with_parent) as pool:
        list(pool.map(work, [sys.argv[1]]))
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    file = tmp_path / "said.txt"
    process = subprocess.Popen([sys.executable, tmp_path / "worker.py", file])
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    assert workers.stdout.split()
    process.kill()
    process.wait()
    time.sleep(3)
    alive = [pid for pid in workers.stdout.split() if os.path.exists(f"/proc/{pid}")]
    states = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in alive]
    assert set(states) <= {"Z"}  # what nobody waits for is left as a zombie in some containers
