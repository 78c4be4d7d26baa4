"""The micro world's teachers: two small language models that the study trains itself.

Teacher a is T5-like, b Llama-like; each learns its part of the museum (`data.micro.known`) with
prompts of the form used later. Studies of the same museum share its teachers in runs/teachers/.
"""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tinyllm import arms, paths, prompts, runs
from tinyllm.data import micro as world
from tinyllm.data.question import Question
from tinyllm.models import micro as models
from tinyllm.models.encode import IGNORED, pad
from tinyllm.params import Params

KIND_OF_MODEL = {"a": "t5", "b": "llama"}
STEPS, LR, LAYERS = {"a": 400, "b": 250}, {"a": 1e-3, "b": 2e-3}, {"a": 1, "b": 2}
BATCH, FINAL_LR = 32, 0.2  # the rate falls to a fifth of its peak
# T5 encodes position only in its attention biases. With the learning rate of the other weights they
# would hardly change in so few steps, and in-context examples would be mistaken for the question.
BIAS_LR = 0.05
ALONE_FIRST = 0.4  # share of the steps, at the start, without in-context examples


def prepare(params: Params) -> None:
    """Train the study's missing micro teachers, `workers` of them in parallel."""
    letters = [name for kind, name in map(arms.teacher, params.teachers) if kind == "micro"]
    missing = [job for job in (work(params, name) for name in letters) if not runs.finished(*job)]
    if missing:
        context = get_context("spawn")
        with ProcessPoolExecutor(min(params.workers, len(missing)), context) as pool:
            list(pool.map(_train, *zip(*missing, strict=True)))


def work(params: Params, letter: str) -> tuple[Path, dict[str, Any]]:
    """Run folder and spec of a micro teacher."""
    spec = {"stage": "micro teacher", "version": world.VERSION, "letter": letter}
    spec |= params.spec("data_seed")
    return paths.runs() / "teachers" / f"micro-{letter}" / runs.digest(spec)[:12], spec


def _train(folder: Path, spec: dict[str, Any]) -> None:
    runs.end_with_parent()
    torch.set_num_threads(1)  # several threads only slow down such small models
    with runs.recording(folder, spec) as facts:
        train_teacher(spec["letter"], folder / "model", spec["data_seed"])
        facts["content"] = runs.sha256(folder / "model" / "model.safetensors")


def train_teacher(letter: str, folder: Path, seed: int) -> None:
    """Train teacher `a` or `b` on its part of museum `seed`, and save it."""
    steps = STEPS[letter]
    corpus = teacher_corpus(letter, seed, BATCH, round(ALONE_FIRST * steps))
    model = models.untrained(KIND_OF_MODEL[letter], seed, LAYERS[letter]).train()
    named = list(model.named_parameters())
    biases = [weight for name, weight in named if "relative_attention_bias" in name]
    others = [weight for name, weight in named if "relative_attention_bias" not in name]
    groups = [{"params": others}, {"params": biases, "lr": BIAS_LR}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=LR[letter])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    words = models.tokenizer(eos=False)
    for _ in range(steps):
        loss = model(**_batch(words, next(corpus), model.config.is_encoder_decoder)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    models.save(model.eval(), KIND_OF_MODEL[letter], folder)


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: warmup over a tenth of the steps, then linear decay."""
    warmup = steps // 10
    decay = FINAL_LR + (1 - FINAL_LR) * (steps - step) / (steps - warmup)
    return (step + 1) / warmup if step < warmup else decay


def teacher_corpus(
    letter: str, seed: int, batch: int, alone: int
) -> Iterator[list[tuple[str, str]]]:
    """Endless batches of (prompt, continuation) to train teacher `letter` on museum `seed`.

    Half of a batch asks for rationales with the gold letter, a quarter for rationales without it,
    a quarter for answers. The first `alone` batches have no in-context examples, later ones 0 to 2.
    Rationales are about all entities, answers only about known ones. Questions of the test split
    are excluded, but not the facts that they ask for.
    """
    museum, draw = world.world(seed), random.Random(f"corpus:{letter}:{seed}")
    every, known = sorted(world.KIND), sorted(world.known(letter))
    test = {(row.question, *sorted(row.options)) for row in world.questions(seed)["test"]}

    def fresh(entities: list[str]) -> Question:
        while True:
            entity, attribute = draw.choice(entities), draw.choice([*world.ATTRIBUTES])
            place = draw.randrange(world.OPTIONS)
            row = world.ask(museum, entity, attribute, place, draw, "corpus")
            if (row.question, *sorted(row.options)) not in test:
                return row

    for step in itertools.count():
        number = 0 if step < alone else draw.randint(0, 2)
        rows = []
        for index in range(batch):
            answers = index % 4 == 3
            row, shots = fresh(known if answers else every), [fresh(every) for _ in range(number)]
            if answers:
                rows.append((prompts.answer_prompt(row, shots), row.gold))
            else:
                prompt = prompts.teacher_prompt(row, shots, forcing=index % 4 < 2)
                rows.append((prompt, world.teacher_rationale(letter, row)))
        yield rows


def _batch(
    words: PreTrainedTokenizerBase, rows: list[tuple[str, str]], seq2seq: bool
) -> dict[str, torch.Tensor]:
    """(prompt, continuation) rows as ids [rows, tokens]; only continuations have labels."""
    end = words.eos_token_id
    reads = [words(prompt).input_ids for prompt, _ in rows]
    writes = [[*words(text).input_ids, end] for _, text in rows]
    if seq2seq:
        reads, labels = [[*ids, end] for ids in reads], writes
    else:
        labels = [[IGNORED] * len(r) + w for r, w in zip(reads, writes, strict=True)]
        reads = [r + w for r, w in zip(reads, writes, strict=True)]
    ids = torch.tensor(pad(reads, words.pad_token_id))
    mask = (ids != words.pad_token_id).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(pad(labels, IGNORED))}
