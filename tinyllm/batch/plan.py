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


DEVICES = {  # dense FLOPs per second (data sheets; the CPU: two cores with AVX-512), GB, share used
    "a100": (312e12, 80, 0.2),
    "h100": (989e12, 80, 0.2),
    "h200": (989e12, 141, 0.2),
    "l4": (121e12, 24, 0.2),
    "l40s": (362e12, 48, 0.2),
    "v100": (15.7e12, 32, 0.2),
    "cpu": (384e9, 0, 0.35),
}


def device(name: str) -> tuple[float, float, float]:
    """A row of DEVICES; ParameterError if there is none such."""
    if name not in DEVICES:
        raise ParameterError(f"device: {name!r}: allowed are {', '.join(DEVICES)}")
    return DEVICES[name]


def parameters(model: str) -> float:
    """Parameters of a student, or of a teacher's URI: as the environment variable
    TINYLLM_PARAMETERS (`MODEL=3e9 MODEL=7e9`) says, from MODELS, or from the model's config."""
    name, sizes = model.removeprefix("hf:"), dict(MODELS)
    for item in os.environ.get("TINYLLM_PARAMETERS", "").split():
        known, _, number = item.rpartition("=")
        if not known or not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", number):
            raise ParameterError(f"--parameters {item!r}: expected MODEL=NUMBER, as my/model=3e9")
        sizes[known] = float(number)
    return sizes[name] if name in sizes else _counted(name)


@cache
def _counted(name: str) -> float:
    file = Path(name).expanduser()
    if name.endswith(".gguf") and file.is_file():
        return 2.0 * file.stat().st_size  # about 4 bits per parameter
    # Imported where it is needed, since that takes seconds.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        config = AutoConfig.from_pretrained(str(file), local_files_only=True)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return float(auto.from_config(config).num_parameters())
    except (OSError, ValueError):
        raise ParameterError(
            f"model {name!r}: its size is unknown, as no config of it is on this machine; add "
            f"--parameters {name}=3e9"
        ) from None


def splits(params: Params) -> dict[str, dict[str, float]]:
    """`lengths` of a study's questions by split; of the release's, as counted in questions.csv."""
    return _splits(json.dumps(params.spec(*STAGES["data"].split())))


@cache
def _splits(values: str) -> dict[str, dict[str, float]]:
    params = Params(**json.loads(values), teachers=[], arms=["inference"])
    table = pd.read_csv(Path(__file__).with_name("questions.csv")).set_index(["dataset", "split"])
    if params.source not in ("release", "hub") or params.dataset not in table.index:
        return {split: lengths(questions) for split, questions in data.load(params).items()}
    rows = table.loc[params.dataset].to_dict("index")
    for split, most in params.limit.items():
        part = min(1, most / rows[split]["questions"])
        for name in ("questions", "flan-t5 rationales", "llama2 rationales"):
            rows[split][name] *= part
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
    """Share of the training questions with a teacher's rationale, and its mean tokens: as recorded,
    else all questions, and as many tokens as are allowed."""
    (kind, name), train = arms.teacher(uri), splits(params)["train"]
    if kind != "release":
        return 1.0, params.max_new_tokens
    return train[f"{name} rationales"] / train["questions"], train[f"{name} letters"] / LETTERS + 1


def student(params: Params, name: str) -> Counter:
    """Cost of training one student, and of the files that stay."""
    arm, train = arms.resolve(name, params.teachers), splits(params)["train"]
    text, answer = min(train["text"] / LETTERS + 3, params.max_input), train["answer"] / LETTERS + 1
    learned = [rationales(params, uri) for uri in arm.teachers]
    if arm.routed:  # one of them per question
        learned = [tuple(map(fmean, zip(*learned, strict=True)))]
    targets = [(1.0, answer), *learned]
    targets += [(train["options"], answer)] if arm.scorers else []
    # An encoder reads a question once per prefix, or once; a decoder-only student once per target.
    once = params.task_prefix == "decoder" and not DECODER_ONLY.search(params.student)
    reads = 1.0 if once else sum(share for share, _ in targets)
    written = sum(share * min(length, params.max_target) for share, length in targets)
    questions = train["questions"] * params.epochs * arm.passes * arm.trained
    trained, size = questions * (reads * text + written), parameters(params.student)
    weights = 4 * size * params.keep_weights * arm.trained * (not arm.lora)  # adapters are small
    disk = ROW * splits(params)["test"]["questions"] + weights
    return Counter(trained=trained, flops=(4 if arm.lora else 6) * size * trained, disk=disk)


def teacher(params: Params, uri: str) -> Counter:
    """Cost of a teacher's rationales for train, and of its answers to test, asked in two ways."""
    train, test = (splits(params)[split] for split in ("train", "test"))
    written = params.samples * train["questions"]
    generated = written * math.prod(rationales(params, uri))
    if uri.startswith("release:"):
        return Counter(disk=ROW * train["questions"] + LETTERS * generated)
    blocks = 1 + int(params.examples.partition(":")[2] or 0)
    prompt = min(blocks * (train["text"] / LETTERS + 10), params.max_prompt)
    read = prompt * (written + 2 * test["questions"])
    size = 0.0 if uri.startswith("openai:") else parameters(uri)
    flops = 2 * size * (read + GENERATED * generated)
    disk = LETTERS * (read + generated)
    return Counter(read=read, generated=generated, flops=flops, disk=disk)


def cost(job: Job) -> Counter:
    """Tokens `read`, `generated` (teachers) and `trained` on; `flops`; bytes on `disk`."""
    params, parts = job.params, []
    if job.rule == "prompt":
        parts = [teacher(way, uri) for way in arms.variants(params) for uri in way.teachers]
    if job.rule == "distill":
        parts = [student(params, arm) for arm in params.arms] * len(params.seeds)
    return sum(parts, Counter())


def table(grid: Grid, name: str) -> pd.DataFrame:
    """A row per rule and one of the total; hours are of one device that does all jobs in turn."""
    (peak, _, share), known, rows = device(name), set(), {rule: Counter() for rule in RULES}
    now = status.Status(grid)
    for job in grid.jobs:
        # What an earlier job has asked of a teacher is asked once.
        spent = Counter() if job.asks and known.issuperset(job.asks) else cost(job)
        known.update(job.asks)
        spent["hours"] = (START + spent["flops"] / (peak * share)) / 3600
        spent["left"] = spent["hours"] * now.left(job)
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
    peak, _, share = device(name)
    known = ", ".join(f"{student}{short(size)}" for student, size in sizes.items())
    return (
        f"{shown.to_string()}\n\nHours: all jobs in turn on one {name},{short(peak)} FLOP/s used "
        f"at {share:.0%}; those of openai: servers are not counted. Tokens are estimates, "
        f"{LETTERS:g} letters each. Parameters: {known}"
    )


def resources(job: Job) -> dict[str, int]:
    """What the workflow asks for a job: `gpu` (number), `mem_mb`, `runtime` (minutes).

    GPUs for models above SMALL: `nproc` for students, as many as a teacher's weights need. The
    runtime is SAFETY times the plan's on the device that TINYLLM_DEVICE names (a100 if not set;
    with cpu no job asks for a GPU).
    """
    params, trains = job.params, job.rule == "distill"
    local = [uri for uri in params.teachers if uri.startswith("hf:")]
    models = {"prompt": local, "distill": [params.student]}.get(job.rule, [])
    size, gpu = max(map(parameters, models), default=0.0), 0
    name = os.environ.get("TINYLLM_DEVICE") or "a100"
    if size >= SMALL and name != "cpu":
        gpu = params.nproc if trains else math.ceil(2 * size / (0.8e9 * device(name)[1]))  # bf16
    peak, _, share = device(name if gpu else "cpu")
    try:
        spent = cost(job)
        seconds = spent["flops"] / (peak * share) / max(1, gpu * trains)
        if any(uri.startswith("openai:") for uri in params.teachers):
            seconds += spent["generated"] / SERVED
    except (OSError, DataError):  # questions that are not there yet
        seconds = 3600.0
    at_once = max(params.workers, params.nproc) if trains else 1
    memory = 1500 + at_once * (500 + (BYTES if trains else 4) * size / 1e6)
    minutes = math.ceil(SAFETY * (START + seconds) / 60)
    return {"gpu": gpu, "mem_mb": max(2000, math.ceil(memory)), "runtime": max(10, minutes)}
