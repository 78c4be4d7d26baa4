"""Status of a grid, read from notebooks and manifests: what is done, what failed and why.

A job is done if its notebook was executed, its manifests match the current parameters and inputs,
and all jobs that it needs are done. `tinyllm run` runs all others: missing work is made, and work
made from other parameters or inputs is refused by its notebook with the remedy (runs.StaleRun).
"""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from tinyllm import paths, runs
from tinyllm.batch.grid import Grid, Job
from tinyllm.data import load as data
from tinyllm.evaluation import results
from tinyllm.params import Params

ENDED = "ended with status"  # the Snakefile writes it to the log if papermill fails


def states(job: Job) -> list[str]:
    """State of each folder that a job creates (one for all figures).

    `finished`, `missing`, `missing: ` or `stale: ` and the reason.
    """
    params, students = job.params, product(job.params.arms, job.params.seeds)
    if job.rule == "figures":
        return [] if any(job.figures.glob("*.png")) else ["missing"]
    if job.rule == "evaluate":
        return [_state(_stored, params, *student) for student in students]
    # Restored students have no rationales in runs/ to compare with.
    alone = not (paths.runs() / "rationales" / paths.slug(params.dataset)).exists()
    try:
        return [
            _state(results.finished, folder, params)
            if job.rule == "distill" and spec is None and alone
            else _state(runs.finished, folder, spec)
            for folder, spec in _work(job)
        ]
    except (OSError, ValueError) as error:  # no questions, or unreadable ones
        if job.rule != "distill":
            return [f"missing: {error}" if job.rule == "prepare" else "missing"]
        folders = [paths.student(params, *student) for student in students]
        return [_state(results.finished, folder, params) for folder in folders]


def _state(finished: Callable[..., bool], *of: Any) -> str:
    try:
        return "finished" if finished(*of) else "missing"
    except runs.StaleRun as problem:
        return f"stale: {problem}"


def _stored(params: Params, arm: str, seed: int) -> bool:
    """True if a student is in results/, with the same files as in runs/ if it is finished there."""
    stored, run = paths.stored(params, arm, seed), paths.student(params, arm, seed)
    if runs.read_manifest(run) is None:
        return results.finished(stored, params)
    same = runs.read_manifest(stored) == runs.read_manifest(run)
    return same and runs.intact(stored) and runs.intact(run)


def _work(job: Job) -> list[tuple[Path, dict | None]]:
    """Folder and spec of each part of a job; raises FileNotFoundError without stored questions."""
    if job.rule == "prepare":
        return [(paths.data(job.params), data.spec(job.params))]
    runs.content(paths.data(job.params))
    # Imported only if there are questions, because that takes seconds.
    if job.rule == "prompt":
        from tinyllm.teachers import ask as stage
    else:
        from tinyllm.students import run as stage
    return stage.work(job.params)


def failure(job: Job) -> str | None:
    """Why a job failed, in one line; None if it did not fail or is still running.

    If the notebook shows no error (killed kernel, time limit), the end of the log is used.
    """
    if job.done.exists():
        return None
    try:
        cells = json.loads(job.path("failed.ipynb").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):  # no file, or papermill is writing it
        cells = []
    for output in reversed([output for cell in cells for output in cell.get("outputs", ())]):
        if output["output_type"] == "error":
            text = re.sub(r"\x1b\[[\d;]*m", "", f"{output['ename']}: {output['evalue']}")
            return textwrap.shorten(text, 1500, placeholder=" …")
    log = job.path("log")
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    if "Aborted!" in lines:  # by the user
        return None
    return next((line for line in reversed(lines) if line.startswith(ENDED)), None)


def failures(grid: Grid) -> list[str]:
    """Two lines per failed job: why it failed, and where to look."""
    lines = []
    for job in grid.jobs:
        if why := failure(job):
            lines += [f"failed: {job}: {why}", f"    see {paths.shown(job.path('failed.ipynb'))}"]
    return lines


class Status:
    """A snapshot of a grid's jobs; all manifests are read once, when it is created."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.states = {job: states(job) for job in grid.jobs}
        self.unfinished: dict[Job, None] = {}
        for job in grid.jobs:
            made = all(state == "finished" for state in self.states[job])
            if not (made and job.done.exists() and self.unfinished.keys().isdisjoint(job.after)):
                self.unfinished[job] = None

    def stale(self, params: Params) -> list[str]:
        """Stale folders of a study and what differs, one line per folder."""
        all_states = [state for job in self.grid.of(params) for state in self.states[job]]
        return list(dict.fromkeys(state for state in all_states if state.startswith("stale")))

    def table(self) -> pd.DataFrame:
        """One row per study, dataset and student: questions, rationales (finished/all), students
        (requested), of these done, failed (in a failed job), stale (made with other parameters or
        inputs) and missing; stored (in results/; the same as in runs/, if finished there).
        """
        rows = []
        for params in self.grid.studies:
            count: Counter[str] = Counter()
            for job in self.grid.of(params):
                if job.rule in ("distill", "evaluate") and job.params.student != params.student:
                    continue
                failed = failure(job) is not None
                for state in self.states[job]:
                    word = state.partition(":")[0]
                    word = "failed" if failed and word == "missing" else word
                    count.update([job.rule, f"{job.rule} {word}"])
            row = params.spec("study", "dataset", "student")
            row["questions"] = f"{count['prepare finished']}/{count['prepare']}"
            row["rationales"] = f"{count['prompt finished']}/{count['prompt']}"
            row |= {"students": count["distill"], "done": count["distill finished"]}
            row |= {word: count[f"distill {word}"] for word in ("failed", "stale", "missing")}
            rows.append(row | {"stored": count["evaluate finished"]})
        return pd.DataFrame(rows)

    def report(self) -> str:
        """The table, how many jobs are done, failed jobs, what is stale, unreadable questions."""
        table, jobs = self.table(), len(self.grid.jobs)
        lines = [table.to_string(index=False), ""]
        lines.append(f"{jobs - len(self.unfinished)} of {jobs} jobs are done")
        stale = [line for params in self.grid.studies for line in self.stale(params)]
        if not stale and any(table["stored"] > table["done"]):
            lines.append("`tinyllm restore GRID` copies the stored students to runs/")
        stale += [s for of_job in self.states.values() for s in of_job if s.startswith("missing: ")]
        return "\n".join([*lines, *failures(self.grid), *dict.fromkeys(stale)])
