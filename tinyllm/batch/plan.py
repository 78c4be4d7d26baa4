"""Estimated cost of a grid before it is run: tokens, FLOPs and hours, one row per rule.

Tokens are estimated from the lengths of texts, FLOPs as 6 x parameters x tokens, hours from one
utilisation per device, so that hours can be several times too high or too low. `resources` is for
the `Snakefile`.
"""

import contextlib
import json
import math
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from tinyllm import arms, paths, prompts
from tinyllm.batch.grid import RULES, Grid, Job
from tinyllm.data import load as data
from tinyllm.data.question import Question
from tinyllm.params import STAGES, ParameterError, Params

LETTERS = 4.0  # per token, an estimate
GENERATED = 10  # generating one token takes as long as reading this many
SERVED = 5000  # tokens per second that an openai: server reads
START = 20.0  # seconds that a job spends on its kernel and imports
SMALL = 60e6  # models with fewer parameters need no GPU
BYTES = 20  # of memory per trained parameter: weights, gradients, AdamW (fp32), and a quarter more
CUDA = 4000  # MB of host memory for the libraries and buffers of a job on GPUs
GPU_BYTES = 64e9  # of memory per GPU that a teacher's weights (bf16) may take
SAFETY = 3  # runtime requested from a cluster, as a multiple of the estimate
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
# Of aliases, and whether the decoder has its own.
POSITIONS = {"minilm-ed": (512, True), "smollm2": (8192, False), "micro-llama": (512, False)}
DECODER_ONLY = re.compile(r"llama|gpt|lm\d|qwen|mi[sx]tral|gemma|phi-|pythia|olmo", re.I)
DEVICES = {  # FLOPs per second: dense peak by data sheet (CPU: two cores, AVX-512) x utilisation
    "a100": 312e12 * 0.2,
    "h100": 989e12 * 0.2,
    "h200": 989e12 * 0.2,
    "l4": 121e12 * 0.2,
    "l40s": 362e12 * 0.2,
    "v100": 15.7e12 * 0.2,
    "cpu": 384e9 * 0.35,
}


def parameters(model: str) -> float:
    """Number of parameters of a student or a teacher's URI: from the environment variable
    TINYLLM_PARAMETERS (`MODEL=3e9 MODEL=7e9`), from MODELS, or from the model's config."""
    name, sizes = model.removeprefix("hf:"), dict(MODELS)
    for item in os.environ.get("TINYLLM_PARAMETERS", "").split():
        known, _, number = item.rpartition("=")
        if not known or not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", number):
            raise ParameterError(f"--parameters {item!r}: expected MODEL=NUMBER, like my/model=3e9")
        sizes[known] = float(number)
    return sizes[name] if name in sizes else _counted(name)


@cache
def _counted(name: str) -> float:
    file = paths.model(name)
    if name.endswith(".gguf") and file.is_file():
        return 2.0 * file.stat().st_size  # about 4 bits per parameter
    # Imported only if needed, because that takes seconds.
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    try:
        config = _config(name)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return float(auto.from_config(config).num_parameters())
    except (OSError, ValueError):
        raise ParameterError(
            f"model {name!r}: its size is unknown (no folder {file}, no config in the hub's "
            f"cache); correct the path, or add --parameters {name}=3e9"
        ) from None


def _config(name: str) -> Any:
    from transformers import AutoConfig

    path = paths.model(name)
    return AutoConfig.from_pretrained(str(path) if path.exists() else name, local_files_only=True)


def check(grid: Grid) -> None:
    """Raise ParameterError if a student has too few positions for `max_input` and `max_target`.

    Called before any job runs, for models whose config is on this machine. Others, and the
    questions themselves, are checked before students train.
    """
    for params in grid.studies:
        limit, apart = _positions(params.student)
        sizes = params.spec("max_input", "max_target")
        for what, size in (sizes if apart else {" + ".join(sizes): sum(sizes.values())}).items():
            if limit and size > limit:
                raise ParameterError(
                    f"{what}: {size}: {params.student} has positions for {limit} tokens; {what} "
                    f"may be at most {limit}"
                )


def _positions(name: str) -> tuple[int | None, bool]:
    with contextlib.suppress(OSError, ValueError):
        if name not in POSITIONS | MODELS and not name.endswith(".gguf"):
            from tinyllm.models.encode import longest_input  # imports torch, which takes seconds

            config = _config(name)
            return longest_input(config), config.is_encoder_decoder
    return POSITIONS.get(name, (None, not DECODER_ONLY.search(name)))


def splits(params: Params) -> dict[str, dict[str, float]]:
    """`lengths` of a study's questions by split; for the release's datasets from questions.csv."""
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
    """Number of questions, and means: letters of a student's text and of the answer, options."""
    texts = [f"{q.context} {prompts.student_question(q)}".strip() for q in questions]
    return {
        "questions": len(questions),
        "text": fmean(map(len, texts)),
        "answer": fmean(len(q.gold) for q in questions),
        "options": fmean(len(q.options) for q in questions),
    }


def rationales(params: Params, uri: str) -> tuple[float, float]:
    """Share of the training questions with a teacher's rationale, and mean tokens of rationales: as
    recorded in the release, otherwise 1 and `max_new_tokens`."""
    (kind, name), train = arms.teacher(uri), splits(params)["train"]
    if kind != "release":
        return 1.0, params.max_new_tokens
    return train[f"{name} rationales"] / train["questions"], train[f"{name} letters"] / LETTERS + 1


def student(params: Params, name: str) -> Counter:
    """Tokens and FLOPs of training one student."""
    arm, train = arms.resolve(name, params.teachers), splits(params)["train"]
    text, answer = min(train["text"] / LETTERS + 3, params.max_input), train["answer"] / LETTERS + 1
    learned = [rationales(params, uri) for uri in arm.teachers]
    if arm.routed:  # one of them per question
        learned = [tuple(map(fmean, zip(*learned, strict=True)))]
    if arm.gibberish:  # a text for every question, as long as the teachers' rationales
        learned.append((1.0, fmean(length for _, length in learned)))
    targets = [(1.0, answer), *learned]
    targets += [(train["options"], answer)] if arm.scorers else []
    # An encoder reads a question once, or once per prefix; a decoder-only student once per target.
    once = params.task_prefix == "decoder" and _positions(params.student)[1]
    reads = 1.0 if once else sum(share for share, _ in targets)
    written = sum(share * min(length, params.max_target) for share, length in targets)
    questions = train["questions"] * params.epochs * arm.passes * arm.trained
    tokens = questions * (reads * text + written)
    flops = (4 if arm.lora else 6) * parameters(params.student) * tokens
    return Counter(tokens=tokens, flops=flops)


def teacher(params: Params, uri: str) -> Counter:
    """Cost of a teacher's rationales on train, and of its answers on test with two prompts."""
    if uri.startswith("release:"):
        return Counter()
    train, test = (splits(params)[split] for split in ("train", "test"))
    written = params.samples * train["questions"]
    blocks = 1 + int(params.examples.partition(":")[2] or 0)
    prompt = min(blocks * (train["text"] / LETTERS + 10), params.max_prompt)
    read, generated = prompt * (written + 2 * test["questions"]), written * params.max_new_tokens
    work = read + GENERATED * generated
    if uri.startswith("openai:"):
        return Counter(tokens=read + generated, seconds=work / SERVED)
    return Counter(tokens=read + generated, flops=2 * parameters(uri) * work)


def cost(job: Job) -> Counter:
    """Cost of a job: tokens, FLOPs, and seconds that do not depend on the device."""
    params, parts = job.params, []
    if job.rule == "prompt":
        parts = [teacher(asked, u) for asked in params.variants() for u in asked.teachers]
    if job.rule == "distill":
        parts = [student(params, arm) for arm in params.arms] * len(params.seeds)
    return sum(parts, Counter(seconds=START))


def table(grid: Grid, device: str) -> pd.DataFrame:
    """One row per rule and a total; hours are for one device that runs all jobs in sequence."""
    known, rows = set(), {rule: Counter() for rule in RULES}
    for job in grid.jobs:
        # Rationales that an earlier job makes are not made again.
        repeated = job.asks and known.issuperset(job.asks)
        spent = Counter(seconds=START) if repeated else cost(job)
        known.update(job.asks)
        spent["hours"] = (spent["seconds"] + spent["flops"] / DEVICES[device]) / 3600
        rows[job.rule].update(spent, jobs=1)
    rows["total"] = sum(rows.values(), Counter())
    return pd.DataFrame(rows, index=["jobs", "tokens", "flops", "hours"]).T.fillna(0.0)


def report(grid: Grid, device: str | None = None) -> str:
    """The table and its assumptions. device: default cpu for small students, else a100."""
    sizes = {params.student: parameters(params.student) for params in grid.studies}
    device = device or ("a100" if max(sizes.values()) >= SMALL else "cpu")
    known = ", ".join(f"{student} {size:.3g}" for student, size in sizes.items())
    return (
        f"{table(grid, device).to_string(float_format='{:.3g}'.format)}\n\n"
        f"Hours: all jobs in sequence on one {device} at {DEVICES[device]:.3g} FLOPs per second. "
        f"Tokens: estimated at {LETTERS:g} letters each. Parameters: {known}"
    )


def resources(job: Job) -> dict[str, int]:
    """What the workflow requests for a job: `gpu` (number), `mem_mb`, `runtime` (minutes).

    Models from SMALL on get GPUs: `nproc` for students, as many as its weights need for a teacher.
    The runtime is SAFETY times the estimate for the device that TINYLLM_DEVICE names (default a100;
    with cpu, no job requests a GPU).
    """
    params, trains = job.params, job.rule == "distill"
    local = [uri for uri in params.teachers if uri.startswith("hf:")]
    models = {"prompt": local, "distill": [params.student]}.get(job.rule, [])
    size, gpu, spent = max(map(parameters, models), default=0.0), 0, cost(job)
    name = os.environ.get("TINYLLM_DEVICE") or "a100"
    if name not in DEVICES:
        raise ParameterError(f"TINYLLM_DEVICE: {name!r}: allowed are {', '.join(DEVICES)}")
    if size >= SMALL and name != "cpu":
        gpu = params.nproc if trains else math.ceil(2 * size / GPU_BYTES)
    seconds = spent["flops"] / DEVICES[name if gpu else "cpu"] / max(1, gpu * trains)
    minutes = math.ceil(SAFETY * (spent["seconds"] + seconds) / 60)
    at_once = job.threads if trains else 1
    memory = 1500 + CUDA * (gpu > 0) + at_once * (500 + (BYTES if trains else 4) * size / 1e6)
    minutes = max(30 if gpu else 10, minutes)
    return {"gpu": gpu, "mem_mb": max(2000, math.ceil(memory)), "runtime": minutes}
