"""The batch workflow: a job is one notebook, executed by papermill with a flat parameter file.

    tinyllm run params/micro.yaml
    tinyllm run paper --profile slurm -- --until distill

`tinyllm run` starts it: it writes the parameter files, then calls snakemake with `--config
grid=GRID`, and `--forcerun` for jobs whose work is missing or stale (tinyllm/batch/status.py).
The rules are prepare, prompt, distill, evaluate and figures, one per notebook.
"""

import re
import shlex
import sys

from tinyllm import paths
from tinyllm.batch import grid, plan, status

NAME = config.get("grid", "params/micro.yaml")
GRID = grid.load(NAME[0] if isinstance(NAME, list) else str(NAME))
JOBS = {str(job.done): job for job in GRID.jobs}
PYTHON = shlex.quote(sys.executable)


def of(done, value):
    """A function of wildcards: `value` of the job whose notebook is `done` with them filled in."""
    return lambda wildcards: value(JOBS[done.format(**wildcards)])


def minutes(done):
    """A function of wildcards and attempt: the runtime of a job, longer at each attempt."""
    return lambda wildcards, attempt: attempt * of(done, plan.resources)(wildcards)["runtime"]


wildcard_constraints:
    folder=rf"{re.escape(str(paths.runs()))}/[^/]+/[^/]+/notebooks",
    part=r"(_[^/]+)?(?<!\.failed)",


rule all:
    default_target: True
    input:
        list(JOBS),


for stage, notebook in grid.RULES.items():
    DONE = f"{{folder}}/{notebook}{{part}}.ipynb"
    # Evaluation and figures run again when the package changes; teachers and students do not.
    CODE = (paths.ROOT / "tinyllm").rglob("*.py") if stage in ("evaluate", "figures") else ()

    rule:
        name:
            stage
        input:
            of(DONE, lambda job: [str(needed.done) for needed in job.after]),
            parameters=of(DONE, lambda job: str(job.path("yaml"))),
            code=sorted(map(str, CODE)),
            notebook=str(paths.ROOT / "notebooks" / f"{notebook}.ipynb"),
        output:
            DONE,
        log:
            f"{{folder}}/{notebook}{{part}}.log",
        params:
            job=of(DONE, str),
            figures=of(DONE, lambda job: str(job.figures)),
            failed=of(DONE, lambda job: str(job.path("failed.ipynb"))),
        threads: of(DONE, lambda job: job.threads)
        resources:
            gpu=of(DONE, lambda job: plan.resources(job)["gpu"]),
            mem_mb=of(DONE, lambda job: plan.resources(job)["mem_mb"]),
            runtime=minutes(DONE),
            nodes=1,  # otherwise Slurm may spread the GPUs of a job
        message:
            "{params.job}"
        shell:
            "TINYLLM_GPUS={resources.gpu} TINYLLM_FIGURES={params.figures:q}"
            f" {PYTHON} -m papermill --no-progress-bar"
            " -f {input.parameters:q} {input.notebook:q} {params.failed:q} > {log:q} 2>&1"
            f" || {{{{ code=$?; echo {status.ENDED} $code >> {{log:q}}; exit $code; }}}};"
            " mv {params.failed:q} {output:q}"
