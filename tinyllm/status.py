"""How far a grid is: what is done, what failed and why, what is missing.

    python -m tinyllm.status NAME-OR-FILE       a table of the grid, then a line a failed job

Nothing is run and no model is loaded; what is done is read from the run folders' manifests and the
stored results, whoever made them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd

from tinyllm import paths, results, runs
from tinyllm.grid import Grid, Job, load
from tinyllm.params import ParameterError, Params

ENDED = "ended with status"  # the Snakefile writes it where papermill fails
SHOWN = 160  # letters of an error that are shown


def done(job: Job) -> bool:
    """True if the job's notebook was executed and its work is still there."""
    return job.done.exists() and all(map(_finished, job.work()))


def _finished(folder: Path) -> bool:
    return (folder / runs.MANIFEST).exists()


def stale(folder: Path, params: Params) -> bool:
    """True if a student's folder holds the outcome of other parameters, so that it is refused."""
    return results.differs(runs.read_manifest(folder) or {}, params)


def refresh(grid: Grid, dry: bool = False) -> None:
    """Bring what lies on the disk in line with the grid, for a workflow that is about to start.

    Writes the jobs' parameter files where they are not as they should be, and removes executed
    notebooks whose work is gone, so that these jobs run again (a dry run removes nothing).
    """
    for job in grid.jobs:
        job.write()
        if not dry and job.done.exists() and not done(job):
            job.done.unlink()


def failure(job: Job) -> str | None:
    """Why a job failed, in one line; None where it did not, or where it is at work.

    What no notebook can tell (its kernel was killed, its time was up) stands at the end of its log.
    """
    if job.done.exists():
        return None
    if job.failed.exists() and (said := error(job.failed)):
        return said
    lines = job.log.read_text(encoding="utf-8").split("\n") if job.log.exists() else []
    return next((line for line in reversed(lines) if line.startswith(ENDED)), None)


def error(notebook: Path) -> str | None:
    """The error that a notebook ended with, in one line; None where it shows none."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except ValueError:  # papermill is writing it
        return None
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    errors = [output for output in outputs if output["output_type"] == "error"]
    if not errors:
        return None
    line = " ".join(f"{errors[-1]['ename']}: {errors[-1]['evalue']}".split())
    line = re.sub(r"\x1b\[[\d;]*m", "", line)
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} …"


def table(grid: Grid) -> pd.DataFrame:
    """A row a study, dataset and student: how far it is.

    Columns: data and rationales (done of all), students (those asked for), done (in runs/), failed
    (those of failed jobs that are not done), stale (done with other parameters than are asked for
    now: another `study` keeps both), missing (none of these), stored (in results/), waiting (there
    too, for others of their study: `make restore` gives them back), evaluated (yes, or empty).
    """
    stored = results.overview().set_index(["study", "dataset", "student"])["stored"]
    rows = []
    for params in grid.studies:
        here = [job for job in grid.jobs if _same(job, params)]
        mine = [job for job in here if job.params.student == params.student]
        trained = [job for job in mine if job.rule == "distill"]
        students = [(job, folder) for job in trained for folder in job.work()]
        broken = {job: failure(job) is not None for job in trained}
        old = sum(stale(folder, params) for _, folder in students)
        finished = sum(_finished(folder) for _, folder in students) - old
        failed = sum(broken[job] and not _finished(folder) for job, folder in students)
        asked = [job for job in here if job.rule == "prompt"]
        evaluated = [job for job in mine if job.rule == "evaluate"]
        waiting = (results.stored_folder(params) / results.WAITING).glob(f"*/{runs.MANIFEST}")
        rows.append(
            {
                "study": params.study,
                "dataset": params.dataset,
                "student": params.student,
                "data": _share([job for job in here if job.rule == "prepare"]),
                "rationales": _share(asked),
                "students": len(students),
                "done": finished,
                "failed": failed,
                "stale": old,
                "missing": len(students) - finished - failed - old,
                "stored": int(
                    stored.get((params.study, params.dataset, paths.slug(params.student)), 0)
                ),
                "waiting": len(list(waiting)),
                "evaluated": "yes" if evaluated and all(map(done, evaluated)) and not old else "",
            }
        )
    return pd.DataFrame(rows)


def _same(job: Job, params: Params) -> bool:
    return (job.params.study, job.params.dataset) == (params.study, params.dataset)


def _share(jobs: list[Job]) -> str:
    folders = [folder for job in jobs for folder in job.work()]
    return f"{sum(map(_finished, folders))}/{len(folders)}"


def failures(grid: Grid) -> list[str]:
    """A failed job in two lines: what it was and why it failed, and how to look at it."""
    found = [(job, failure(job)) for job in grid.jobs]
    return [
        f"{job.params.study}/{job.params.dataset}, {job.name}: {why}\n"
        f"    look: jupyter lab {paths.shown(job.failed)}   (log: {paths.shown(job.log)})"
        for job, why in found
        if why
    ]


def summary(grid: Grid) -> str:
    """The jobs in one line, and the failed ones."""
    finished, failed = sum(map(done, grid.jobs)), failures(grid)
    lines = [f"{grid.name}: {finished} of {len(grid.jobs)} jobs done, {len(failed)} failed"]
    return "\n".join([*lines, *failed])


def main(arguments: list[str]) -> None:
    """See the module."""
    grid = load(arguments[0])
    print(table(grid).to_string(index=False))
    print(f"\n{summary(grid)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ParameterError as problem:
        sys.exit(str(problem))
