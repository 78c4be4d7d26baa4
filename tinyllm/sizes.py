"""What a plan counts with: sizes of models and devices, of questions and texts, and of past runs.

All of it is data or read from files, and nothing here imports torch. Texts are counted in letters,
which depend on no tokenizer, and turned into tokens by LETTERS_A_TOKEN.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd

from tinyllm import arms, paths, results, runs
from tinyllm.params import DATASETS, SPLITS, ParameterError, Params

QUESTIONS = "questions.csv"
RECORDED = ("flan-t5", "llama2", "micro")  # whose rationales that table has the lengths of
PREFIX = 10  # letters of a student's task prefix
LETTERS_A_TOKEN = 4.0  # of English, by tokenizers of subwords; words of the micro world are longer
MODELS = {  # parameters
    "google/flan-t5-small": 77.0e6,  # tinyllm.models.flan_t5, and so the next two
    "google/flan-t5-base": 247.6e6,
    "google/flan-t5-large": 783.2e6,
    "google/flan-t5-xl": 3e9,  # the paper's text, and so the next two
    "meta-llama/Llama-2-7b-hf": 7e9,
    "meta-llama/Llama-2-7b-chat-hf": 7e9,
    "minilm-ed": 42e6,  # counted, as the others
    "smollm2": 135e6,
    "micro-t5": 257_280,
    "micro-llama": 0.38e6,
    "micro:a": 257_280,
    "micro:b": 0.38e6,
}
DECODER_ONLY = re.compile(r"llama|gpt|lm|qwen|mistral|mixtral|gemma|phi|pythia|opt-", re.I)
ENCODER_DECODER = re.compile(r"t5|t0|bart|ul2|-ed$", re.I)


@dataclass(frozen=True)
class Device:
    """Something that trains. peak: floating-point operations a second, dense, in the precision that
    `precision: auto` takes there. memory: GB. The others: the share of the peak that is assumed, by
    the kind of work."""

    name: str
    peak: float
    memory: float
    training: float = 0.2
    reading: float = 0.3
    writing: float = 0.02  # every token of a batch reads all weights
    scoring: float = 0.2


DEVICES = {  # peaks as the makers' data sheets give them
    "a100": Device("a100", 312e12, 80),
    "h100": Device("h100", 989e12, 80),
    "h200": Device("h200", 989e12, 141),
    "l4": Device("l4", 121e12, 24),
    # Without bf16 units; fp32 is what `auto` takes.
    "v100": Device("v100", 15.7e12, 32),
    # Two cores with AVX-512 at 3 GHz, fp32.
    "cpu": Device("cpu", 384e9, 0, training=0.35, reading=0.4, writing=0.1, scoring=0.35),
}


def device(name: str) -> Device:
    """A device by its name; ParameterError if none such."""
    if name not in DEVICES:
        raise ParameterError(f"device: {name!r}: allowed are {', '.join(DEVICES)}")
    return DEVICES[name]


def seq2seq(model: str) -> bool:
    """True for encoder-decoder models, as far as a name can tell."""
    return bool(ENCODER_DECODER.search(model)) or not DECODER_ONLY.search(model)


def parameters(model: str, given: Mapping[str, float], rows: Sequence[Run]) -> float:
    """Parameters of a model: as given, else as measured in finished students, else of MODELS.

    model: a student, or a teacher's URI (for openai: its MODEL). Raises
    ParameterError with the remedy where nothing tells.
    """
    name = model.rpartition("#")[2].removeprefix("hf:")
    if name in given:
        return given[name]
    there = [run.parameters for run in rows if run.student == name and run.parameters]
    if there:
        return min(there)  # adapters count too; the smallest is without
    if name in MODELS:
        return MODELS[name]
    raise ParameterError(f"model {name!r}: its size is unknown; add --parameters {name}=3e9")


@dataclass(frozen=True)
class Run:
    """What a finished student cost, from its manifest. device: in words."""

    study: str
    dataset: str
    student: str
    arm: str
    device: str
    parameters: float
    train_questions: float
    train_tokens: float
    train_flops: float
    train_seconds: float
    steps: float

    @property
    def speed(self) -> float:
        """Floating-point operations a second and GPU; 0 where nothing was trained."""
        gpus = re.match(r"(\d+) x ", self.device)
        seconds = self.train_seconds * int(gpus[1] if gpus else 1)
        return self.train_flops / seconds if seconds > 0 else 0.0

    def on(self, where: Device) -> bool:
        """True if it was trained there."""
        return where.name in self.device.lower()


def measured() -> tuple[Run, ...]:
    """Every finished student, of runs/ and of results/, by their manifests."""
    return _measured(paths.runs(), paths.results())


@cache
def _measured(*_: Path) -> tuple[Run, ...]:
    found = {}
    for study, dataset, manifest in _manifests():
        spec, facts = manifest["spec"], manifest["facts"]
        labels = {"study": study, "dataset": dataset, "device": manifest["device"]}
        labels |= {name: spec[name] for name in ("student", "arm")}
        names = [f.name for f in fields(Run) if f.name not in labels]
        key = (study, dataset, spec["student"], spec["arm"], spec["seed"])
        found[key] = Run(**labels, **{name: float(facts.get(name) or 0) for name in names})
    return tuple(found.values())


def _manifests() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Study, dataset and manifest of each finished student."""
    for file in sorted(paths.results().glob(f"*/*/*/{results.MANIFESTS}")):
        for line in file.read_text(encoding="utf-8").splitlines():
            yield *file.relative_to(paths.results()).parts[:2], json.loads(line)
    for file in sorted(paths.runs().glob(f"*/*/students/*/*/seed*/{runs.MANIFEST}")):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        yield *file.relative_to(paths.runs()).parts[:2], manifest


def speed(student: str, where: Device, rows: Sequence[Run]) -> tuple[float, list[Run]]:
    """Operations a second at which a student was trained on a device, and the runs of which that is
    the median; (0, none) where there are none."""
    found = [run for run in rows if run.student == student and run.speed and run.on(where)]
    return (median(run.speed for run in found) if found else 0.0), found


@dataclass(frozen=True)
class Split:
    """The questions of a split: how many, and mean letters of what is read and written.

    text: context, question and lettered options as the student reads them. answer: the gold one.
    options: their mean number. rationales: letters of each teacher's, of those questions that have
    one, and the share of the questions that do, by the teacher's name.
    """

    questions: int
    text: float
    answer: float
    options: float
    rationales: Mapping[str, tuple[float, float]]


def splits(params: Params) -> dict[str, Split]:
    """The questions that a study asks, by split: counted beforehand for the micro world and the
    release, else counted now. Raises what `tinyllm.data.load` does where they cannot be read."""
    limits = tuple(sorted(params.limit.items()))
    if params.source.startswith("file:"):
        return _loaded(params.study, params.dataset, params.source, params.data_seed, limits)
    return _counted("micro" if params.source == "micro" else params.dataset, limits)


@cache
def _counted(dataset: str, limits: tuple[tuple[str, int], ...]) -> dict[str, Split]:
    found = {}
    for split in SPLITS:
        row = published().loc[(dataset, split)]
        number = int(row.questions)
        written = {
            name: (row[f"{name} letters"], row[f"{name} rationales"] / number)
            for name in RECORDED
            if row[f"{name} rationales"]
        }
        number = min(number, dict(limits).get(split, number))
        found[split] = Split(number, row.text, row.answer, row.options, written)
    return found


@cache
def published() -> pd.DataFrame:
    """The committed table of `statistics`, by dataset and split."""
    with (resources.files("tinyllm") / "published" / QUESTIONS).open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col=["dataset", "split"])


@cache
def _loaded(study: str, dataset: str, source: str, seed: int, limits: tuple) -> dict[str, Split]:
    from tinyllm import data

    folder = paths.study(study, dataset) / "data"
    if runs.read_manifest(folder) is not None:
        loaded = data.read(folder)
    else:
        asked = {"dataset": dataset, "source": source, "data_seed": seed, "limit": dict(limits)}
        loaded = data.load(Params(**asked, teachers=[], arms=["finetune"]))
    found = {}
    for split in SPLITS:
        row = _row(data.examples(loaded[split]))
        found[split] = Split(row["questions"], row["text"], row["answer"], row["options"], {})
    return found


def train_flops(parameters: float, trained: float, tokens: float) -> float:
    """Floating-point operations of training, by the usual rule of thumb.

    A token costs 2 a parameter forward, 2 a parameter for the gradient of the activations and 2 a
    trained parameter for its own gradient: 6 x parameters x tokens for full training (Kaplan et al.
    2020, section 2.1), about 4 x for LoRA. It counts embeddings, though they are only looked up,
    has an encoder-decoder's token pass through both halves, and leaves out attention over long
    inputs and what gradient checkpointing computes twice.
    """
    return (4 * parameters + 2 * trained) * tokens


def tokens(letters: float) -> float:
    """Tokens of a text of so many letters, about."""
    return letters / LETTERS_A_TOKEN


def rationale(params: Params, teacher: str, split: Split) -> tuple[float, float]:
    """Mean letters of a teacher's rationale, and the share of the questions that have one.

    A teacher without recorded ones is taken to write as much as the one that wrote most, at most
    `max_new_tokens`.
    """
    kind, _, name = teacher.partition(":")
    if kind == "release":
        return split.rationales.get(name, (0.0, 0.0))
    most = params.max_new_tokens * LETTERS_A_TOKEN
    return min(most, max((n for n, _ in split.rationales.values()), default=most)), 1.0


def question_tokens(params: Params, arm: arms.Arm, split: Split) -> float:
    """Tokens that a student reads and writes for a training question in one pass, all tasks.

    As `tinyllm.batches` counts: an encoder reads a question once for each distinct prefix, or once
    where the decoder gets the prefix; a decoder-only student reads it before every target.
    """
    written = [rationale(params, teacher, split) for teacher in arm.teachers]
    if arm.gibberish:
        written.append((fmean(n for n, _ in written), 1.0))
    answer = min(tokens(split.answer) + 1, params.max_target)
    # Of each task: share of questions with a target, targets a question, tokens of one.
    tasks = [(1.0, 1.0, answer)]
    tasks += [(share, 1.0, min(tokens(n) + 1, params.max_target)) for n, share in written]
    options = [(1.0, split.options, answer)] if arm.scorers else []
    text = min(tokens(PREFIX + split.text) + 1, params.max_input)
    if not seq2seq(params.student):
        return sum(share * lines * (text + n) for share, lines, n in [*tasks, *options])
    own = params.task_prefix == "encoder"
    reads = text * sum(share for share, _, _ in tasks) if own else text
    prefix = 0.0 if own else tokens(PREFIX)
    return reads + sum(share * lines * (n + prefix) for share, lines, n in [*tasks, *options])


def steps(params: Params, questions: int) -> float:
    """Optimiser steps of one student in the study's epochs; `finetune:xN` makes N times as many."""
    return params.epochs * questions / (params.batch_size * params.accumulation * params.nproc)


def training_tokens(params: Params, name: str) -> float:
    """Tokens of one student's training, all epochs, without `correction`."""
    arm, train = arms.resolve(name, params.teachers), splits(params)["train"]
    each = question_tokens(params, arm, train) if arm.trained else 0.0
    return each * train.questions * params.epochs * arm.passes


def correction(params: Params, rows: Sequence[Run]) -> tuple[float, int]:
    """Tokens that finished students took over those predicted for them, and of how many that is the
    median; (1, 0) where none was trained on so many questions in so many steps."""
    train = splits(params)["train"]
    wanted, ratios = steps(params, train.questions), []
    for run in rows:
        same = (run.dataset, run.student) == (params.dataset, params.student)
        same = same and run.train_tokens and run.train_questions == train.questions
        with contextlib.suppress(ValueError):  # an arm of other teachers
            steps_wanted = wanted * arms.resolve(run.arm, params.teachers).passes
            if same and abs(run.steps - steps_wanted) < 1 + 0.02 * steps_wanted:
                ratios.append(run.train_tokens / training_tokens(params, run.arm))
    return (median(ratios) if ratios else 1.0), len(ratios)


def _row(examples: list) -> dict[str, float]:
    """The questions' part of a row of `statistics`."""
    from tinyllm import prompts

    texts = [f"{each.context} {prompts.student_question(each)}".strip() for each in examples]
    lengths = {
        "text": map(len, texts),
        "answer": (len(prompts.student_answer(each)) for each in examples),
        "options": (len(each.options) for each in examples),
    }
    return {"questions": len(examples)} | {n: round(fmean(v), 1) for n, v in lengths.items()}


def statistics() -> pd.DataFrame:
    """The table of questions, counted anew: a row a dataset of the release (or micro) and split.

    Columns: questions, mean letters of a student's text (see `Split`) and answer, mean options, and
    for each of RECORDED how many rationales there are and their mean letters. The micro world is
    that of seed 0, and its rationales those of a perfect teacher. Needs the release, and torch.
    """
    from tinyllm import micro, release

    rows = []
    for dataset in (*DATASETS, "micro"):
        for split in SPLITS:
            if dataset == "micro":
                examples = micro.questions(0)[split]
                written = {"micro": [micro.reference_rationale(each, 0) for each in examples]}
            else:
                examples = release.release_examples(dataset, split)
                texts = zip(*release.release_rationales(dataset, split), strict=True)
                written = dict(zip(release.TEACHERS, texts, strict=True))
            row = {"dataset": dataset, "split": split} | _row(examples)
            for name in RECORDED:
                lengths = [len(text) for text in written.get(name, ()) if text]
                row[f"{name} rationales"] = len(lengths)
                row[f"{name} letters"] = round(fmean(lengths), 1) if lengths else 0.0
            rows.append(row)
    return pd.DataFrame(rows).set_index(["dataset", "split"])
