"""A grid: many studies as data, and the notebook executions (jobs) that they come to.

    params/grid/NAME.yaml
        params: [paper/obqa.yaml, paper/arc.yaml]   parameter files, also those in params/
        points:                                     each file is run with each of these changes
          - {student: google/flan-t5-small}
          - {student: google/flan-t5-large, checkpointing: true}
        students_a_job: one                         students per job: one or all

A parameter file alone is a grid of one study, with all students in one job. Where students have a
job each, so have teachers, unless all are recorded. A job is one execution of one notebook by
papermill, with a flat parameter file, so that it can be run again by hand:

    runs/STUDY/DATASET/notebooks/JOB.yaml           parameters
    runs/STUDY/DATASET/notebooks/JOB.failed.ipynb   while it runs, and if it failed
    runs/STUDY/DATASET/notebooks/JOB.ipynb          when it is done
    runs/STUDY/DATASET/notebooks/JOB.log            what papermill printed
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyllm import arms, paths, runs
from tinyllm.params import MICRO, STAGES, ParameterError, Params, read_yaml

FOLDER = paths.ROOT / "params"
RULES = {
    "prepare": "01_data_prep",
    "prompt": "02_teacher_prompting",
    "distill": "03_distillation",
    "evaluate": "04_evaluation",
    "figures": "05_paper_figures",
}


class Recipe(BaseModel):
    """A grid file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    params: list[str] = Field(min_length=1)
    points: list[dict[str, Any]] = Field([{}], min_length=1)
    students_a_job: Literal["one", "all"] = "one"


@dataclass(frozen=True, eq=False)
class Job:
    """One execution of one notebook.

    rule: a key of RULES. name: of its files, without suffix. params: what papermill passes.
    after: the jobs that it needs. whole: False for a part of a stage or a point of a curve, whose
    figures stay with it.
    """

    rule: str
    name: str
    params: Params
    after: tuple[Job, ...] = field(default=(), repr=False)
    whole: bool = True

    def path(self, suffix: str) -> Path:
        """A file of the job: `yaml`, `log`, `failed.ipynb` or `ipynb`."""
        return paths.notebooks(self.params) / f"{self.name}.{suffix}"

    @property
    def done(self) -> Path:
        """The executed notebook."""
        return self.path("ipynb")

    @property
    def figures(self) -> Path:
        """Folder of its figures."""
        return paths.figures() if self.whole else self.path("figures")

    @property
    def threads(self) -> int:
        """Cores that it keeps busy: students side by side, or the processes of one."""
        at_work = self.rule in ("prompt", "distill")
        return max(self.params.workers, self.params.nproc) if at_work else 1

    def __str__(self) -> str:
        return f"{self.params.study}/{self.params.dataset} {self.name}"

    def write(self) -> None:
        """Write the parameter file, unless it is as it should be."""
        # What is not in the file keeps the notebook's own value, which is the micro study's.
        file, own = self.path("yaml"), Params.from_yaml(MICRO).model_dump()
        values = self.params.model_dump().items()
        changed = {n: v for n, v in values if v != own[n] or n in ("study", "dataset")}
        figures = "" if self.whole else f"TINYLLM_FIGURES='{paths.shown(self.figures)}' "
        command = f"papermill -f '{paths.shown(file)}' 'notebooks/{RULES[self.rule]}.ipynb' OUT"
        text = f"# {figures}{command}\n"
        text += yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


class Grid(NamedTuple):
    """A grid, read: its studies (one per dataset and student) and their jobs in order."""

    studies: list[Params]
    jobs: list[Job]

    def of(self, params: Params) -> list[Job]:
        """The jobs of one study on one dataset, of all its students."""
        folder = paths.notebooks(params)
        return [job for job in self.jobs if paths.notebooks(job.params) == folder]


def jobs_of(studies: Sequence[Params], one: bool) -> list[Job]:
    """The jobs of studies, every one after those that it needs.

    one: students have a job each, and so have teachers, unless all are recorded. ParameterError
    where studies that share a folder would do one job in two ways.
    """
    jobs: dict[Path, Job] = {}
    sharing = Counter(map(paths.notebooks, studies))

    def add(rule: str, end: str, params: Params, after: Sequence[Job], whole: bool) -> Job:
        job = Job(rule, RULES[rule] + end, params, tuple(after), whole)
        first = jobs.setdefault(job.done, job)
        same = [one.params.model_dump(exclude={"teacher_batch", "workers"}) for one in (first, job)]
        if rule != "figures" and (lines := runs.differences(*same)):
            problem = f"points: {job} in two ways ({'; '.join(lines)})"
            raise ParameterError(f"{problem}; give one point another `study`")
        return first

    for params in studies:
        whole = not params.curve
        prepare = add("prepare", "", _only(params, STAGES["data"]), [], whole)
        asking = []
        for request, end in _requests(params, one):
            # Studies that ask a teacher of the same dataset take turns: the second finds the texts.
            before = [job for job in jobs.values() if _shares_teacher(job, request)]
            asking.append(add("prompt", end, request, [prepare, *before], whole and not end))
        end = "" if not one and sharing[paths.notebooks(params)] == 1 else _end(params.student)
        training = []
        for part in _parts(params, one):
            resolved = [arms.resolve(arm, part.teachers) for arm in part.arms]
            uris = {uri for arm in resolved for uri in (*arm.teachers, *arm.scorers)}
            needs = [prepare, *(job for job in asking if uris & set(job.params.teachers))]
            own = f"{_end(part.arms[0])}{end}_seed{part.seeds[0]}" if one else end
            training.append(add("distill", own, part, needs, whole and not own))
        add("evaluate", end, params, [*asking, *training], whole)
    evaluating = [job for job in jobs.values() if job.rule == "evaluate"]
    add("figures", "", studies[0], evaluating, True)
    return list(jobs.values())


def _requests(params: Params, one: bool) -> Iterator[tuple[Params, str]]:
    """What each job asks of which teachers, and how its name ends."""
    uris, read = params.teachers, _only(params, f"{STAGES['data']} {STAGES['teachers']}")
    apart = one and len(uris) > 1 and not all(uri.startswith("release:") for uri in uris)
    # Some arms need more of a teacher than the rationales that all arms share.
    resolved = [arms.resolve(name, uris) for name in params.arms]
    needed = [arm.name for arm in resolved if arm.asked or arm.scorers]
    for teachers in [[uri] for uri in uris] if apart else [uris] if uris else []:
        changes = {"teachers": teachers, "arms": ["inference", "tinyllm", *needed]}
        changes["servers"] = {u: read.servers[u] for u in teachers if u in read.servers}
        yield read.model_copy(update=changes), _end(teachers[0]) if apart else ""


def _shares_teacher(job: Job, request: Params) -> bool:
    """True for another study's prompt job that asks one of these teachers of the same dataset."""
    other = job.params
    same = other.dataset == request.dataset and other.study != request.study
    return job.rule == "prompt" and same and not set(other.teachers).isdisjoint(request.teachers)


def _parts(params: Params, one: bool) -> list[Params]:
    """A study cut into jobs of one student each, or not at all."""
    students = product(params.arms, params.seeds) if one else []
    parts = [params.model_copy(update={"arms": [a], "seeds": [s]}) for a, s in students]
    return parts or [params]


def _end(name: str) -> str:
    return f"_{paths.slug(name)}"


def _only(params: Params, names: str) -> Params:
    """The parameters with all others at their defaults, so that other changes (another seed, say)
    do not run the job again."""
    kept = {name: getattr(params, name) for name in names.split()}
    return Params(**{"teachers": [], "arms": ["inference"]} | kept)


def load(name: str | Path) -> Grid:
    """A grid by its name in params/grid, or by the path of a grid or parameter file.

    A path is looked for in the caller's folder, then in the repository. Raises ParameterError,
    naming the file, where the grid cannot be used.
    """
    files = [Path(name).expanduser(), paths.ROOT / name, FOLDER / "grid" / f"{name}.yaml"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = ", ".join(sorted(grid.stem for grid in (FOLDER / "grid").glob("*.yaml")))
        raise ParameterError(
            f"grid: {str(name)!r}: no file {files[0].absolute()}, and no grid; grids are {known}"
        )
    try:
        values = read_yaml(file)
        if "params" not in values:
            studies = [Params.from_yaml(file)]
            return Grid(studies, jobs_of(studies, one=False))
        recipe = Recipe(**values)
        files = [(file.parent / base, FOLDER / base) for base in recipe.params]
        bases = [next(filter(Path.is_file, pair), pair[0]) for pair in files]
        studies = [Params.from_yaml(base, **point) for base in bases for point in recipe.points]
        return Grid(studies, jobs_of(studies, recipe.students_a_job == "one"))
    except ValidationError as error:
        lines = [f"{e['loc'][0]}: {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ParameterError(f"{paths.shown(file)}: " + "\n".join(lines)) from None
    except (ParameterError, yaml.YAMLError) as error:
        raise ParameterError(f"{paths.shown(file)}: {error}") from None
