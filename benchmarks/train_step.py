"""Speed and memory of a training step, against the way of the paper's release.

    python benchmarks/train_step.py [--questions 64] [--rounds 3] [--datasets obqa pubmedqa]

One model, FLAN-T5-small's architecture with random weights, on questions of the release with its
recorded rationales. The ways:

- release: batches in dataset order; for every task the inputs and targets padded to the longest of
  the batch, a forward pass a task, one backward pass through the sum of the losses.
- encoder, decoder: this project's (see `tinyllm.batches`, `tinyllm.training`), with the task's
  prefix in the encoder's input or in the decoder's.

A step is forward and backward; AdamW's is the same for all and left out. A round has every way
train on the same questions once; ways take turns within a round, and ratios are of the medians over
the rounds, so that a machine that others use too does no more harm than it must. Teachers beyond
two have the rationales of the first two again. Peak memory is of a process of its own a way.
FLAN-T5's tokenizer is only on a hub: MiniLM's word pieces stand in for it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from tinyllm import cost, models, prompts, release
from tinyllm.batches import Collator, training_rows
from tinyllm.data import Example
from tinyllm.encoding import Encoding
from tinyllm.params import Params
from tinyllm.tasks import ANSWER, Task
from tinyllm.training import MultiTask

WAYS = ("release", "encoder", "decoder")
BATCH, MAX_INPUT, MAX_TARGET = 8, 1024, 256
Step = Callable[[], torch.Tensor]  # forward; gives the loss


def questions(dataset: str, number: int) -> tuple[list[Example], dict[str, dict[str, str]]]:
    """Questions drawn from train that both teachers wrote for, and their rationales by teacher."""
    rows = release.release_examples(dataset, "train")
    pairs = release.release_rationales(dataset, "train")
    both = [(row, pair) for row, pair in zip(rows, pairs, strict=True) if all(pair)]
    kept = sorted(random.Random(0).sample(range(len(both)), number))  # in dataset order
    drawn = [both[index] for index in kept]
    texts = {f"teacher {m}": {row.id: pair[m % 2] for row, pair in drawn} for m in range(4)}
    return [row for row, _ in drawn], texts


def tasks_for(teachers: int) -> list[Task]:
    """The answer and the first teachers."""
    prefixes = [prompts.rationale_prefix(index) for index in range(teachers)]
    named = [Task(f"teacher {m}", prefix, 1.0) for m, prefix in enumerate(prefixes)]
    return [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0), *named]


def release_steps(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    texts: dict[str, dict[str, str]],
    found: list[Task],
) -> Iterator[Step]:
    """The release's way, a step a batch."""

    def padded(lines: list[str], longest: int) -> dict[str, torch.Tensor]:
        return tokenizer(
            lines, padding=True, truncation=True, max_length=longest, return_tensors="pt",
            return_token_type_ids=False,
        )  # fmt: skip

    def step(batch: list[Example]) -> torch.Tensor:
        losses = []
        for task in found:
            own = texts.get(task.name)
            reads = [f"{task.prefix}{e.context} \n {prompts.student_question(e)}" for e in batch]
            writes = [own[e.id] if own else prompts.student_answer(e) for e in batch]
            labels = padded(writes, MAX_TARGET)
            targets = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
            losses.append(model(**padded(reads, MAX_INPUT), labels=targets).loss)
        return torch.stack(losses).sum()

    for start in range(0, len(examples), BATCH):
        yield lambda batch=examples[start : start + BATCH]: step(batch)


def our_steps(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    texts: dict[str, dict[str, str]],
    found: list[Task],
    task_prefix: str,
) -> Iterator[Step]:
    """This project's way, a step a batch of questions that are about equally long."""
    params = Params.checked(task_prefix=task_prefix, max_input=MAX_INPUT, max_target=MAX_TARGET)
    encoding = Encoding.of(model, tokenizer, params)
    rows = training_rows(examples, texts, found, encoding)
    collate, module = Collator(encoding, found), MultiTask(model, found)
    lengths = [row["length"] for row in rows]
    generator = torch.Generator().manual_seed(0)
    # As LengthGroups; over so few questions it would not group by itself.
    groups = max(1, len(rows) // BATCH)
    order = get_length_grouped_indices(lengths, BATCH, groups, generator=generator)

    def step(batch: list[dict[str, Any]]) -> torch.Tensor:
        tensors = collate(batch)
        return (module(**tensors) / tensors["counts"].clamp(min=1)).sum()

    for start in range(0, len(order), BATCH):
        yield lambda at=order[start : start + BATCH]: step([rows[i] for i in at])


def steps(way: str, model: Any, tokenizer: Any, data: Any, teachers: int) -> list[Step]:
    """All steps of one pass over the questions."""
    examples, texts = data
    found = tasks_for(teachers)
    if way == "release":
        return list(release_steps(model, tokenizer, examples, texts, found))
    return list(our_steps(model, tokenizer, examples, texts, found, way))


def student() -> tuple[Any, PreTrainedTokenizerBase]:
    """FLAN-T5-small with random weights, and the tokenizer that stands in for its own."""
    tokenizer = models.load("minilm-ed")[1]
    torch.manual_seed(0)
    model = models.flan_t5("small").train()
    model.config.decoder_start_token_id = tokenizer.pad_token_id
    return model, tokenizer


def timed(model: Any, todo: list[Step]) -> float:
    """Seconds of forward and backward over all steps."""
    start = time.perf_counter()
    for step in todo:
        step().backward()
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def times(
    dataset: str, number: int, rounds: int, teachers: tuple[int, ...]
) -> dict[tuple[str, int], float]:
    """Median seconds a pass over the questions, by way and number of teachers."""
    model, tokenizer = student()
    data = questions(dataset, number)
    todo = {
        (way, many): steps(way, model, tokenizer, data, many) for many in teachers for way in WAYS
    }
    for each in todo.values():
        timed(model, each[:1])  # the first call of anything is slow
    seen: dict[tuple[str, int], list[float]] = {key: [] for key in todo}
    for turn in range(rounds):
        order = [*todo][turn % len(todo) :] + [*todo][: turn % len(todo)]
        for key in order:
            seen[key].append(timed(model, todo[key]))
    return {key: statistics.median(seconds) for key, seconds in seen.items()}


def peak(dataset: str, number: int, way: str, teachers: int) -> float:
    """Peak memory in GB of one pass over the questions, in a process of its own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        return pool.submit(_peak, dataset, number, way, teachers).result()


def _peak(dataset: str, number: int, way: str, teachers: int) -> float:
    model, tokenizer = student()
    todo = steps(way, model, tokenizer, questions(dataset, number), teachers)
    cost.start_peak()
    timed(model, todo)
    return cost.peaks()["peak_rss_gb"]


def slope(points: dict[int, float]) -> float:
    """Least-squares seconds a teacher."""
    x, y = statistics.mean(points), statistics.mean(points.values())
    return sum((n - x) * (s - y) for n, s in points.items()) / sum((n - x) ** 2 for n in points)


def report(dataset: str, number: int, rounds: int, teachers: tuple[int, ...]) -> pd.DataFrame:
    """A row a way and number of teachers: examples a second, ratios to the release's way."""
    seconds = times(dataset, number, rounds, teachers)
    memory = {key: peak(dataset, number, *key) for key in seconds}
    rows = []
    for (way, many), taken in seconds.items():
        rows.append(
            {
                "dataset": dataset,
                "teachers": many,
                "way": way,
                "examples/s": number / taken,
                "speed ratio": seconds["release", many] / taken,
                "peak GB": memory[way, many],
                "memory ratio": memory[way, many] / memory["release", many],
            }
        )
        if len(teachers) > 1 and many == teachers[-1]:
            added = {w: slope({m: seconds[w, m] for m in teachers}) for w in WAYS}
            rows[-1]["s a teacher / release's"] = added[way] / added["release"]
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--datasets", nargs="+", default=["obqa", "pubmedqa"])
    asked.add_argument("--questions", type=int, default=64)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--teachers", type=int, nargs="+", default=[1, 2, 3, 4])
    given = asked.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    for dataset in given.datasets:
        table = report(dataset, given.questions, given.rounds, tuple(given.teachers))
        print(table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
