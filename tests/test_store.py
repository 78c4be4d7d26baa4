"""The store under a process that is killed, a full disk, and a resumed run: nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tinyllm import data, micro, paths, rationales, runs, store
from tinyllm.params import Params

QUESTIONS = 90
COLLECT = """
import resource, sys
from tinyllm import rationales
from tinyllm.params import Params

if len(sys.argv) > 4:
    size = int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
params = Params.checked(
    study=sys.argv[1], arms=["finetune"], teachers=["hf:" + sys.argv[2]],
    teacher_batch=int(sys.argv[3]), max_new_tokens=12,
    limit={"train": 90, "valid": 4, "test": 4},
)
rationales.collect_all(params)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.student("llama", tmp_path_factory.mktemp("model") / "llama", 0)


@pytest.fixture
def study(tmp_path, monkeypatch, model):
    """Makes a study with its own folder; gives its parameters, and how to collect in a process."""
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))

    def make(name, batch=4):
        params = Params.checked(
            study=name, arms=["finetune"], teachers=[f"hf:{model}"], teacher_batch=batch,
            max_new_tokens=12, limit={"train": QUESTIONS, "valid": 4, "test": 4},
        )  # fmt: skip
        data.save(data.load(params), paths.study(name, "micro") / "data", params)
        return params, [sys.executable, "-c", COLLECT, name, str(model), str(batch)]

    return make


def content(params):
    folder = rationales.folder(params, params.teachers[0])
    lines = (folder / rationales.FILE).read_bytes().split(b"\n")
    assert lines.pop() == b""
    return lines


def test_killed_at_several_points_and_resumed_the_store_is_that_of_an_uninterrupted_run(study):
    whole, _ = study("whole")
    rationales.collect_all(whole)
    expected = content(whole)
    assert len(expected) == len(set(expected)) == QUESTIONS
    store = rationales.folder(whole, whole.teachers[0])
    identity = runs.inputs(store)
    (store / runs.MANIFEST).unlink()  # else the other study would copy what is finished here

    params, command = study("killed")
    file = rationales.folder(params, params.teachers[0]) / rationales.FILE
    stops = []
    for share in (0.05, 0.3, 0.6, 0.85):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        goal = share * sum(map(len, expected))
        while process.poll() is None and not (file.exists() and file.stat().st_size > goal):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stops.append(file.stat().st_size)
        with open(file, "ab") as out:  # what a kill in the middle of a write leaves
            out.write(expected[0][: 40 + len(stops)])
    assert process.returncode == -signal.SIGKILL and stops == sorted(set(stops))
    assert stops[0] < sum(map(len, expected)), "the first kill came before the end"
    with pytest.raises(FileNotFoundError):
        runs.inputs(file.parent)
    rationales.collect_all(params)
    assert sorted(content(params)) == sorted(expected)
    assert runs.inputs(file.parent) == identity


def test_a_store_cut_at_any_byte_of_its_last_lines_goes_on(study):
    params, _ = study("cut", batch=32)
    rationales.collect_all(params)
    folder = rationales.folder(params, params.teachers[0])
    file, expected = folder / rationales.FILE, content(params)
    raw = file.read_bytes()
    for cut in range(len(raw) - 1, len(raw) - 2000, -237):
        file.write_bytes(raw[:cut])
        (folder / "manifest.json").unlink()
        rationales.collect_all(params)
        assert sorted(content(params)) == sorted(expected)


def test_a_full_disk_ends_with_the_remedy_keeps_whole_records_and_goes_on(study):
    params, command = study("full")
    limit = 20_000  # bytes; the kernel answers EFBIG as it answers ENOSPC: after a part of a line
    done = subprocess.run([*command, str(limit)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "free some space and run this again" in done.stderr
    folder = rationales.folder(params, params.teachers[0])
    file = folder / rationales.FILE
    raw = file.read_bytes()
    assert 0 < len(raw) <= limit and raw.endswith(b"\n")
    kept = content(params)
    rationales.collect_all(params)
    assert content(params)[: len(kept)] == kept
    assert len({record.id for record in store.read(file)}) == QUESTIONS


def test_a_really_full_file_system_is_told_as_such(study, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    try:
        record = store.Record("k", "q", "t", "p" * 3000, "text", "stop")
        with (
            pytest.raises(OSError, match=r"No space left on device.*free some space"),
            store.appending(small / "store.jsonl") as append,
        ):
            for _ in range(20):
                append(record)
        raw = (small / "store.jsonl").read_bytes()
        assert raw.endswith(b"\n") and raw.count(b"\n") >= 3
    finally:
        subprocess.run(["umount", str(small)], check=True)
