"""Train all students of a study in parallel: one per arm and seed, each in its own folder.

`python -m tinyllm.students.run JOB` trains one student, as torchrun does; JOB: see `_torchrun`.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tinyllm import arms, paths, runs
from tinyllm.models import aliases, load
from tinyllm.params import Params
from tinyllm.students import student, targets
from tinyllm.students.predictions import CHECKPOINTS
from tinyllm.teachers import ask


def spec(params: Params, arm_name: str, seed: int) -> dict[str, Any]:
    """Everything that a student's results depend on; raises FileNotFoundError, with the remedy, if
    questions, rationales or answers that the arm needs are not finished."""
    arm = arms.resolve(arm_name, params.teachers)
    asked = params.model_copy(update=arm.asked)
    names = ["student", "task_prefix", "max_input", "max_target", "max_new_tokens"]
    if arm.trained:
        names += ["lr", "final_lr", "batch_size", "accumulation", "epochs", "warmup", "evals"]
        names += ["patience", "precision", "nproc"]
    known = {
        "stage": "student",
        "arm": arm_name,
        "settings": arm.settings(),
        "seed": seed,
        "tasks": [[task.name, task.prefix, task.weight] for task in targets.tasks(arm, params)],
        "cleaning": params.cleaning if arm.teachers else [],
        "data": runs.content(paths.data(params)),
        "rationales": {uri: ask.content(asked, uri) for uri in arm.teachers},
        **params.spec(*names),
        **load.content(params.student),
    }
    if arm.teachers and params.learn_from != "answer":
        known["learn_from"] = params.learn_from
    if arm.teachers and params.samples > 1:
        known |= params.spec("samples", "learn_sample")
    if arm.lora:
        known["lora_rate"] = aliases.LORA_RATE
    if arm.scorers:
        known["answers"] = {uri: ask.content(params, uri, "answers") for uri in arm.scorers}
    return known


def work(params: Params) -> list[tuple[Path, dict[str, Any] | None]]:
    """Folder and spec of every student of a study; spec None if its inputs are not finished."""
    pairs = []
    for arm, seed in students(params):
        try:
            wanted = spec(params, arm, seed)
        except FileNotFoundError:
            wanted = None
        pairs.append((paths.student(params, arm, seed), wanted))
    return pairs


def students(params: Params) -> list[tuple[str, int]]:
    """Arm and seed of every student of a study, seed by seed."""
    return [(arm, seed) for seed in params.seeds for arm in params.arms]


def train_one(params: Params, arm: str, seed: int, say: student.Say = lambda share: None) -> Path:
    """Train one student, score it on test, and return its run folder.

    A finished student is not trained again; an interrupted run resumes from its last checkpoint.
    Raises StaleRun (other parameters), and as `student.make`.
    """
    folder, wanted = paths.student(params, arm, seed), spec(params, arm, seed)
    # RANK may also be set on a cluster without torchrun, so check torchrun's run id too.
    first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"
    if not runs.finished(folder, wanted):
        if first and not (folder / runs.BEGUN).exists():  # checkpoints of unknown parameters
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        with runs.recording(folder, wanted, first) as facts:
            resolved = arms.resolve(arm, params.teachers)
            facts |= student.make(params, resolved, seed, folder, say, first)
    if first:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return folder


def train_all(params: Params) -> list[Path]:
    """Train every arm and seed of a study, `params.workers` students in parallel.

    A student that fails does not stop the others; all failures are raised together at the end.
    Returns the run folders, seed by seed.
    """
    jobs = {job: paths.student(params, *job) for job in students(params)}
    todo = [job for job, folder in jobs.items() if not runs.finished(folder, spec(params, *job))]
    if not todo:
        return list(jobs.values())
    student.check(params)
    if params.nproc == 1:
        reasons = _side_by_side(params, todo)
    else:
        reasons = [_torchrun(params, *job) for job in todo]
    pairs = zip(todo, reasons, strict=True)
    if failed := [f"\n{arm}, seed {seed}: {why}" for (arm, seed), why in pairs if why]:
        raise RuntimeError(f"{len(failed)} of {len(todo)} students failed:{''.join(failed)}")
    return list(jobs.values())


def _side_by_side(params: Params, jobs: Sequence[tuple[str, int]]) -> list[str]:
    """Train each student in its own process; returns why each one failed, or "".

    The processes are forked from one that has imported everything, which saves seconds for each.
    """
    # Otherwise glibc returns large blocks to the system at every step and gets new, zeroed ones.
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 40))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    threads = max(1, torch.get_num_threads() // params.workers)
    shares = context.Array("d", len(jobs), lock=False)
    reasons, waiting, running = [""] * len(jobs), list(range(len(jobs))), {}
    bar = tqdm(total=len(jobs), unit="student", mininterval=5, file=sys.stdout)
    try:
        while waiting or running:
            while waiting and len(running) < params.workers:
                number = waiting.pop(0)
                reader, writer = context.Pipe(duplex=False)
                arguments = (os.getpid(), params, *jobs[number], threads, shares, number, writer)
                process = context.Process(target=_train_job, args=arguments)
                process.start()
                writer.close()
                running[process.sentinel] = (number, process, reader)
            for sentinel in wait(list(running), timeout=2):
                number, process, reader = running.pop(sentinel)
                process.join()
                try:
                    reasons[number] = reader.recv()
                except EOFError:
                    reasons[number] = f"its process ended with exit code {process.exitcode}"
                shares[number] = 1.0
            bar.n = round(sum(shares), 2)
            bar.update(0)
    finally:  # also if interrupted: no process may keep running
        for _, process, _ in running.values():
            process.terminate()
        bar.close()
    return reasons


def _train_job(
    parent: int, params: Params, arm: str, seed: int, threads: int, shares, number: int, writer
) -> None:
    """Train one student in this process and send the parent why it failed, or ""."""
    runs.end_with_parent(parent)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    try:
        train_one(params, arm, seed, lambda share: shares.__setitem__(number, share))
        writer.send("")
    except Exception as error:  # whatever it is, the other students continue
        writer.send(f"{type(error).__name__}: {error}"[:10_000])


def _torchrun(params: Params, arm: str, seed: int) -> str:
    """Train one student in `nproc` processes; returns why that failed, or ""."""
    job = {"params": params.model_dump(), "arm": arm, "seed": seed, "notebook": os.getpid()}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(params.nproc), "-m", "tinyllm.students.run"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, json.dumps(job)], **pipe) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    return f"torchrun exited with {process.returncode}; see above" if process.returncode else ""


def main(text: str) -> None:
    """Train the student of a job, given as JSON (see `_torchrun`)."""
    job = json.loads(text)
    runs.end_with_parent(job["notebook"])
    print(train_one(Params.checked(**job["params"]), job["arm"], job["seed"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
