"""The batch workflow: a job is one notebook, executed by papermill with a flat parameter file.

    snakemake --profile profiles/local --config grid=params/micro.yaml
    snakemake --profile profiles/slurm --config grid=paper
    snakemake --profile profiles/kubernetes --config grid=paper

`grid` is a name in params/grid, a grid file or a parameter file. Which jobs it comes to and where
their files lie is told in tinyllm/grid.py, how large they are in tinyllm/plan.py. The rules are
prepare, prompt, distill, evaluate and figures, one a notebook; `--until distill` stops after that.
"""

import re
import shlex
import sys
from pathlib import Path

from tinyllm import grid, paths, plan, status



def path(file):
    """A path as this workflow writes it: relative where it lies in the folder it is started in."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


GRID = grid.load(config.get("grid", paths.ROOT / "params" / "micro.yaml"))
JOBS = {path(job.done): job for job in GRID.jobs}
REPORT = path(paths.runs() / "report")
PYTHON = shlex.quote(sys.executable)


def of(done, give):
    """A function of wildcards: what `give` finds in the job whose notebook they make of `done`."""
    return lambda wildcards: give(JOBS[done.format(**wildcards)])


def needs(job):
    """The notebooks that must have been executed before."""
    return [path(each.done) for each in job.after]


def asks(done, name):
    """A function of wildcards: how much of a resource that job needs."""
    return of(done, lambda job: plan.resources(job)[name])


if workflow.is_main_process:  # a job on a cluster reads this file too
    status.refresh(GRID, dry=workflow.dryrun)


wildcard_constraints:
    folder=rf"{re.escape(path(paths.runs()))}/[^/]+/[^/]+/notebooks",
    part=r"(_[^/]+)?(?<!\.failed)",


rule all:
    default_target: True
    input:
        needs(GRID.jobs[-1]),
        path(GRID.jobs[-1].done),


for stage, notebook in grid.RULES.items():
    DONE = f"{{folder}}/{notebook}{{part}}.ipynb"
    # What only draws and counts is done again when the package changes; what trains and asks is not.
    CODE = (paths.ROOT / "tinyllm").rglob("*.py") if stage in ("evaluate", "figures") else ()

    rule:
        name:
            stage
        input:
            of(DONE, needs),
            parameters=of(DONE, lambda job: path(job.file)),
            code=sorted(map(path, CODE)),
            notebook=path(paths.ROOT / "notebooks" / f"{notebook}.ipynb"),
        output:
            DONE,
        log:
            f"{{folder}}/{notebook}{{part}}.log",
        params:
            figures=of(DONE, lambda job: path(job.figures)),
            failed=of(DONE, lambda job: path(job.failed)),
        threads: of(DONE, lambda job: job.threads)
        resources:
            gpu=asks(DONE, "gpu"),
            mem_mb=asks(DONE, "mem_mb"),
            runtime=asks(DONE, "runtime"),
            # What is stored of a study is written by one job at a time.
            results=1 if stage == "evaluate" else 0,
        message:
            "{output}"
        conda:
            "environment.yml"  # what the workflow itself runs in; its jobs run in the same
        shell:
            f"TINYLLM_FIGURES={{params.figures:q}} {PYTHON} -m papermill --no-progress-bar"
            " -f {input.parameters:q} {input.notebook:q} {params.failed:q} > {log:q} 2>&1"
            " || {{ code=$?; echo ended with status $code >> {log:q}; exit $code; }};"
            " mv {params.failed:q} {output:q}"


localrules:
    report,


rule report:
    input:
        rules.all.input,
    output:
        f"{REPORT}/index.html",
    log:
        f"{REPORT}.log",
    conda:
        "environment.yml"
    shell:
        f"{PYTHON} -m tinyllm.report > {{log:q}} 2>&1"


onsuccess:
    print(status.summary(GRID))


onerror:
    print(status.summary(GRID))
