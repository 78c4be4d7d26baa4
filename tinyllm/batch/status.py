"""What of a grid is done, read from notebooks and manifests; what failed, and why.

A job is done if its notebook was executed, its work has the parameters and inputs that are asked
for now (by the manifests), and all jobs that it needs are done. `Status.refresh` sets the notebooks
of other jobs aside, so that a workflow runs them again: what is missing is made, and what was made
from other inputs is refused by its notebook with the remedy (runs.StaleRun).
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections import Counter
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tinyllm import paths, runs
from tinyllm.batch.grid import Grid, Job
from tinyllm.data import load as data
from tinyllm.evaluation import results
from tinyllm.params import Params

ENDED = "ended with status"  # the Snakefile writes it into the log where papermill fails


class Piece(NamedTuple):
    """A folder that a job is there to make: missing, stale or finished, and why it is stale."""

    state: str
    why: str = ""


def pieces(job: Job) -> list[Piece]:
    """The work of a job, folder by folder; none for figures."""
    params, students = job.params, product(job.params.arms, job.params.seeds)
    if job.rule == "figures":
        return []
    if job.rule == "evaluate":
        return [_stored(params, *student) for student in students]
    try:
        return [_piece(*work) for work in _work(job)]
    except (OSError, ValueError):  # no questions that can be read: notebook 01 says why
        if job.rule == "distill":
            return [_restored(params, *student) for student in students]
        return [Piece("missing")]


def _work(job: Job) -> list[tuple[Path, dict | None]]:
    """Folder and spec of each piece of work; FileNotFoundError where there are no questions yet."""
    if job.rule == "prepare":
        return data.work(job.params)
    runs.content(paths.data(job.params))
    # Imported only where there are questions, since that takes seconds.
    if job.rule == "prompt":
        from tinyllm.teachers import ask as stage
    else:
        from tinyllm.students import run as stage
    return stage.work(job.params)


def _piece(folder: Path, spec: dict | None) -> Piece:
    if (state := runs.state(folder, spec)) != "stale":
        return Piece(state)
    asked = json.loads(json.dumps(spec))
    lines = runs.differences(runs.read_manifest(folder)["spec"], asked) if spec else []
    return Piece(
        state, f"{paths.shown(folder)}: {'; '.join(lines) or 'its inputs are not finished'}"
    )


def _restored(params: Params, arm: str, seed: int) -> Piece:
    """A student whose questions are not in runs/: as far as its manifest tells."""
    folder = paths.student(params, arm, seed)
    if runs.read_manifest(folder) is None:
        return Piece("missing")
    try:
        results.refuse_other(folder, params)
    except runs.StaleRun as problem:
        return Piece("stale", str(problem))
    return Piece("finished")


def _stored(params: Params, arm: str, seed: int) -> Piece:
    """A student under results/: finished if it is the one of the run folder."""
    stored = runs.read_manifest(paths.stored(params, arm, seed))
    same = stored == runs.read_manifest(paths.student(params, arm, seed))
    return Piece("finished" if stored and same else "missing")


def failure(job: Job) -> str | None:
    """Why a job failed, in one line; None where it did not, or where it is at work.

    What no notebook can tell (its kernel was killed, its time was up) is at the end of its log.
    """
    if job.done.exists():
        return None
    try:
        cells = json.loads(job.path("failed.ipynb").read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):  # none, or papermill is writing it
        cells = []
    for output in reversed([output for cell in cells for output in cell.get("outputs", ())]):
        if output["output_type"] == "error":
            text = re.sub(r"\x1b\[[\d;]*m", "", f"{output['ename']}: {output['evalue']}")
            return textwrap.shorten(text, 1500, placeholder=" …")
    log = job.path("log")
    lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.startswith(ENDED)), None)


def failures(grid: Grid) -> list[str]:
    """Two lines per failed job: why it failed, and where to look."""
    lines = []
    for job in grid.jobs:
        if why := failure(job):
            lines += [f"failed: {job}: {why}", f"    see {paths.shown(job.path('failed.ipynb'))}"]
    return lines


class Status:
    """A grid's jobs as they are when this is made: it reads all manifests once."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self.pieces = {job: pieces(job) for job in grid.jobs}
        self.unfinished: dict[Job, None] = {}
        for job in grid.jobs:
            made = all(piece.state == "finished" for piece in self.pieces[job])
            if not (made and job.done.exists() and self.unfinished.keys().isdisjoint(job.after)):
                self.unfinished[job] = None

    def refresh(self) -> None:
        """Rename the notebooks of unfinished jobs to JOB.old.ipynb."""
        for job in self.unfinished:
            if job.done.exists():
                os.replace(job.done, job.path("old.ipynb"))

    def stale(self, params: Params) -> list[str]:
        """What differs in the stale work of a study, a line per folder."""
        every = [piece for job in self.grid.of(params) for piece in self.pieces[job]]
        return list(dict.fromkeys(f"stale: {piece.why}" for piece in every if piece.why))

    def table(self) -> pd.DataFrame:
        """A row per study, dataset and student: questions, rationales (finished of all), students
        (asked for), of these done, failed (in a failed job), stale (of other parameters or inputs)
        and missing; stored (in results/ as in runs/); evaluated (yes, or empty).
        """
        rows = []
        for params in self.grid.studies:
            count: Counter[str] = Counter()
            evaluated = ""
            for job in self.grid.of(params):
                own = job.params.student == params.student
                failed = failure(job) is not None
                for piece in self.pieces[job] if own or job.rule in ("prepare", "prompt") else ():
                    state = "failed" if failed and piece.state == "missing" else piece.state
                    count.update([job.rule, f"{job.rule} {state}"])
                if own and job.rule == "evaluate" and job not in self.unfinished:
                    evaluated = "yes"
            row = params.spec("study", "dataset", "student")
            for name, rule in (("questions", "prepare"), ("rationales", "prompt")):
                row[name] = f"{count[f'{rule} finished']}/{count[rule]}"
            row |= {"students": count["distill"], "done": count["distill finished"]}
            row |= {state: count[f"distill {state}"] for state in ("failed", "stale", "missing")}
            rows.append(row | {"stored": count["evaluate finished"], "evaluated": evaluated})
        return pd.DataFrame(rows)

    def report(self) -> str:
        """The table, how many jobs are done, failed jobs, and what is stale."""
        jobs, done = len(self.grid.jobs), len(self.grid.jobs) - len(self.unfinished)
        lines = [self.table().to_string(index=False), "", f"{done} of {jobs} jobs are done"]
        stale = [line for params in self.grid.studies for line in self.stale(params)]
        return "\n".join([*lines, *failures(self.grid), *dict.fromkeys(stale)])
