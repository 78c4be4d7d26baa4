"""Batches: from questions and texts to tokenised rows, and from rows to padded tensors.

Tasks share one encoder input if the decoder reads the prefix (`task_prefix: decoder`) or if their
prefixes are equal. Each task has its own decoder batch, so that short answers are not padded to the
length of rationales.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinyllm.data.question import Question
from tinyllm.models.encode import IGNORED, Encoding, pad
from tinyllm.students.targets import ANSWER, OPTIONS, Task

POOL = 200  # optimiser steps per pool of questions that are grouped by length


def inputs_of(tasks: Sequence[Task], encoding: Encoding) -> list[int]:
    """For each task, the index of the question's distinct input that it reads (from 0)."""
    if encoding.seq2seq and encoding.task_prefix == "decoder":
        return [0] * len(tasks)
    prefixes = list(dict.fromkeys(task.prefix for task in tasks))
    return [prefixes.index(task.prefix) for task in tasks]


def training_rows(
    questions: Sequence[Question],
    texts: Mapping[str, Mapping[str, str]],
    tasks: Sequence[Task],
    encoding: Encoding,
    options: Mapping[str, Sequence[float]] | None = None,
) -> list[dict[str, Any]]:
    """Tokenised rows, one per question.

    texts: for each teacher, rationales by question id. options: probability of each option by
        question id, for the `options` task. Questions without an entry have no such target.
    Returns rows with `sources` (ids, one per distinct input, see `inputs_of`), `targets` (for each
    task a list of ids: one text, every option, or none), `probabilities` (of the options) and
    `lengths` (tokens of all sources, then of each task's targets).
    """
    reads = inputs_of(tasks, encoding)
    first = [tasks[reads.index(index)] for index in range(max(reads) + 1)]
    rows = []
    for question in questions:
        probabilities = list((options or {}).get(question.id, []))
        targets = []
        for task in tasks:
            if task.name == OPTIONS:
                written = question.options if probabilities else []
            elif task.name == ANSWER:
                written = [question.gold]
            else:
                text = texts[task.name].get(question.id, "")
                written = [text] if text.strip() else []
            targets.append([encoding.target(text, question.id) for text in written])
        sources = [encoding.source(question, task.prefix) for task in first]
        lengths = [sum(map(len, lines)) for lines in (sources, *targets)]
        row = {"sources": sources, "targets": targets, "probabilities": probabilities}
        rows.append(row | {"lengths": lengths})
    return rows


@dataclass
class Collator:
    """Pads rows into one batch of tensors.

    Returns `counts` [tasks], the divisor of each task's loss: its target tokens, or questions for
    the `options` task; `tokens` [1], read by encoder and decoder, without padding; and for task t
    `labels_t` [n, D]. Encoder-decoder models get `input_ids`, `attention_mask` [S, L] (the distinct
    inputs that targets need), `rows_t` [n] (indices into the S) and `decoder_t` [n, D]. Others get
    `input_t`, `mask_t` [n, D], where labels_t[i, j] is the token after position j. The `options`
    task has one of the n lines per option, `probabilities_t` [n], and `sizes_t` [Q], the number of
    options of each question.
    """

    encoding: Encoding
    tasks: Sequence[Task]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        stack: list[list[int]] = []  # encoder inputs
        places: dict[tuple[int, int], int] = {}  # (row, distinct input): its place in the stack
        counts, tokens, blank = [], 0, self.encoding.tokenizer.pad_token_id
        for t, read in enumerate(inputs_of(self.tasks, self.encoding)):
            chosen = [i for i, row in enumerate(rows) for _ in row["targets"][t]]
            lines = [line for row in rows for line in row["targets"][t]]
            counts.append(sum(map(len, lines)))
            if not lines:
                continue
            if self.tasks[t].name == OPTIONS:
                sizes = [len(row["targets"][t]) for row in rows if row["targets"][t]]
                counts[t], batch[f"sizes_{t}"] = len(sizes), torch.tensor(sizes)
                known = [p for row in rows for p in row["probabilities"]]
                batch[f"probabilities_{t}"] = torch.tensor(known)
            given = [rows[i]["sources"][read] for i in chosen]
            if self.encoding.seq2seq:
                for i, source in zip(chosen, given, strict=True):
                    if (i, read) not in places:
                        places[i, read] = len(stack)
                        stack.append(source)
                batch[f"rows_{t}"] = torch.tensor([places[i, read] for i in chosen])
                given = [self.encoding.decoder_prefix(self.tasks[t].prefix)] * len(lines)
            inputs = [g + line[:-1] for g, line in zip(given, lines, strict=True)]
            labels = [[IGNORED] * (len(g) - 1) + x for g, x in zip(given, lines, strict=True)]
            batch[f"labels_{t}"] = torch.tensor(pad(labels, IGNORED))
            name = "decoder" if self.encoding.seq2seq else "input"
            batch[f"{name}_{t}"] = torch.tensor(pad(inputs, blank))
            if not self.encoding.seq2seq:
                batch[f"mask_{t}"] = torch.tensor(pad([[1] * len(ids) for ids in inputs], 0))
            tokens += sum(map(len, inputs))
        if stack:
            batch["input_ids"] = torch.tensor(pad(stack, blank))
            batch["attention_mask"] = torch.tensor(pad([[1] * len(ids) for ids in stack], 0))
        batch["counts"] = torch.tensor(counts)
        batch["tokens"] = torch.tensor([tokens + sum(map(len, stack))])
        return batch


def steps_of_epoch(
    lengths: Sequence[Sequence[int]], step: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Indices of the questions of each optimiser step of an epoch: each once, `step` at a time.

    lengths: of `training_rows`. The order is random, by seed and epoch, but the questions of a step
    have similar lengths, so that there is little padding: they are drawn into pools of POOL steps,
    and each pool is halved recursively along the length with the largest standard deviation.
    Questions that do not fill a step come last. The first epoch starts with the longest step, so
    that it shows at once if memory is too small.
    """
    sizes = np.array(lengths)
    draw = np.random.default_rng((seed, epoch))
    order = draw.permutation(len(sizes))
    whole, pool = len(order) - len(order) % step, POOL * step
    groups = []
    for start in range(0, whole, pool):
        groups += _alike(sizes, order[start : min(start + pool, whole)], step)
    draw.shuffle(groups)
    if epoch == 0 and groups:
        tokens = [sizes[group].sum() for group in groups]
        groups.insert(0, groups.pop(int(np.argmax(tokens))))
    rest = order[whole:]
    return [*groups, rest] if len(rest) else groups


def _alike(sizes: np.ndarray, rows: np.ndarray, step: int) -> list[np.ndarray]:
    steps = len(rows) // step
    if steps <= 1:
        return [rows]
    by = sizes[rows][:, sizes[rows].std(0).argmax()]
    rows = rows[by.argsort(kind="stable")]
    half = steps // 2 * step
    return [*_alike(sizes, rows[:half], step), *_alike(sizes, rows[half:], step)]
