"""A grid: many studies as data, and the notebook executions that they come to.

    params/grid/NAME.yaml
        params: [paper/obqa.yaml, paper/arc.yaml]     parameter files, from the folder params/
        points:                                       each file is run with each of these changes
          - {student: google/flan-t5-small}
          - {student: google/flan-t5-large, checkpointing: true}
        students_a_job: one
        teachers_a_job: one
        curve: false                                  true: its studies are points of a curve, and
                                                      have no figures and tables of their own

A parameter file alone is a grid too, of one study, with all its students in one job. Points that
change more than the student, its arms and its seeds name another `study`, since a study's folder
holds one student of an arm, seed and name.

    python -m tinyllm.grid NAME-OR-FILE           the jobs, a line each

The `Snakefile` turns jobs into a workflow. Each job is one execution of one notebook by papermill
with a flat parameter file that lies beside its output, so that it can be run again by hand:

    runs/STUDY/DATASET/notebooks/JOB.yaml           parameters
    runs/STUDY/DATASET/notebooks/JOB.failed.ipynb   while it runs, and if it failed
    runs/STUDY/DATASET/notebooks/JOB.ipynb          when it is done

A job's output for Snakemake is that last notebook, not the data: before it runs a job again, and
after one that failed, Snakemake removes the job's outputs, and finished students would be lost with
them. What is finished is known from the manifests (see `tinyllm.runs`), whoever made it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyllm import arms, paths, runs
from tinyllm.params import ParameterError, Params

FOLDER = paths.ROOT / "params"
PREPARE, PROMPT, DISTILL, EVALUATE, FIGURES = (
    "01_data_prep",
    "02_teacher_prompting",
    "03_distillation",
    "04_evaluation",
    "05_paper_figures",
)
RULES = {"prepare": PREPARE, "prompt": PROMPT, "distill": DISTILL, "evaluate": EVALUATE}
RULES |= {"figures": FIGURES}
RULES_AT_WORK = ("prompt", "distill")
# What different students of one study and dataset may differ in: each lies in folders of its own.
# Everything else they share.
FREE = {"student", "arms", "seeds", "workers", "nproc", "checkpointing", "batch_size"}
FREE |= {"accumulation", "lr", "epochs", "max_input", "max_target", "evals", "warmup", "patience"}
FREE |= {"precision", "task_prefix", "teacher_batch"}
# What notebooks 01 and 02 read. Their jobs leave all else at its default, so that another seed, arm
# or learning rate does not make them run again.
QUESTIONS = ("study", "dataset", "source", "limit", "data_seed")
TEACHERS = ("teachers", "examples", "teacher_forcing", "teacher_batch", "max_prompt")
TEACHERS += ("max_new_tokens", "cleaning", "precision", "workers")


class Recipe(BaseModel):
    """A grid file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    params: list[str] = Field(min_length=1)
    points: list[dict[str, Any]] = Field([{}], min_length=1)
    students_a_job: Literal["one", "arm", "seed", "all"] = "one"
    teachers_a_job: Literal["one", "all"] = "one"
    curve: bool = False


@dataclass(frozen=True, eq=False)
class Job:
    """One execution of one notebook.

    rule: prepare, prompt, distill, evaluate or figures. name: of its files, without suffix.
    params: what papermill passes. after: the jobs it needs. whole: False if it does a part of its
    stage, or of a curve, so that figures of the stage are not its to draw.
    """

    rule: str
    name: str
    params: Params
    after: tuple[Job, ...] = field(default=(), repr=False)
    whole: bool = True

    @property
    def source(self) -> Path:
        """The notebook that is executed."""
        return paths.ROOT / "notebooks" / f"{RULES[self.rule]}.ipynb"

    @property
    def folder(self) -> Path:
        return paths.study(self.params.study, self.params.dataset) / "notebooks"

    @property
    def done(self) -> Path:
        """The executed notebook."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        """The notebook while it is executed, and if that failed."""
        return self.folder / f"{self.name}.failed.ipynb"

    @property
    def log(self) -> Path:
        """What papermill printed."""
        return self.folder / f"{self.name}.log"

    @property
    def file(self) -> Path:
        """The flat parameter file."""
        return self.folder / f"{self.name}.yaml"

    @property
    def figures(self) -> Path:
        """Where its figures go: a part of a stage keeps them to itself."""
        return paths.figures() if self.whole else self.folder / f"{self.name}_figures"

    @property
    def threads(self) -> int:
        """Cores that it keeps busy: those of its students, side by side or by torchrun."""
        return max(self.params.workers, self.params.nproc) if self.rule in RULES_AT_WORK else 1

    def work(self) -> list[Path]:
        """The run folders that the job is there to finish."""
        from tinyllm import results

        if self.rule == "prepare":
            return [paths.study(self.params.study, self.params.dataset) / "data"]
        if self.rule == "prompt":
            found = [(each, uri) for each in arms.variants(self.params) for uri in each.teachers]
            return [paths.rationales(*each) for each in found]
        if self.rule == "distill":
            each = ((arm, seed) for seed in self.params.seeds for arm in self.params.arms)
            return [results.student_folder(self.params, *student) for student in each]
        return []

    def write(self) -> Path:
        """Write the parameter file if it is not there as it should be; gives its path."""
        default = Params().model_dump()
        named = ("study", "dataset")
        values = self.params.model_dump().items()
        changed = {n: v for n, v in values if v != default[n] or n in named}
        figures = "" if self.whole else f"TINYLLM_FIGURES={paths.shown(self.figures)} "
        text = (
            f"# {self.source.stem} of this study; made from the grid. To run this job by hand:\n"
            f"# {figures}papermill -f {paths.shown(self.file)} notebooks/{self.source.name} "
            "out.ipynb\n" + yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        )
        if not self.file.exists() or self.file.read_text(encoding="utf-8") != text:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.file)
        return self.file


@dataclass(frozen=True)
class Grid:
    """A grid, read: the studies (one a dataset and student) and how they are cut into jobs."""

    name: str
    studies: tuple[Params, ...]
    students_a_job: str
    teachers_a_job: str
    curve: bool = False

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, each after those that it needs."""
        return list(self._jobs())

    def _jobs(self) -> Iterable[Job]:
        last: dict[str, Job] = {}  # the last job so far that asks for the same, by what is asked
        evaluated: list[Job] = []
        places = {(p.study, p.dataset): [] for p in self.studies}
        for params in self.studies:
            places[params.study, params.dataset].append(params)
        for here in places.values():
            prepare = Job("prepare", PREPARE, _reading(here[0], *QUESTIONS), whole=not self.curve)
            yield prepare
            prompts: dict[str, Job] = {}
            for job, uris in self._prompts(here, prepare, last):
                yield job
                prompts |= dict.fromkeys(uris, job)
            for params in here:
                alone = self.students_a_job == "all" and len(here) == 1
                end = "" if alone else f"_{paths.slug(params.student)}"
                trained = list(self._students(params, end, prepare, prompts))
                yield from trained
                needs = (*dict.fromkeys(prompts.values()), *trained)
                job = Job("evaluate", EVALUATE + end, params, needs, whole=not self.curve)
                evaluated.append(job)
                yield job
        yield Job("figures", FIGURES, self.studies[0], tuple(evaluated))

    def _prompts(
        self, here: Sequence[Params], prepare: Job, last: dict[str, Job]
    ) -> Iterable[tuple[Job, tuple[str, ...]]]:
        """The jobs that ask a study's teachers, with the teachers of each."""
        uris = tuple(dict.fromkeys(chain.from_iterable(p.teachers for p in here)))
        names = list(dict.fromkeys(chain.from_iterable(p.arms for p in here)))
        if not uris:
            return
        one_each = self.teachers_a_job == "one" and len(uris) > 1
        for group in [(uri,) for uri in uris] if one_each else [uris]:
            end = f"_{paths.slug(group[0])}" if one_each else ""
            # The arms say what teachers are asked beside the study's own variant.
            asked = ["inference", "tinyllm", *(name for name in names if _asks(name, group))]
            params = _reading(here[0], *QUESTIONS, *TEACHERS).model_copy(
                update={"teachers": list(group), "arms": list(dict.fromkeys(asked))}
            )
            keys = list(_questions_asked(params))
            needs = (prepare, *dict.fromkeys(last[key] for key in keys if key in last))
            whole = not one_each and not self.curve
            job = Job("prompt", PROMPT + end, params, needs, whole=whole)
            last |= dict.fromkeys(keys, job)
            yield job, group

    def _students(
        self, params: Params, end: str, prepare: Job, prompts: dict[str, Job]
    ) -> Iterable[Job]:
        """The jobs that train a study's students."""
        by_arm = self.students_a_job in ("one", "arm")
        by_seed = self.students_a_job in ("one", "seed")
        for names in [[arm] for arm in params.arms] if by_arm else [params.arms]:
            for seeds in [[seed] for seed in params.seeds] if by_seed else [params.seeds]:
                name = DISTILL + (f"_{paths.slug(names[0])}" if by_arm else "") + end
                name += f"_seed{seeds[0]}" if by_seed else ""
                resolved = [arms.resolve(arm, params.teachers) for arm in names]
                uris = chain.from_iterable((*arm.teachers, *arm.scorers) for arm in resolved)
                needs = dict.fromkeys(prompts[uri] for uri in uris)
                changed = params.model_copy(update={"arms": list(names), "seeds": list(seeds)})
                yield Job(
                    *("distill", name, changed, (prepare, *needs)),
                    whole=not (by_arm or by_seed or end or self.curve),
                )


def _reading(params: Params, *names: str) -> Params:
    """The parameters with all but the named ones at values that a stage can ignore."""
    kept = {name: getattr(params, name) for name in names}
    return Params(**{"teachers": [], "arms": ["inference"]} | kept)


def _asks(arm: str, teachers: Sequence[str]) -> bool:
    """True if an arm needs more of these teachers than the rationales that every arm shares."""
    try:
        found = arms.resolve(arm, teachers)
    except ValueError:  # an arm of other teachers
        return False
    return bool(found.asked or found.scorers)


def _questions_asked(params: Params) -> Iterable[str]:
    """What identifies, in any study, what a prompt job asks for, and the teachers it trains."""
    names = (*QUESTIONS[1:], "examples", "teacher_forcing", "max_prompt", "max_new_tokens")
    for uri in params.teachers:
        for each in arms.variants(params):
            yield runs.digest([uri, each.spec(*names)])
        if uri.startswith("micro:"):
            yield runs.digest([uri, params.data_seed])


def load(name: str | Path) -> Grid:
    """A grid by its name in params/grid, or by the path of a grid or parameter file.

    Raises ParameterError, naming the file, where it cannot be used.
    """
    file = Path(name)
    if not file.exists():
        file = FOLDER / "grid" / f"{name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(each.stem for each in (FOLDER / "grid").glob("*.yaml")))
        raise ParameterError(f"grid: {str(name)!r}: no such file, and no grid; there are {known}")
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict) or "params" not in values:
        return Grid(file.stem, (Params.from_yaml(file),), "all", "all")
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc']))}: {e['input']!r}: {e['msg']}" for e in error.errors()
        ]
        raise ParameterError(f"{paths.shown(file)}: " + "\n".join(lines)) from None
    try:
        studies = [
            Params.from_yaml(FOLDER / each, **point)
            for each in recipe.params
            for point in recipe.points
        ]
        _refuse_mixed(studies)
    except ParameterError as error:
        raise ParameterError(f"{paths.shown(file)}: {error}") from None
    return Grid(
        file.stem, tuple(studies), recipe.students_a_job, recipe.teachers_a_job, recipe.curve
    )


def curves() -> set[str]:
    """Names of the studies that the grids in params/grid make as points of a curve."""
    found = set()
    for file in sorted((FOLDER / "grid").glob("*.yaml")):
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if values.get("curve"):
            found |= {point["study"] for point in values["points"] if "study" in point}
    return found


def _refuse_mixed(studies: Sequence[Params]) -> None:
    """ParameterError where studies that would share a folder cannot."""
    first: dict[tuple[str, str], Params] = {}
    taken: set[tuple[str, str, str]] = set()
    for params in studies:
        where = (params.study, params.dataset)
        if (*where, params.student) in taken:
            raise ParameterError(
                f"points: {'/'.join(where)} has student {params.student!r} twice; give one of the "
                "points another `study`"
            )
        taken.add((*where, params.student))
        there = first.setdefault(where, params)
        names = sorted(set(Params.model_fields) - FREE)
        lines = runs.differences(there.spec(*names), params.spec(*names))
        if lines:
            raise ParameterError(
                f"points: {'/'.join(where)} is asked for in two ways ({'; '.join(lines)}); give "
                "one of the points another `study`"
            )


def main(arguments: list[str]) -> None:
    """See the module."""
    for job in load(arguments[0]).jobs:
        print(paths.shown(job.done))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ParameterError as problem:
        sys.exit(str(problem))
