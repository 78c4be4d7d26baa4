"""A grid: a description of many studies, and the jobs (notebook executions) that they need.

    params/grid/NAME.yaml
        params: [paper/obqa.yaml, paper/arc.yaml]   parameter files, also those in params/
        points:                                     each file is run with each of these changes
          - {student: google/flan-t5-small}
          - {student: google/flan-t5-large, checkpointing: true}
        students_per_job: one                       students per job: one or all
        teachers_per_job: one                       teachers per job: one or all

A parameter file is a grid of one study, with all students in one job. A job is one execution of one
notebook by papermill, with a flat parameter file, so that it can be repeated by hand:

    runs/STUDY/DATASET/notebooks/JOB.yaml           parameters
    runs/STUDY/DATASET/notebooks/JOB.failed.ipynb   notebook of a running or failed job
    runs/STUDY/DATASET/notebooks/JOB.ipynb          notebook of a finished job
    runs/STUDY/DATASET/notebooks/JOB.log            output of papermill
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

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
# Parameters that determine a teacher's rationales, besides the arms; studies share equal ones.
ASKED = "dataset source columns limit data_seed examples teacher_forcing max_prompt max_new_tokens"
ASKED += " temperature servers"
# Parameters that all students of a study on a dataset share; others may differ between students.
SHARED = f"{ASKED} teachers max_refused precision learn_from cleaning alpha curve"
SHARED += " samples learn_sample"


class Recipe(BaseModel):
    """The content of a grid file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    params: list[str] = Field(min_length=1)
    points: list[dict[str, Any]] = Field([{}], min_length=1)
    students_per_job: Literal["one", "all"] = "one"
    teachers_per_job: Literal["one", "all"] = "one"


@dataclass(frozen=True, eq=False)
class Job:
    """One execution of one notebook.

    rule: a key of RULES. name: of its files, without suffix. params: passed by papermill.
    after: the jobs that it needs. whole: False for a part of a stage or a point of a curve, whose
    figures are kept with the job. asks: hashes of the sets of rationales that a prompt job makes.
    """

    rule: str
    name: str
    params: Params
    after: tuple["Job", ...] = field(default=(), repr=False)
    whole: bool = True
    asks: tuple[str, ...] = field(default=(), repr=False)

    def path(self, suffix: str) -> Path:
        """A file of the job: `yaml`, `log`, `failed.ipynb` or `ipynb`."""
        return paths.notebooks(self.params) / f"{self.name}.{suffix}"

    @property
    def done(self) -> Path:
        """The executed notebook."""
        return self.path("ipynb")

    @property
    def figures(self) -> Path:
        """The folder of its figures."""
        return paths.figures() if self.whole else self.path("figures")

    @property
    def threads(self) -> int:
        """Number of cores that it uses: for students in parallel, or for the processes of one."""
        parallel = self.rule in ("prompt", "distill")
        return max(self.params.workers, self.params.nproc) if parallel else 1

    def __str__(self) -> str:
        return f"{self.params.study}/{self.params.dataset} {self.name}"

    def write(self) -> None:
        """Write the parameter file, unless it is up to date."""
        # Parameters that are not in the file keep the notebook's default, the micro study's value.
        file, defaults = self.path("yaml"), Params.from_yaml(MICRO).model_dump()
        values = self.params.model_dump().items()
        changed = {n: v for n, v in values if v != defaults[n] or n in ("study", "dataset")}
        figures = "" if self.whole else f"TINYLLM_FIGURES='{paths.shown(self.figures)}' "
        command = f"papermill -f '{paths.shown(file)}' 'notebooks/{RULES[self.rule]}.ipynb' OUT"
        text = f"# {figures}{command}\n"
        text += yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, file)


@dataclass(frozen=True)
class Grid:
    """A loaded grid: its studies (one per dataset and student) and how they are split into jobs."""

    studies: tuple[Params, ...]
    students_per_job: str
    teachers_per_job: str

    def of(self, params: Params) -> list[Job]:
        """The jobs of one study on one dataset, for all its students."""
        folder = paths.notebooks(params)
        return [job for job in self.jobs if paths.notebooks(job.params) == folder]

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, each one after those that it needs."""
        asked: dict[str, Job] = {}  # the latest job for each set of rationales, of any study
        jobs: list[Job] = []
        by_folder: dict[Path, list[Params]] = {}
        for params in self.studies:
            by_folder.setdefault(paths.notebooks(params), []).append(params)
        for group in by_folder.values():
            whole = not group[0].curve
            prepare = Job("prepare", RULES["prepare"], _only(group[0], STAGES["data"]), whole=whole)
            asking = list(self._prompts(group, prepare, asked))
            jobs += [prepare, *asking]
            for params in group:
                alone = self.students_per_job == "all" and len(group) == 1
                end = "" if alone else f"_{paths.slug(params.student)}"
                training = list(self._students(params, end, prepare, asking))
                needs = (*asking, *training)
                jobs += [*training, Job("evaluate", RULES["evaluate"] + end, params, needs, whole)]
        evaluating = tuple(job for job in jobs if job.rule == "evaluate")
        return [*jobs, Job("figures", RULES["figures"], self.studies[0], evaluating)]

    def _prompts(self, group: list[Params], prepare: Job, asked: dict[str, Job]) -> Iterator[Job]:
        """The jobs that prompt the teachers of one study on one dataset."""
        uris = list(dict.fromkeys(uri for params in group for uri in params.teachers))
        names = list(dict.fromkeys(name for params in group for name in params.arms))
        apart = self.teachers_per_job == "one" and len(uris) > 1
        read = _only(group[0], f"{STAGES['teachers']} columns limit")
        for teachers in [[uri] for uri in uris] if apart else [uris] if uris else []:
            # Some arms need the teachers to be prompted in other ways, too.
            needed = ["inference", "tinyllm", *(name for name in names if _asks(name, teachers))]
            changes = {"teachers": teachers, "arms": list(dict.fromkeys(needed))}
            changes["servers"] = {u: read.servers[u] for u in teachers if u in read.servers}
            params = read.model_copy(update=changes)
            keys = tuple(_rationales(params))
            needs = (prepare, *dict.fromkeys(asked[key] for key in keys if key in asked))
            name = RULES["prompt"] + (f"_{paths.slug(teachers[0])}" if apart else "")
            job = Job("prompt", name, params, needs, not (apart or group[0].curve), keys)
            asked |= dict.fromkeys(keys, job)
            yield job

    def _students(self, params: Params, end: str, prepare: Job, asking: list[Job]) -> Iterator[Job]:
        """The jobs that train one student model with all arms and seeds."""
        one = self.students_per_job == "one"
        for names in [[arm] for arm in params.arms] if one else [params.arms]:
            resolved = [arms.resolve(arm, params.teachers) for arm in names]
            uris = {uri for arm in resolved for uri in (*arm.teachers, *arm.scorers)}
            needs = (prepare, *(job for job in asking if uris & set(job.params.teachers)))
            for seeds in [[seed] for seed in params.seeds] if one else [params.seeds]:
                suffix = f"_{paths.slug(names[0])}{end}_seed{seeds[0]}" if one else end
                changed = params.model_copy(update={"arms": list(names), "seeds": list(seeds)})
                whole = not (one or end or params.curve)
                yield Job("distill", RULES["distill"] + suffix, changed, needs, whole)


def _only(params: Params, names: str) -> Params:
    """Keep the named parameters and set all others to defaults, so that changes of others (a new
    seed, for example) do not run the job again."""
    kept = {name: getattr(params, name) for name in names.split()}
    return Params(**{"teachers": [], "arms": ["inference"]} | kept)


def _asks(arm: str, teachers: Sequence[str]) -> bool:
    """True if an arm needs more of these teachers than the rationales that all arms share."""
    with contextlib.suppress(ValueError):  # an arm of other teachers
        resolved = arms.resolve(arm, teachers)
        return bool(resolved.asked or resolved.scorers)
    return False


def _rationales(params: Params) -> Iterator[str]:
    """Hashes of the sets of rationales that a prompt job makes, and of its micro teachers."""
    for uri in params.teachers:
        for variant in params.variants():
            servers = {u: server for u, server in variant.servers.items() if u == uri}
            asked = variant.model_copy(update={"servers": servers})
            spec = asked.spec(*ASKED.split(), "precision")
            yield from (runs.digest([uri, spec, sample]) for sample in range(params.samples))
            # The teacher's own answers depend on neither of these two parameters.
            yield runs.digest([uri, spec | {"teacher_forcing": True, "temperature": 0.0}])
        if arms.teacher(uri)[0] == "micro":
            yield runs.digest([uri, params.data_seed])


def load(name: str | Path) -> Grid:
    """Load a grid by its name in params/grid, or from the path of a grid or parameter file.

    Paths are resolved in the current folder, then in the repository. Raises ParameterError, with
    the file name, if the grid is not valid.
    """
    files = [Path(name).expanduser(), paths.ROOT / name, FOLDER / "grid" / f"{name}.yaml"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        known = ", ".join(sorted(grid.stem for grid in (FOLDER / "grid").glob("*.yaml")))
        raise ParameterError(
            f"grid: {str(name)!r}: no file {files[0].absolute()}, and no grid; grids: {known}"
        )
    values = read_yaml(file)
    if "params" not in values:
        return Grid((Params.from_yaml(file),), "all", "all")
    try:
        recipe = Recipe(**values)
        names = [Path(base).expanduser() for base in recipe.params]
        files = [(file.parent / base, FOLDER / base) for base in names]
        bases = [next(filter(Path.is_file, pair), pair[0]) for pair in files]
        points = recipe.points
        studies = [Params.from_yaml(b, file.parent, **point) for b in bases for point in points]
        _refuse_mixed(studies)
    except ValidationError as error:
        lines = [f"{e['loc'][0]}: {e['input']!r}: {e['msg']}" for e in error.errors()]
        lines.append(f"a grid's keys are {', '.join(Recipe.model_fields)}")
        raise ParameterError(f"{paths.shown(file)}: " + "\n".join(lines)) from None
    except ParameterError as error:
        raise ParameterError(f"{paths.shown(file)}: {error}") from None
    return Grid(tuple(studies), recipe.students_per_job, recipe.teachers_per_job)


def _refuse_mixed(studies: Sequence[Params]) -> None:
    """Raise ParameterError if studies with the same folder differ in parameters they must share."""
    first: dict[str, Params] = {}
    known: set[tuple[str, str]] = set()
    for params in studies:
        folder, remedy = f"{params.study}/{params.dataset}", "give one point another `study`"
        if (folder, params.student) in known:
            raise ParameterError(f"points: {folder} has {params.student!r} twice; {remedy}")
        known.add((folder, params.student))
        shared = first.setdefault(folder, params).spec(*SHARED.split())
        if lines := runs.differences(shared, params.spec(*SHARED.split())):
            raise ParameterError(f"points: {folder} is set twice ({'; '.join(lines)}); {remedy}")
