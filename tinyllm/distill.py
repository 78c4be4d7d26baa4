"""Distillation: train every student of a study, one folder each, and score it on test.

What an arm's student learns is in `tasks`, batches in `batches`, the loss and the Trainer in
`training`, and trained students are read by `students`.

`python -m tinyllm.distill JOB.json` trains one student; torchrun starts it the same way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from tinyllm import (
    arms,
    cost,
    data,
    evaluate,
    models,
    paths,
    prompts,
    rationales,
    results,
    runs,
    sizes,
)
from tinyllm.batches import Collator, training_rows
from tinyllm.data import Example
from tinyllm.encoding import Encoding
from tinyllm.params import Params
from tinyllm.students import CHECKPOINT, untrained
from tinyllm.tasks import ANSWER, Task, arm_options, arm_texts, tasks
from tinyllm.training import DistillTrainer, MultiTask, Progress, memory_remedy

TRAIN_VERSION = 2  # raised where a student would come out otherwise by more than rounding
HISTORY = ["step", "epoch", "split", "task", "metric", "value"]  # columns of history.csv
Say = Callable[[float], None]  # told the share of the training that is done


def student_spec(params: Params, arm: str, seed: int) -> dict[str, Any]:
    """All that one student's outcome depends on.

    Raises FileNotFoundError, with the remedy, where rationales or answers that the arm needs are
    not there yet.
    """
    base = paths.study(params.study, params.dataset)
    found = arms.resolve(arm, params.teachers)
    where = arms.asked(found, params)
    names = ["student", "task_prefix", "max_input", "max_target", "max_new_tokens"]
    if found.trained:
        names += ["lr", "batch_size", "accumulation", "epochs", "warmup", "evals", "patience"]
        names += ["precision", "nproc"]
    spec = {
        "stage": "student",
        "versions": {
            "train": TRAIN_VERSION,
            "score": evaluate.SCORE_VERSION,
            "prompt": prompts.PROMPT_VERSION,
        },
        "arm": arm,
        "settings": found.settings(),
        "seed": seed,
        "tasks": [[t.name, t.prefix, t.weight] for t in tasks(found, params)],
        "cleaning": params.cleaning if found.teachers else [],
        "data": runs.inputs(base / "data"),
        "rationales": {t: runs.inputs(rationales.folder(where, t)) for t in found.teachers},
        **params.spec(*names),
        **models.content(params.student),
    }
    if found.lora:
        spec["lora_rate"] = models.LORA_RATE
    if found.scorers:
        from tinyllm import answers

        spec["answers"] = {teacher: answers.content(params, teacher) for teacher in found.scorers}
    return spec


def train(params: Params, arm_name: str, seed: int, say: Say = lambda share: None) -> Path:
    """Train one student, score it on test, and return its run folder.

    Skipped where the folder already holds the same student. A stopped run goes on from its last
    checkpoint. Raises StaleRun where the folder holds another student, ParameterError where
    questions do not fit `max_input`, FloatingPointError on a loss that is not finite, MemoryError,
    with what to lower, where memory runs out.
    """
    folder = results.student_folder(params, arm_name, seed)
    spec = student_spec(params, arm_name, seed)
    if runs.finished(folder, spec):
        return folder
    arm = arms.resolve(arm_name, params.teachers)
    splits = data.read(paths.study(params.study, params.dataset) / "data")
    examples = {split: data.examples(splits[split]) for split in ("train", "valid", "test")}
    with runs.recording(folder, spec) as facts:
        cost.start_peak()
        model, tokenizer = untrained(params, arm, seed)
        encoding = Encoding.of(model, tokenizer, params)
        try:
            if arm.trained:
                history, more = _fit(
                    params, arm, seed, model, encoding, examples, folder / "checkpoints", say
                )
            else:
                history, more = _leave(model, encoding, examples["valid"])
        except (RuntimeError, MemoryError) as error:
            if remedy := memory_remedy(params, error):
                raise MemoryError(remedy) from error
            raise
        if os.environ.get("RANK", "0") != "0":  # the first of several processes writes for all
            sys.exit()
        predictions = evaluate.predict(
            model,
            encoding,
            examples["test"],
            max_new_tokens=params.max_new_tokens,
            in_train=data.in_train(splits),
        )
        facts |= cost.sizes(model) | more | cost.peaks()
        facts |= {
            "accuracy": float(predictions.correct.mean()),
            "exact_match": float(predictions.exact.mean()),
            "n": len(predictions),
            "cut_inputs": len(encoding.cut_inputs),
            "cut_targets": len(encoding.cut_targets),
        }
        labels = {"study": params.study, "dataset": params.dataset, "arm": arm_name}
        labels |= {"student": params.student, "seed": seed, "split": "test"}
        for at, (name, value) in enumerate(labels.items()):
            predictions.insert(at, name, value)
        predictions.to_parquet(folder / results.PREDICTIONS, index=False)
        pd.DataFrame(history, columns=HISTORY).to_csv(folder / results.HISTORY, index=False)
        runs.write_json(folder / "metrics.json", facts)
        if arm.trained:
            models.save(model, tokenizer, folder / CHECKPOINT)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _fit(
    params: Params,
    arm: arms.Arm,
    seed: int,
    model: Any,
    encoding: Encoding,
    examples: dict[str, list[Example]],
    checkpoints: Path,
    say: Say,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train a model in place; returns its learning curves and facts for its manifest."""
    found = tasks(arm, params)
    params = params.model_copy(update={"epochs": params.epochs * arm.passes})
    for split in examples.values():  # too long a question ends here, not after hours
        encoding.check_room(split, [task.prefix for task in found])
    texts = arm_texts(params, arm, examples["train"], seed)
    _refuse_silent(params, arm, texts)
    options = arm_options(params, arm)
    rows = training_rows(examples["train"], texts, found, encoding, options)
    trainer = DistillTrainer(
        MultiTask(model, found),
        rows,
        found=found,
        params=params,
        scorer=lambda: evaluate.score_options(model, encoding, examples["valid"]),
        collator=Collator(encoding, found),
        folder=checkpoints,
        seed=seed,
    )
    trainer.add_callback(Progress(say))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    size = cost.sizes(model)
    flops = sizes.train_flops(size["parameters"], size["trained_parameters"], trainer.tokens)
    return trainer.history, {
        "train_seconds": round(time.perf_counter() - started, 1),
        "train_tokens": trainer.tokens,
        "train_flops": flops,
        "valid_accuracy": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step,
        "steps": trainer.state.global_step,
        "train_questions": len(rows),
        "targets": _targets(rows, found),
    }


def _leave(
    model: Any, encoding: Encoding, valid: list[Example]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `_fit` returns, for a student that is scored as it is."""
    model.to(models.device())
    scored = evaluate.score_options(model, encoding, valid)
    accuracy = sum(row["choice"] == row["gold"] for row in scored) / len(scored)
    row = dict(zip(HISTORY, (0, 0.0, "valid", ANSWER, "accuracy", accuracy), strict=True))
    nothing = ("trained_parameters", "train_questions", "train_tokens", "train_flops", "steps")
    facts = dict.fromkeys([*nothing, "best_step"], 0)
    return [row], facts | {"train_seconds": 0.0, "valid_accuracy": accuracy, "targets": {}}


def _refuse_silent(params: Params, arm: arms.Arm, texts: dict[str, dict[str, str]]) -> None:
    """ValueError where a teacher of the arm wrote nothing at all."""
    if silent := [teacher for teacher, have in texts.items() if not have]:
        raise ValueError(
            f"arms: {arm.name!r}: {silent[0]!r} has no rationale for any training question of "
            f"{params.dataset!r}; leave that teacher or this arm out"
        )


def _targets(rows: list[dict[str, Any]], found: list[Task]) -> dict[str, int]:
    """How many training questions have a target, by task."""
    return {
        task.name: sum(row["targets"][t] is not None for row in rows)
        for t, task in enumerate(found)
    }


def train_all(params: Params) -> list[Path]:
    """Train every arm and seed of a study, `params.workers` students side by side.

    A student that fails does not stop the others; at the end all failures are raised together.
    Returns the run folders, seed by seed.
    """
    jobs = [(arm, seed) for seed in params.seeds for arm in params.arms]
    folders = {job: results.student_folder(params, *job) for job in jobs}
    todo = [job for job in jobs if not runs.finished(folders[job], student_spec(params, *job))]
    how = _train_side_by_side if params.nproc == 1 else _train_by_torchrun
    if todo and (failed := how(params, todo)):
        raise RuntimeError(f"{len(failed)} of {len(todo)} students failed:\n" + "\n".join(failed))
    return [folders[job] for job in jobs]


def _train_side_by_side(params: Params, todo: list[tuple[str, int]]) -> list[str]:
    """Train in worker processes; returns a line for each student that failed."""
    failed = []
    workers = min(params.workers, len(todo))
    threads = max(1, torch.get_num_threads() // workers)  # a batch job may have fewer than all
    context = get_context("spawn")
    # glibc gives large blocks back at every step and has them zeroed at the next: a student with a
    # large vocabulary spends a tenth of its time on that. The workers inherit these settings.
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 40))
    manager = SyncManager(ctx=context)
    manager.start(runs.end_with_parent)
    with (
        manager,
        ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool,
        tqdm(total=len(todo), unit="student", mininterval=5, file=sys.stdout) as bar,
    ):
        shares = manager.dict()
        running = {
            pool.submit(_train_job, params, arm, seed, shares): (arm, seed) for arm, seed in todo
        }
        waiting = set(running)
        while waiting:
            done, waiting = wait(waiting, timeout=2)
            for future in done:
                arm, seed = running[future]
                shares[arm, seed] = 1.0
                if error := future.exception():
                    failed.append(f"{arm}, seed {seed}: {type(error).__name__}: {error}")
            bar.n = round(sum(shares.values()), 2)
            bar.update(0)
    return failed


def _train_by_torchrun(params: Params, todo: list[tuple[str, int]]) -> list[str]:
    """Train one student after the other, each in `nproc` processes; returns a line a failure."""
    failed = []
    for arm, seed in todo:
        job = results.student_folder(params, arm, seed) / "job.json"
        about = {"params": params.model_dump(), "arm": arm, "seed": seed}
        runs.write_json(job, about | {"notebook": os.getpid()})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(params.nproc), "-m", "tinyllm.distill", str(job)]
        last: deque[str] = deque(maxlen=5)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                last.append(line.strip())
        if process.returncode:
            failed.append(f"{arm}, seed {seed}: torchrun ended with {process.returncode}: {last}")
        else:
            job.unlink()
    return failed


def _start_worker(threads: int) -> None:
    runs.end_with_parent()
    torch.set_num_threads(threads)


def _train_job(params: Params, arm: str, seed: int, shares: Any) -> None:
    train(params, arm, seed, say=lambda share: shares.__setitem__((arm, seed), share))


def main(file: str) -> None:
    """Train the one student that a job file names: {"params": {…}, "arm": …, "seed": …}."""
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    if "notebook" in job:
        runs.end_with_parent(job["notebook"])
    print(train(Params.checked(**job["params"]), job["arm"], job["seed"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
