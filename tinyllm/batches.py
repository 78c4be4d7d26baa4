"""Batches: from questions and texts to tokenised rows, and from rows to padded tensors.

Tasks whose prefix is not the encoder's business share one encoder input (`task_prefix: decoder`);
tasks with the same prefix always do. Each task has a decoder batch of its own, so that short
answers are never padded to long rationales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tinyllm import prompts
from tinyllm.data import Example
from tinyllm.encoding import IGNORED, Encoding, pad
from tinyllm.tasks import ANSWER, OPTIONS, Task

POOL = 200  # steps that questions are grouped among


@dataclass(frozen=True)
class Soft:
    """Target of the `options` task: each option's tokens, and the probability that it should have.

    tokens: as the answer's target would be, end token included. probabilities: one an option.
    """

    tokens: list[list[int]]
    probabilities: list[float]


def inputs_of(found: Sequence[Task], encoding: Encoding) -> list[int]:
    """For each task, which of a question's distinct inputs it reads (0 is the first task's)."""
    if encoding.seq2seq and encoding.task_prefix == "decoder":
        return [0] * len(found)
    prefixes = list(dict.fromkeys(task.prefix for task in found))
    return [prefixes.index(task.prefix) for task in found]


def training_rows(
    examples: Sequence[Example],
    texts: Mapping[str, Mapping[str, str]],
    found: Sequence[Task],
    encoding: Encoding,
    options: Mapping[str, Sequence[float]] | None = None,
) -> list[dict[str, Any]]:
    """Tokenised rows, one a question.

    texts: for each teacher, rationale by question id; a question absent there (or with an empty
        rationale) has no target for that task.
    options: probability of each option by question id, for the `options` task; likewise.
    Returns rows with `targets` (ids, Soft or None, one a task), `sources` (ids, one a distinct
    input, see `inputs_of`) and `lengths` (tokens of all sources, then of each task's targets: what
    batches are grouped by).
    """
    reads = inputs_of(found, encoding)
    first = [found[reads.index(index)] for index in range(max(reads) + 1)]
    rows = []
    for example in examples:
        targets = [_target(example, task, texts, options or {}, encoding) for task in found]
        sources = [encoding.source(example, task.prefix) for task in first]
        written = [sum(map(len, _lines(target))) for target in targets]
        lengths = (sum(map(len, sources)), *written)
        rows.append({"sources": sources, "targets": targets, "lengths": lengths})
    return rows


def _target(
    example: Example,
    task: Task,
    texts: Mapping[str, Mapping[str, str]],
    options: Mapping[str, Sequence[float]],
    encoding: Encoding,
) -> list[int] | Soft | None:
    """What a task aims at for one question."""
    if task.name == OPTIONS:
        wanted = options.get(example.id)
        if wanted is None:
            return None
        lines = [encoding.target(option, example.id) for option in example.options]
        return Soft(lines, list(wanted))
    if task.name == ANSWER:
        text = prompts.student_answer(example)
    else:
        text = texts[task.name].get(example.id, "")
    return encoding.target(text, example.id) if text.strip() else None


def _lines(target: list[int] | Soft | None) -> list[list[int]]:
    """The token sequences that a target has the student write."""
    if target is None:
        return []
    return target.tokens if isinstance(target, Soft) else [target]


@dataclass
class Collator:
    """Pads rows into one batch of tensors.

    Returns `counts` [tasks], what each task's sum is divided by: its target tokens, or questions
    for the `options` task; `tokens` [1], those read and written, without padding; and for task t
    `labels_t` [n, D]. Encoder-decoder models get `input_ids`, `attention_mask` [S, L] (a row a
    question and distinct input that some target needs), `rows_t` [n] (which of the S) and
    `decoder_t` [n, D]; decoder-only ones `input_t`, `mask_t` [n, D], where labels_t[i, j] is what
    follows position j. The `options` task has a line (of the n) an option, and
    `places_t` [Q, O], the line of each question's option or -1, with `wanted_t` [Q, O], its
    probability or 0.
    """

    encoding: Encoding
    found: Sequence[Task]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        stack: list[list[int]] = []  # encoder inputs
        places: dict[tuple[int, int], int] = {}  # (row, distinct input): its place in the stack
        counts, tokens = [], 0
        for t, read in enumerate(inputs_of(self.found, self.encoding)):
            targets = [row["targets"][t] for row in rows]
            lines = [(i, ids) for i, target in enumerate(targets) for ids in _lines(target)]
            soft = [target for target in targets if isinstance(target, Soft)]
            counts.append(len(soft) if soft else sum(len(ids) for _, ids in lines))
            if not lines:
                continue
            sources = [rows[i]["sources"][read] for i, _ in lines]
            if self.encoding.seq2seq:
                for (i, _), source in zip(lines, sources, strict=True):
                    if (i, read) not in places:
                        places[i, read] = len(stack)
                        stack.append(source)
                batch[f"rows_{t}"] = torch.tensor([places[i, read] for i, _ in lines])
                first = self.encoding.decoder_prefix(self.found[t].prefix)
                tokens += self._decoder(batch, t, [first] * len(lines), [ids for _, ids in lines])
            else:
                tokens += self._decoder(batch, t, sources, [ids for _, ids in lines])
            if soft:
                batch |= _options(t, soft)
        if stack:
            batch["input_ids"] = torch.tensor(pad(stack, self.encoding.tokenizer.pad_token_id))
            batch["attention_mask"] = torch.tensor(pad([[1] * len(ids) for ids in stack], 0))
        batch["counts"] = torch.tensor(counts)
        batch["tokens"] = torch.tensor([tokens + sum(map(len, stack))])
        return batch

    def _decoder(
        self, batch: dict[str, torch.Tensor], t: int, given: list[list[int]], lines: list[list[int]]
    ) -> int:
        """Add task t's decoder batch: each line goes on from what is given. Returns its tokens."""
        inputs = [g + line[:-1] for g, line in zip(given, lines, strict=True)]
        labels = [[IGNORED] * (len(g) - 1) + line for g, line in zip(given, lines, strict=True)]
        batch[f"labels_{t}"] = torch.tensor(pad(labels, IGNORED))
        padded = torch.tensor(pad(inputs, self.encoding.tokenizer.pad_token_id))
        if self.encoding.seq2seq:
            batch[f"decoder_{t}"] = padded
        else:
            batch[f"input_{t}"] = padded
            batch[f"mask_{t}"] = torch.tensor(pad([[1] * len(ids) for ids in inputs], 0))
        return sum(map(len, inputs))


def _options(t: int, soft: list[Soft]) -> dict[str, torch.Tensor]:
    """Which lines are whose options, and how probable each should be."""
    places, start = [], 0
    for each in soft:
        places.append(list(range(start, start + len(each.tokens))))
        start += len(each.tokens)
    width = max(map(len, places))
    wanted = [each.probabilities + [0.0] * (width - len(each.probabilities)) for each in soft]
    return {f"places_{t}": torch.tensor(pad(places, -1)), f"wanted_{t}": torch.tensor(wanted)}


class LengthGroups(torch.utils.data.Sampler):
    """Questions in random order, but so that those of one step are alike in all their lengths.

    lengths: a tuple a question, see `training_rows`; step: questions of an optimiser step.
    Questions are drawn into pools of POOL steps, a pool is halved again and again, each time along
    the length that differs most in what is to be halved, and the steps come in random order (the
    longest first, so that memory that will not do runs out at once). For FLAN-T5-small and two
    teachers on OpenBookQA, padding adds 6% to the arithmetic so, 15% with batches sorted by total
    length alone.

    The order depends on seed and epoch alone, so that a resumed run sees what the uninterrupted one
    would.
    """

    def __init__(self, lengths: Sequence[Sequence[int]], step: int, seed: int):
        self.lengths = np.array(lengths)
        self.step, self.seed, self.epoch = step, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        order = draw.permutation(len(self.lengths))
        whole = len(order) - len(order) % self.step
        size = POOL * self.step
        steps = [
            group
            for start in range(0, whole, size)
            for group in self._groups(order[start : min(start + size, whole)])
        ]
        draw.shuffle(steps)
        if self.epoch == 0 and steps:
            tokens = [self.lengths[group].sum() for group in steps]
            steps.insert(0, steps.pop(int(np.argmax(tokens))))
        return iter(np.concatenate([*steps, order[whole:]]).tolist())

    def _groups(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows (a whole number of steps) in groups of a step."""
        steps = len(rows) // self.step
        if steps <= 1:
            return [rows]
        each = self.lengths[rows]
        by = each[:, each.std(0).argmax()]
        rows = rows[by.argsort(kind="stable")]
        half = steps // 2 * self.step
        return [*self._groups(rows[:half]), *self._groups(rows[half:])]
