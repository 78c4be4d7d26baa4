"""What a grid will cost, before anything is run: tokens, operations, hours and disk, a line a rule.

    python -m tinyllm.plan GRID [--device h100] [--parameters MODEL=3e9]
    python -m tinyllm.plan --statistics      count the questions anew (published/questions.csv)

GRID is what `tinyllm.grid` takes. No model is loaded, nothing is downloaded. Tokens come from
lengths of texts, operations from tokens and parameters, hours from operations and a device's peak,
all by `tinyllm.sizes`; where the same student has been trained already, from what that took.
Take it to a factor of two (a test holds it to that for the studies stored in results/).

`resources` tells the `Snakefile` what a job needs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from functools import cache
from pathlib import Path

from tinyllm import arms, grid, paths, results, runs, sizes, status
from tinyllm.grid import Grid, Job
from tinyllm.params import ParameterError, Params
from tinyllm.sizes import Device, Run, Split

ASKED = 50  # letters of labels and gold letter around a question in a teacher's prompt
CUE = 25  # letters of `Let's think step by step.`
LORA_SHARE = 0.01  # of the parameters that adapters of rank 8 have, about
MICRO_STEPS, MICRO_BATCH = 600, 32  # training of a micro teacher (tinyllm.micro)
START = 20.0  # seconds of a job for its kernel, imports and figures
STEP = 0.1  # seconds that an optimiser step takes at least on a GPU, however small the model
RECORD, PREDICTION = 300, 90  # bytes of a stored record beside its texts, of a prediction
TRAINING_BYTES = 16  # a parameter: weights, gradients and AdamW's two moments in fp32
ACTIVATIONS = 1.25  # memory with what a step keeps, over that of the weights
SERVER = 500.0  # tokens a second that a server of the openai: kind writes
SAFETY = 3  # the runtime asked of a cluster, as a multiple of the estimate
SMALL = 60e6  # parameters of models that need no GPU
UNKNOWN = 1e9  # parameters of a model of unknown size, where `resources` has to say something
RULES = tuple(grid.RULES)


@dataclass(frozen=True)
class Cost:
    """read, written: tokens of teachers. trained: tokens of training. flops: of training. seconds:
    of one device, training, writing and scoring. disk: bytes that stay."""

    read: float = 0.0
    written: float = 0.0
    trained: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    disk: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Piece:
    """A part of a job: the run folder that it finishes, and what it costs."""

    folder: Path | None
    cost: Cost


@dataclass(frozen=True)
class Setting:
    """What a plan assumes. given: parameters by model. unknown: those of models whose size nothing
    tells; None where that is an error. rows: finished students."""

    device: Device
    given: Mapping[str, float] = field(default_factory=dict)
    unknown: float | None = None
    rows: tuple[Run, ...] = field(default_factory=sizes.measured)

    def parameters(self, model: str) -> float:
        try:
            return sizes.parameters(model, self.given, self.rows)
        except ParameterError:
            if self.unknown is None:
                raise
            return self.unknown

    def speed(self, model: str) -> tuple[float, list[Run]]:
        """`sizes.speed` on this device."""
        return sizes.speed(model, self.device, self.rows)

    def correction(self, params: Params) -> tuple[float, int]:
        """`sizes.correction` of a study's tokens."""
        return sizes.correction(params, self.rows)

    def rate(self, model: str, work: str) -> float:
        """Operations a second of a model in `training`, `reading`, `writing` or `scoring`."""
        share = getattr(self.device, work)
        if found := self.speed(model)[0]:
            return found * share / self.device.training
        return self.device.peak * share


def student(params: Params, name: str, setting: Setting) -> Cost:
    """One student: training, scoring of valid and test, generation on test, and its files."""
    arm, split = arms.resolve(name, params.teachers), sizes.splits(params)
    size = setting.parameters(params.student)
    share = min(1.0, LORA_SHARE * arm.lora / 8) if arm.lora else 1.0
    trained = sizes.training_tokens(params, name) * setting.correction(params)[0]
    flops = sizes.train_flops(size, share * size, trained)
    seconds = flops / setting.rate(params.student, "training")
    seconds *= 4 / 3 if params.checkpointing else 1  # a second forward pass
    if arm.trained and setting.device.name != "cpu":
        steps = sizes.steps(params, split["train"].questions) * arm.passes
        seconds = max(seconds, STEP * steps * params.nproc)

    def scored(one: Split) -> float:
        text = min(sizes.tokens(sizes.PREFIX + one.text), params.max_input)
        return one.questions * (text + one.options * (sizes.tokens(one.answer) + 1))

    read = scored(split["test"]) + scored(split["valid"]) * (params.evals if arm.trained else 1)
    seconds += 2 * size * read / setting.rate(params.student, "scoring")
    test = split["test"]
    written = test.questions * min(sizes.tokens(test.answer) + 1, params.max_new_tokens)
    seconds += 2 * size * written / setting.rate(params.student, "writing")
    disk = PREDICTION * test.questions + 4 * size * share * arm.trained
    return Cost(trained=trained, flops=flops, seconds=seconds, disk=disk)


def teacher(params: Params, uri: str, setting: Setting, answers: bool) -> Cost:
    """One teacher's rationales for train, and (if `answers`) its own answers: test zero- and
    few-shot, and train where an arm learns from its distributions. params: of one variant."""
    split = sizes.splits(params)
    letters, share = sizes.rationale(params, uri, split["train"])
    number = split["train"].questions
    if uri.startswith("release:"):
        return Cost(disk=number * (RECORD + share * letters))
    shots = 0 if params.examples == "none" else int(params.examples.partition(":")[2])

    def prompt(one: Split, blocks: int) -> float:
        return min(sizes.tokens(blocks * (one.text + ASKED)), params.max_prompt)

    forcing = prompt(split["train"], 1 + shots) + sizes.tokens(CUE)
    read, written = number * forcing, number * sizes.tokens(letters)
    records = number
    if answers:
        test = split["test"]
        todo = [(test, blocks) for blocks in dict.fromkeys([1, 1 + shots])]
        if uri in arms.scored(params):
            todo.append((split["train"], 1 + shots))
        for one, blocks in todo:
            tokens = sizes.tokens(one.answer) + 1
            server = uri.startswith("openai:")  # writes its answer; others score the options
            read += one.questions * (prompt(one, blocks) + (0 if server else one.options * tokens))
            written += one.questions * tokens if server else 0.0
            records += one.questions
    disk = sizes.LETTERS_A_TOKEN * (read + written) + RECORD * records
    cost = Cost(read, written, disk=disk)
    if uri.startswith("openai:"):
        return cost
    size = setting.parameters(uri)
    like = {"micro:a": "micro-t5", "micro:b": "micro-llama"}.get(uri, uri.removeprefix("hf:"))
    cost += Cost(seconds=2 * size * read / setting.rate(like, "reading"))
    cost += Cost(seconds=2 * size * written / setting.rate(like, "writing"))
    if uri.startswith("micro:") and answers:  # the study trains it first
        tokens = MICRO_STEPS * MICRO_BATCH * (prompt(split["train"], 2) + sizes.tokens(letters))
        flops = sizes.train_flops(size, size, tokens)
        seconds = flops / setting.rate(like, "training")
        cost += Cost(trained=tokens, flops=flops, seconds=seconds, disk=4 * size)
    return cost


def asked(job: Job) -> list[tuple[Params, str, str]]:
    """What a prompt job asks: variant, teacher, and what identifies both in any study."""
    names = ("dataset", "source", "limit", "data_seed", "examples", "teacher_forcing")
    names += ("max_prompt", "max_new_tokens")
    pairs = [(each, uri) for each in arms.variants(job.params) for uri in each.teachers]
    return [(each, uri, runs.digest([uri, each.spec(*names)])) for each, uri in pairs]


def pieces(job: Job, setting: Setting) -> list[Piece]:
    """The parts of a job. What a job before it asked for another study is copied: that costs disk
    only."""
    params = job.params
    if job.rule == "prepare":
        letters = sum(each.questions * (each.text + 50) for each in sizes.splits(params).values())
        return [Piece(folder, Cost(disk=letters)) for folder in job.work()]
    if job.rule == "prompt":
        before = {key for each in job.after if each.rule == "prompt" for _, _, key in asked(each)}
        found = []
        for variant, uri, key in asked(job):
            cost = teacher(variant, uri, setting, answers=variant == params)
            cost = Cost(disk=cost.disk) if key in before else cost
            found.append(Piece(paths.rationales(variant, uri), cost))
        return found
    if job.rule == "distill":
        each = ((arm, seed) for seed in params.seeds for arm in params.arms)
        cost = {arm: student(params, arm, setting) for arm in params.arms}
        return [Piece(results.student_folder(params, arm, seed), cost[arm]) for arm, seed in each]
    if job.rule == "evaluate":
        rows = sizes.splits(params)["test"].questions * len(params.arms) * len(params.seeds)
        return [Piece(None, Cost(disk=PREDICTION / 2 * rows))]
    return []


@dataclass(frozen=True)
class Line:
    """A rule's line: jobs, those done, what all of it costs, and what is left of that."""

    rule: str
    jobs: int
    done: int
    whole: Cost
    left: Cost

    def cells(self) -> list[str]:
        w, gap = self.whole, "-"
        tokens = [short(n) if n else gap for n in (w.read, w.written, w.trained, w.flops)]
        hours = [f"{cost.seconds / 3600:,.2f}" for cost in (self.left, w)]
        return [self.rule, str(self.jobs), str(self.done), *tokens, *hours, short(w.disk, "B")]


HEAD = ["rule", "jobs", "done", "teachers read", "and write", "trained on", "FLOPs"]
HEAD += ["hours left", "hours", "disk"]


def lines(found: Grid, setting: Setting) -> list[Line]:
    """The table: a line a rule, and the total. A job's start counts to it, beside its parts."""
    rows = []
    for rule in RULES:
        jobs = [job for job in found.jobs if job.rule == rule]
        done = [status.done(job) for job in jobs]
        whole = left = Cost()
        for job, ready in zip(jobs, done, strict=True):
            whole += Cost(seconds=START)
            left += Cost() if ready else Cost(seconds=START)
            for piece in pieces(job, setting):
                whole += piece.cost
                there = piece.folder is not None and (piece.folder / runs.MANIFEST).exists()
                left += Cost() if ready or there else piece.cost
        rows.append(Line(rule, len(jobs), sum(done), whole, left))
    total = sum((row.whole for row in rows), Cost()), sum((row.left for row in rows), Cost())
    return [*rows, Line("total", sum(r.jobs for r in rows), sum(r.done for r in rows), *total)]


def assumptions(found: Grid, setting: Setting) -> list[str]:
    """What the numbers rest on, a line each."""
    one = setting.device
    said = [
        f"device: {one.name}, peak {short(one.peak, 'FLOP/s')}; hours are of one device, "
        "which does all jobs and students one after the other",
        f"share of the peak, where nothing was measured: training {one.training:.0%}, teachers "
        f"reading {one.reading:.0%}, writing {one.writing:.0%}, scoring {one.scoring:.0%}",
        f"{START:.0f} s a job to start"
        + ("" if one.name == "cpu" else f"; a training step takes {STEP} s at least"),
        f"{sizes.LETTERS_A_TOKEN:g} letters a token; lengths of texts: published/{sizes.QUESTIONS}",
        "disk: what stays; a student in training has up to 12 bytes a parameter more",
    ]
    for name in dict.fromkeys(p.student for p in found.studies):
        rate, students = setting.speed(name)
        studies = ", ".join(dict.fromkeys(run.study for run in students))
        how = f"calibrated on {len(students)} students of {studies}: {short(rate, 'FLOP/s')}"
        size = setting.parameters(name)
        line = f"{name}: {short(size)} parameters; speed on {one.name}: "
        line += how if students else "not measured"
        if 0 < one.memory < TRAINING_BYTES * size / 1e9:
            line += f"; to train all of it takes more than the {one.memory:g} GB there"
        said.append(line)
    for params in found.studies:
        ratio, number = setting.correction(params)
        if number:
            where = f"{params.study}/{params.dataset}, {params.student}"
            said.append(f"{where}: {ratio:.2f} of the tokens so counted, by {number} students")
    for uri in dict.fromkeys(uri for p in found.studies for uri in p.teachers):
        if uri.startswith("release:"):
            said.append(f"{uri}: recorded, costs no tokens")
        elif uri.startswith("openai:"):
            said.append(f"{uri}: tokens are counted, its server's hours are not")
        else:
            how = (
                "trained first"
                if uri.startswith("micro:")
                else "writes as the wordiest recorded one"
            )
            said.append(f"{uri}: {short(setting.parameters(uri))} parameters; {how}")
    return said


def short(number: float, unit: str = "") -> str:
    """A number in three digits with its unit: `12.3 MB`."""
    for size, prefix in zip((1e18, 1e15, 1e12, 1e9, 1e6, 1e3), "EPTGMk", strict=True):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def report(found: Grid, setting: Setting) -> str:
    """The table, and what it assumes."""
    rows = [HEAD, *(line.cells() for line in lines(found, setting))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    text = []
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        text.append("  ".join([f"{row[0]:<{widths[0]}}", *cells]))
    return "\n".join([*text, "", *(f"- {line}" for line in assumptions(found, setting))])


def resources(job: Job) -> dict[str, int]:
    """What the workflow asks for a job: `gpu` (number), `mem_mb`, `runtime` (minutes).

    No GPU for models under SMALL and for teachers that are recorded or run elsewhere, else `nproc`
    for students and as many as a teacher's weights need. The runtime is SAFETY times the plan's, at
    least 10, on a CPU or on the device that the environment variable TINYLLM_DEVICE names (a100
    where it is not set; with cpu no job asks for a GPU). Models of unknown size, and questions that
    cannot be read yet, get something to go on with.
    """
    name = os.environ.get("TINYLLM_DEVICE") or "a100"
    return dict(_resources(job, name, paths.runs(), paths.results()))


@cache
def _resources(job: Job, name: str, *_: Path) -> dict[str, int]:
    params, trains = job.params, job.rule == "distill"
    setting = _setting(name)
    models = [params.student] if trains else []
    if job.rule == "prompt":
        models = [uri for uri in params.teachers if uri.startswith("hf:")]
    size = max(map(setting.parameters, models), default=0.0)
    gpu = 0
    if size >= SMALL and name != "cpu":
        gpu = params.nproc if trains else math.ceil(2e-9 * size / setting.device.memory)  # bf16
    setting = setting if gpu else _setting("cpu")
    at_once = max(params.workers, params.nproc) if trains else 1
    each = (TRAINING_BYTES * ACTIVATIONS if trains else 4) * size
    try:
        cost = sum((piece.cost for piece in pieces(job, setting)), Cost())
        served = cost.written if any(uri.startswith("openai:") for uri in params.teachers) else 0.0
        seconds = START + served / SERVER + cost.seconds / (params.nproc if trains else 1)
    except (OSError, ValueError):  # its files are not there yet, say
        seconds = 3600.0
    return {
        "gpu": gpu,
        "mem_mb": max(2000, math.ceil(1500 + at_once * (500 + each / 1e6))),
        "runtime": max(10, math.ceil(SAFETY * seconds / 60)),
    }


@cache
def _setting(name: str) -> Setting:
    """For `resources`: nothing is unknown there."""
    return Setting(sizes.device(name), unknown=UNKNOWN)


def _given(items: Iterable[str]) -> dict[str, float]:
    """The models' sizes of the command line."""
    found = {}
    for item in items:
        name, _, number = item.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < math.inf:
            raise ParameterError(
                f"--parameters {item!r}: expected MODEL=NUMBER, as in my/model=3e9"
            )
    return found


def main(arguments: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tinyllm.plan", description="A grid's cost.")
    parser.add_argument("grid", nargs="?", help="name in params/grid, grid file or parameter file")
    known = ", ".join(sizes.DEVICES)
    parser.add_argument("--device", help=f"{known}; if not given a100, or cpu for small students")
    parser.add_argument("--parameters", action="append", default=[], metavar="MODEL=NUMBER")
    parser.add_argument("--statistics", action="store_true", help="count the questions anew")
    said = parser.parse_args(arguments)
    if said.statistics:
        file = Path(__file__).parent / "published" / sizes.QUESTIONS
        sizes.statistics().to_csv(file, lineterminator="\n")
        print(f"{paths.shown(file)}: written")
    elif said.grid is None:
        parser.error("name a grid or a parameter file, or --statistics")
    else:
        found, given = grid.load(said.grid), _given(said.parameters)
        setting = Setting(sizes.device(said.device or "cpu"), given)
        if not said.device and any(setting.parameters(p.student) >= SMALL for p in found.studies):
            setting = Setting(sizes.device("a100"), given)
        print(report(found, setting))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as problem:  # ParameterError, DataError
        sys.exit(str(problem))
