"""What a grid will cost, before anything is run: tokens, FLOPs, hours and disk, one line per rule.

Estimates, good to about a factor of two: tokens from the lengths of texts, FLOPs as 6 x parameters
x tokens, hours from one utilisation per device. `resources` is what the `Snakefile` asks for a job.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pandas as pd
from pandas.io.formats.format import EngFormatter

from tinyllm import arms, prompts
from tinyllm.batch import status
from tinyllm.batch.grid import RULES, Grid, Job
from tinyllm.data import load as data
from tinyllm.data.question import DataError, Question
from tinyllm.params import STAGES, ParameterError, Params

LETTERS = 4.0  # per token, an estimate
GENERATED = 10  # a generated token takes as long as so many that are read
START = 20.0  # seconds of a job for its kernel and imports
LORA_SHARE = 0.01 / 8  # of the parameters, per rank
ROW = 300  # bytes on disk of a record or prediction, beside its text
BYTES = 20  # of memory per trained parameter: weights, gradients, AdamW (fp32), and a quarter more
SMALL = 60e6  # parameters of models that need no GPU
SERVED = 500  # tokens per second that a server of the openai: kind generates
SAFETY = 3  # runtime asked of a cluster, as a multiple of the estimate
MODELS = {  # parameters; other models are counted from their config
    "google/flan-t5-small": 77.0e6,
    "google/flan-t5-base": 247.6e6,
    "google/flan-t5-large": 783.2e6,
    "google/flan-t5-xl": 2.85e9,
    "meta-llama/Llama-2-7b-hf": 6.74e9,
    "meta-llama/Llama-2-7b-chat-hf": 6.74e9,
    "minilm-ed": 42e6,
    "smollm2": 135e6,
    **dict.fromkeys(("micro-t5", "micro-llama", "micro:a", "micro:b"), 0.3e6),
}
DECODER_ONLY = re.compile(r"llama|gpt|lm\d|qwen|mi[sx]tral|gemma|phi-|pythia|olmo", re.I)


class Device(NamedTuple):
    """peak: dense FLOPs per second in the precision that `auto` takes. memory: GB."""

    peak: float
    memory: float
    utilisation: float = 0.2  # share of the peak that is reached


DEVICES = {  # peaks from data sheets; the CPU is two cores with AVX-512 at 3 GHz
    "a100": Device(312e12, 80),
    "h100": Device(989e12, 80),
    "h200": Device(989e12, 141),
    "l4": Device(121e12, 24),
    "l40s": Device(362e12, 48),
    "v100": Device(15.7e12, 32),
    "cpu": Device(384e9, 0, utilisation=0.35),
}


def device(name: str) -> Device:
    """A device by its exact name; ParameterError if there is none such."""
    if name not in DEVICES:
        raise ParameterError(f"device: {name!r}: allowed are {', '.join(DEVICES)}")
    return DEVICES[name]


def parameters(model: str) -> float:
    """Parameters of a student, or of a teacher's URI: as the environment variable
    TINYLLM_PARAMETERS (`MODEL=3e9 MODEL=7e9`) says, from MODELS, or from the model's config.

    Raises ParameterError, with the remedy, where none of these tells.
    """
    name = model.removeprefix("hf:")
    for item in os.environ.get("TINYLLM_PARAMETERS", "").split():
        known, _, number = item.rpartition("=")
        if not known or not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", number):
            raise ParameterError(f"--parameters {item!r}: expected MODEL=NUMBER, as my/model=3e9")
        if known == name:
            return float(number)
    return MODELS[name] if name in MODELS else _counted(name)


@cache
def _counted(name: str) -> float:
    if name.endswith(".gguf") and Path(name).expanduser().is_file():
        return 2.0 * Path(name).expanduser().stat().st_size  # about 4 bits per parameter
    # Imported where it is needed, since that takes seconds.
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(str(Path(name).expanduser()), local_files_only=True)
        with torch.device("meta"):
            return float(AutoModel.from_config(config).num_parameters())
    except (OSError, ValueError):
        raise ParameterError(
            f"model {name!r}: its size is unknown, as no config of it is on this machine; add "
            f"--parameters {name}=3e9"
        ) from None


def splits(params: Params) -> dict[str, dict[str, float]]:
    """A study's questions by split: `lengths` of them, or a row of questions.csv for the release's.

    Raises what `data.load` does where they cannot be read.
    """
    return _splits(json.dumps(params.spec(*STAGES["data"].split())))


@cache
def _splits(values: str) -> dict[str, dict[str, float]]:
    params = Params(**json.loads(values), teachers=[], arms=["inference"])
    if params.source in ("release", "hub"):
        table = pd.read_csv(Path(__file__).with_name("questions.csv")).set_index("dataset")
        rows = table.loc[params.dataset].set_index("split").to_dict("index")
    else:
        rows = {split: lengths(questions) for split, questions in data.load(params).items()}
    for split, most in params.limit.items():
        part = min(1, most / rows[split]["questions"])
        counts = [name for name in rows[split] if name == "questions" or "rationales" in name]
        rows[split] |= {name: part * rows[split][name] for name in counts}
    return rows


def lengths(questions: list[Question]) -> dict[str, float]:
    """How many questions, mean letters of a student's text and of the answer, mean options."""
    texts = [f"{q.context} {prompts.student_question(q)}".strip() for q in questions]
    return {
        "questions": len(questions),
        "text": fmean(map(len, texts)),
        "answer": fmean(len(q.gold) for q in questions),
        "options": fmean(len(q.options) for q in questions),
    }


def rationales(params: Params, uri: str) -> tuple[float, float]:
    """Share of the training questions with a teacher's rationale, and its tokens: as recorded, else
    all, and as many as are allowed."""
    (kind, name), train = arms.teacher(uri), splits(params)["train"]
    if kind != "release":
        return 1.0, params.max_new_tokens
    return train[f"{name} rationales"] / train["questions"], train[f"{name} letters"] / LETTERS + 1


def student(params: Params, name: str) -> Counter:
    """Cost of training one student, and of the files that stay."""
    arm, train = arms.resolve(name, params.teachers), splits(params)["train"]
    text, answer = min(train["text"] / LETTERS + 3, params.max_input), train["answer"] / LETTERS + 1
    targets = [(1.0, answer), *(rationales(params, uri) for uri in arm.teachers)]
    targets += [(train["options"], answer)] if arm.scorers else []
    # An encoder reads a question once per prefix, or once; a decoder-only student once per target.
    once = params.task_prefix == "decoder" and not DECODER_ONLY.search(params.student)
    reads = 1.0 if once else sum(share for share, _ in targets)
    written = sum(share * min(length, params.max_target) for share, length in targets)
    questions = train["questions"] * params.epochs * arm.passes * arm.trained
    trained, size = questions * (reads * text + written), parameters(params.student)
    kept = size * (min(1, LORA_SHARE * arm.lora) if arm.lora else 1) * arm.trained
    disk = ROW * splits(params)["test"]["questions"] + 4 * kept * params.keep_weights
    return Counter(trained=trained, flops=(4 if arm.lora else 6) * size * trained, disk=disk)


def teacher(params: Params, uri: str) -> Counter:
    """Cost of a teacher's rationales for train, and of its answers to test, asked in two ways."""
    train, test = (splits(params)[split] for split in ("train", "test"))
    share, length = rationales(params, uri)
    generated = train["questions"] * share * length
    if uri.startswith("release:"):
        return Counter(disk=ROW * train["questions"] + LETTERS * generated)
    blocks = 1 + int(params.examples.partition(":")[2] or 0)
    prompt = min(blocks * (train["text"] / LETTERS + 10), params.max_prompt)
    read = prompt * (train["questions"] + 2 * test["questions"])
    size = 0.0 if uri.startswith("openai:") else parameters(uri)
    flops, disk = 2 * size * (read + GENERATED * generated), LETTERS * (read + generated)
    return Counter(read=read, generated=generated, flops=flops, disk=disk)


def cost(job: Job) -> Counter:
    """What a job costs: tokens that teachers `read` and have `generated` and that students are
    `trained` on, `flops`, and bytes on `disk`."""
    params, parts = job.params, []
    if job.rule == "prompt":
        parts = [teacher(way, uri) for way in arms.variants(params) for uri in way.teachers]
    if job.rule == "distill":
        parts = [student(params, arm) for arm in params.arms] * len(params.seeds)
    return sum(parts, Counter())


def table(grid: Grid, name: str) -> pd.DataFrame:
    """A row per rule and one of the total; hours are of one device that does all jobs in turn.

    What an earlier job has asked of a teacher is asked once. Raises ParameterError.
    """
    one, known, rows = device(name), set(), {rule: Counter() for rule in RULES}
    now = status.Status(grid)
    for job in grid.jobs:
        spent = Counter() if job.asks and known.issuperset(job.asks) else cost(job)
        known.update(job.asks)
        states = [piece.state for piece in now.pieces[job]] or ["missing"]
        left = (1 - states.count("finished") / len(states)) * (job in now.unfinished)
        spent["hours"] = (START + spent["flops"] / (one.peak * one.utilisation)) / 3600
        spent["left"] = spent["hours"] * left
        rows[job.rule].update(spent, jobs=1, done=job not in now.unfinished)
    rows["total"] = sum(rows.values(), Counter())
    columns = ["jobs", "done", "read", "generated", "trained", "flops", "disk", "hours", "left"]
    return pd.DataFrame(rows, index=columns).T.fillna(0.0).astype({"jobs": int, "done": int})


def report(grid: Grid, name: str | None = None) -> str:
    """The table, and what it assumes. Without a device: cpu for small students, else a100."""
    sizes = {params.student: parameters(params.student) for params in grid.studies}
    name = name or ("a100" if max(sizes.values()) >= SMALL else "cpu")
    short, shown = EngFormatter(1, use_eng_prefix=True), table(grid, name).round(2)
    for column in ("read", "generated", "trained", "flops", "disk"):
        shown[column] = shown[column].map(short)
    return (
        f"{shown.to_string()}\n\nHours: all jobs in turn on one {name},{short(device(name).peak)} "
        f"FLOP/s used at {device(name).utilisation:.0%}; those of openai: servers are not counted. "
        f"Tokens are estimates, {LETTERS:g} letters each. Parameters: "
        + ", ".join(f"{student}{short(size)}" for student, size in sizes.items())
    )


def resources(job: Job) -> dict[str, int]:
    """What the workflow asks for a job: `gpu` (number), `mem_mb`, `runtime` (minutes).

    GPUs for models above SMALL: `nproc` for students, as many as a teacher's weights need. The
    runtime is SAFETY times the plan's on the device that TINYLLM_DEVICE names (a100 if not set;
    with cpu no job asks for a GPU). Raises ParameterError for a model of unknown size.
    """
    params, name = job.params, os.environ.get("TINYLLM_DEVICE") or "a100"
    local = [uri for uri in params.teachers if uri.startswith("hf:")]
    models = {"prompt": local, "distill": [params.student]}.get(job.rule, [])
    size, gpu, trains = max(map(parameters, models), default=0.0), 0, job.rule == "distill"
    if size >= SMALL and name != "cpu":
        room = 0.8e9 * device(name).memory / 2  # parameters in bf16
        gpu = params.nproc if trains else math.ceil(size / room)
    one = device(name if gpu else "cpu")
    try:
        spent = cost(job)
        seconds = spent["flops"] / (one.peak * one.utilisation) / max(1, gpu * trains)
        if any(uri.startswith("openai:") for uri in params.teachers):
            seconds += spent["generated"] / SERVED
    except (OSError, DataError):  # questions that are not there yet
        seconds = 3600.0
    at_once = max(params.workers, params.nproc) if trains else 1
    memory = 1500 + at_once * (500 + (BYTES if trains else 4) * size / 1e6)
    minutes = math.ceil(SAFETY * (START + seconds) / 60)
    return {"gpu": gpu, "mem_mb": max(2000, math.ceil(memory)), "runtime": max(10, minutes)}
