"""Speed of a training step, compared with the method of the paper's release.

    python benchmarks/train_step.py [--questions 48] [--rounds 3] [--datasets obqa pubmedqa]

One model (FLAN-T5-small's architecture, random weights) trains on the release's questions and
recorded rationales. The methods:

- release: batches in dataset order; for every task, inputs and targets padded to the longest in the
  batch; one forward pass per task and one backward pass through the sum of the losses.
- encoder, decoder: this project's method (see `tinyllm/students/`), with the task prefix in the
  encoder's or the decoder's input.

A step is a forward and a backward pass; the AdamW update is the same for all and left out. In each
round, every method trains once on the same questions, in turn. Ratios compare medians over the
rounds, which reduces the effect of other load on the machine; `CPU` is the same ratio in CPU
seconds. Teachers 3 and 4 repeat the rationales of the first two. MiniLM's tokenizer replaces
FLAN-T5's, which is only on a hub.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import mean, median
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from tinyllm import prompts
from tinyllm.data import release
from tinyllm.data.question import Question
from tinyllm.models import load
from tinyllm.models.encode import Encoding
from tinyllm.params import Params
from tinyllm.students.collate import Collator, steps_of_epoch, training_rows
from tinyllm.students.loss import MultiTask, weighted_loss
from tinyllm.students.targets import ANSWER, Task

WAYS = ("release", "encoder", "decoder")
BATCH, MAX_INPUT, MAX_TARGET = 8, 1024, 256
Step = Callable[[], torch.Tensor]  # runs the forward pass and returns the loss


@dataclass(frozen=True)
class Rows:
    """Questions that all methods train on.

    ordered: in dataset order. grouped: as in training. texts: rationales by teacher and
    question id.
    """

    ordered: list[Question]
    grouped: list[list[Question]]
    texts: dict[str, dict[str, str]]


def questions(dataset: str, number: int, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """`number` training questions with rationales of both teachers, in steps of BATCH.

    All such questions are grouped as in training; the steps are taken at even intervals of size.
    """
    rows = release.questions(dataset, "train")
    pairs = release.rationales(dataset, "train")
    both = [(row, pair) for row, pair in zip(rows, pairs, strict=True) if all(pair)]
    texts = {f"teacher {m}": {row.id: pair[m % 2] for row, pair in both} for m in range(4)}
    examples = [row for row, _ in both]
    tasks, encoding = tasks_for(2), Encoding(tokenizer, True, 0, "encoder", MAX_INPUT, MAX_TARGET)
    lengths = [row["lengths"] for row in training_rows(examples, texts, tasks, encoding)]
    steps = [group for group in steps_of_epoch(lengths, BATCH, 0, 0) if len(group) == BATCH]
    steps.sort(key=lambda step: sum(sum(lengths[i]) for i in step))
    wanted = number // BATCH
    taken = [steps[(2 * k + 1) * len(steps) // (2 * wanted)] for k in range(wanted)]
    ordered = [examples[i] for i in sorted(i for step in taken for i in step)]
    return Rows(ordered, [[examples[i] for i in step] for step in taken], texts)


def tasks_for(teachers: int) -> list[Task]:
    """The answer task and one rationale task per teacher."""
    prefixes = [prompts.rationale_prefix(index) for index in range(teachers)]
    named = [Task(f"teacher {m}", prefix, 1.0) for m, prefix in enumerate(prefixes)]
    return [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0), *named]


def release_steps(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    tasks: list[Task],
) -> Iterator[Step]:
    """The release's method, one step per batch."""

    def padded(lines: list[str], longest: int) -> dict[str, torch.Tensor]:
        return tokenizer(
            lines, padding=True, truncation=True, max_length=longest, return_tensors="pt",
            return_token_type_ids=False,
        )  # fmt: skip

    def step(batch: list[Question]) -> torch.Tensor:
        losses = []
        for task in tasks:
            rationales = rows.texts.get(task.name)
            reads = [f"{task.prefix}{e.context} \n {prompts.student_question(e)}" for e in batch]
            writes = [rationales[e.id] if rationales else e.gold for e in batch]
            labels = padded(writes, MAX_TARGET)
            targets = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
            losses.append(model(**padded(reads, MAX_INPUT), labels=targets).loss)
        return torch.stack(losses).sum()

    for start in range(0, len(rows.ordered), BATCH):
        yield lambda batch=rows.ordered[start : start + BATCH]: step(batch)


def our_steps(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows, tasks: list[Task], task_prefix: str
) -> Iterator[Step]:
    """This project's method, one step per batch of questions of similar length."""
    params = Params.checked(task_prefix=task_prefix, max_input=MAX_INPUT, max_target=MAX_TARGET)
    encoding = Encoding.of(model, tokenizer, params)
    collate, module = Collator(encoding, tasks), MultiTask(model, tasks)
    weights = torch.ones(len(tasks))

    def step(batch: list[dict[str, Any]]) -> torch.Tensor:
        tensors = collate(batch)
        return weighted_loss(module(tensors), tensors["counts"], weights)

    for group in rows.grouped:
        tokenised = training_rows(group, rows.texts, tasks, encoding)
        yield lambda batch=tokenised: step(batch)


def steps(way: str, model: Any, tokenizer: Any, rows: Rows, teachers: int) -> list[Step]:
    """All steps of one pass over the questions."""
    tasks = tasks_for(teachers)
    if way == "release":
        return list(release_steps(model, tokenizer, rows, tasks))
    return list(our_steps(model, tokenizer, rows, tasks, way))


def student() -> tuple[Any, PreTrainedTokenizerBase]:
    """FLAN-T5-small with random weights, and MiniLM's tokenizer."""
    tokenizer = load.load("minilm-ed")[1]
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=512, d_ff=1024, d_kv=64, num_layers=8, num_heads=6,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).train()
    return model, tokenizer


@dataclass(frozen=True)
class Taken:
    """Wall-clock and CPU seconds of one pass over the questions."""

    seconds: float
    cpu: float


def taken(model: Any, todo: list[Step]) -> Taken:
    """Time of the forward and backward passes over all steps."""
    start, cpu = time.perf_counter(), time.process_time()
    for step in todo:
        step().backward()
        model.zero_grad(set_to_none=True)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Taken(seconds, cpu)


def measure(
    dataset: str, number: int, rounds: int, teachers: Sequence[int]
) -> dict[tuple[str, int], Taken]:
    """Medians over the rounds, by method and number of teachers."""
    model, tokenizer = student()
    rows = questions(dataset, number, tokenizer)
    todo = {
        (way, many): steps(way, model, tokenizer, rows, many) for many in teachers for way in WAYS
    }
    for way in WAYS:
        taken(model, todo[way, teachers[0]][:1])  # warm-up: the first call is slow
    seen: dict[tuple[str, int], list[Taken]] = {key: [] for key in todo}
    for turn in range(rounds):
        order = [*todo][turn % len(todo) :] + [*todo][: turn % len(todo)]
        for key in order:
            seen[key].append(taken(model, todo[key]))
    return {key: _median(times) for key, times in seen.items()}


def _median(times: list[Taken]) -> Taken:
    return Taken(*(median(getattr(t, f.name) for t in times) for f in fields(Taken)))


def slope(points: dict[int, float]) -> float:
    """Least-squares slope: seconds per teacher."""
    x, y = mean(points), mean(points.values())
    return sum((n - x) * (s - y) for n, s in points.items()) / sum((n - x) ** 2 for n in points)


def report(dataset: str, number: int, rounds: int, teachers: Sequence[int]) -> pd.DataFrame:
    """One row per number of teachers and method: questions per second, and ratios to the release.

    `a teacher more` (last rows): time added per teacher, relative to the release's method.
    """
    results = measure(dataset, number, rounds, teachers)
    added = {way: {m: results[way, m].seconds for m in teachers} for way in WAYS}
    rows = []
    for (way, many), result in results.items():
        base = results["release", many]
        row = {"dataset": dataset, "teachers": many, "way": way}
        row |= {"questions/s": number / result.seconds, "speed": base.seconds / result.seconds}
        row |= {"CPU": base.cpu / result.cpu}
        if len(teachers) > 1 and many == teachers[-1]:
            row["a teacher more"] = slope(added[way]) / slope(added["release"])
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=["obqa", "pubmedqa"])
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--teachers", type=int, nargs="+", default=[1, 2, 3, 4])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    for dataset in args.datasets:
        table = report(dataset, args.questions, args.rounds, args.teachers)
        print(table.round(3).astype(object).fillna("").to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
