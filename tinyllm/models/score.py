"""Scoring: which option a model gives the highest log-probability, and what it writes when asked.

The headline metric is the option with the highest length-normalised log-probability. Beside it are
the paper's exact match of generated text, and the option that this text names. Statistics over the
rows are in `tinyllm.evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinyllm import prompts
from tinyllm.data.question import Question
from tinyllm.models.encode import IGNORED, Encoding, pad, projecting_only
from tinyllm.models.extract import answer_named

SCORE_VERSION = 1
BATCH = 32  # questions, or options, per forward pass; bounds memory, changes no number
TIED = 1e-6  # options whose scores differ by less are tied


def predict(
    model: PreTrainedModel,
    encoding: Encoding,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    in_train: set[str] = frozenset(),
    batch: int = BATCH,
) -> pd.DataFrame:
    """One row per question: scores of the options, choice, generated text, what it says.

    in_train: ids of test questions that are in train too (column `in_train`).

    Besides `score_options`' columns: correct, generated, exact (the text is the gold option's;
    never for an empty text), named (index of the option that the text names, -1 where it names none
    or several), extracted (named is gold), in_train.
    """
    frame = pd.DataFrame(score_options(model, encoding, questions, batch=batch))
    frame["correct"] = frame.choice == frame.gold
    frame["generated"] = generate(
        model, encoding, questions, prompts.ANSWER_PREFIX, max_new_tokens=max_new_tokens
    )
    pairs = list(zip(frame.generated, questions, strict=True))
    frame["exact"] = [encoding.normal(q.gold) == encoding.normal(text) != "" for text, q in pairs]
    named = [answer_named(text, question.options) for text, question in pairs]
    frame["named"] = [-1 if index is None else index for index in named]
    frame["extracted"] = frame.named == frame.gold
    frame["in_train"] = frame.id.isin(in_train)
    return frame


@torch.inference_mode()
def score_options(
    model: PreTrainedModel,
    encoding: Encoding,
    questions: Sequence[Question],
    *,
    batch: int = BATCH,
) -> list[dict[str, Any]]:
    """Log-probability of every option as the answer, one encoder (or prefix) pass per question.

    Returns one dict per question, in order: id, options, gold, choice (index of the highest score),
    ties (options that share it; 1: none), scores (log-probability per token, the end token
    counted), tokens.
    """
    rows: list[dict[str, Any]] = [{}] * len(questions)
    for at, sources in _batches(model, encoding, questions, prompts.ANSWER_PREFIX, batch):
        targets = [
            [*encoding.tokens(option), encoding.tokenizer.eos_token_id]
            for i in at
            for option in questions[i].options
        ]
        owner = torch.tensor([place for place, i in enumerate(at) for _ in questions[i].options])
        sums = log_probabilities(model, encoding, sources, targets, owner)
        start = 0
        for i in at:
            question = questions[i]
            end = start + len(question.options)
            tokens = [len(ids) for ids in targets[start:end]]
            scores = [s / n for s, n in zip(sums[start:end], tokens, strict=True)]
            start = end
            rows[i] = {
                "id": question.id,
                "options": list(question.options),
                "gold": question.answer,
                "choice": max(range(len(scores)), key=scores.__getitem__),
                "ties": sum(score > max(scores) - TIED for score in scores),
                "scores": scores,
                "tokens": tokens,
            }
    return rows


def accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """Share of `score_options`' rows that are right; a tie with the gold option counts 1 / ties."""
    best = [row["scores"][row["gold"]] > max(row["scores"]) - TIED for row in rows]
    return sum(hit / row["ties"] for hit, row in zip(best, rows, strict=True)) / len(rows)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    encoding: Encoding,
    questions: Sequence[Question],
    prefix: str,
    *,
    max_new_tokens: int,
    batch: int = BATCH,
) -> list[str]:
    """What the model writes, greedily, for each question and the task with `prefix`."""
    texts = [""] * len(questions)
    tokenizer = encoding.tokenizer
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=encoding.start if encoding.seq2seq else None,
    )
    for at, sources in _batches(model, encoding, questions, prefix, batch):
        ids, mask = _padded(encoding, sources, model.device, left=not encoding.seq2seq)
        extra, skip = {}, ids.shape[1]
        if encoding.seq2seq:
            begun = torch.tensor([encoding.decoder_prefix(prefix)] * len(at), device=model.device)
            extra, skip = {"decoder_input_ids": begun}, begun.shape[1]
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        written = tokenizer.batch_decode(out[:, skip:], skip_special_tokens=True)
        for i, text in zip(at, written, strict=True):
            texts[i] = text.strip()
    return texts


def _batches(
    model: PreTrainedModel,
    encoding: Encoding,
    questions: Sequence[Question],
    prefix: str,
    batch: int,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Indices and input ids of a batch at a time, longest first."""
    model.eval()
    sources = [encoding.source(question, prefix) for question in questions]
    order = sorted(range(len(questions)), key=lambda i: -len(sources[i]))
    for start in range(0, len(order), batch):
        at = order[start : start + batch]
        yield at, [sources[i] for i in at]


def _padded(
    encoding: Encoding, rows: list[list[int]], device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [n, L]."""
    ids = torch.tensor(pad(rows, encoding.tokenizer.pad_token_id, left=left), device=device)
    mask = torch.tensor(pad([[1] * len(row) for row in rows], 0, left=left), device=device)
    return ids, mask


@dataclass(frozen=True)
class _Read:
    """What a model has read of the sources: logits of the next token [S, V], mask [S, L], the
    cache, and an encoder's states [S, L, width] (None for decoder-only models)."""

    logits: torch.Tensor
    mask: torch.Tensor
    cache: Cache
    states: torch.Tensor | None


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel,
    encoding: Encoding,
    sources: list[list[int]],
    targets: list[list[int]],
    owner: torch.Tensor,
) -> list[float]:
    """Summed log-probability of each target [n] after the source that `owner` [n] points to.

    One encoder (or prefix) pass per source, however many targets it has: that gives each first
    token and the keys and values from which the other tokens follow. Short targets are taken apart
    from long ones, BATCH at a time, so that little is padding and few copies of the cache exist.
    """
    read = (_read_seq2seq if encoding.seq2seq else _read_causal)(model, encoding, sources)
    first = torch.log_softmax(read.logits.float(), -1).cpu()
    sums = first[owner, torch.tensor([target[0] for target in targets])]
    longer = [row for row in range(len(targets)) if len(targets[row]) > 1]
    longer.sort(key=lambda row: len(targets[row]))
    for start in range(0, len(longer), BATCH):
        rows = longer[start : start + BATCH]
        inputs, seen = _padded(encoding, [targets[row][:-1] for row in rows], model.device)
        labels = torch.tensor(pad([targets[row][1:] for row in rows], IGNORED), device=model.device)
        at = owner[rows].to(model.device)
        arguments = {"past_key_values": _selected(read.cache, at), "use_cache": True}
        if read.states is not None:
            arguments |= {
                "encoder_outputs": BaseModelOutput(read.states[at.to(read.states.device)])
            }
            arguments |= {"attention_mask": read.mask[at], "decoder_input_ids": inputs}
        else:
            places = read.mask.sum(1)[at, None] + torch.arange(inputs.shape[1], device=at.device)
            arguments |= {"attention_mask": torch.cat([read.mask[at], seen], 1)}
            arguments |= {"input_ids": inputs, "position_ids": places}
        with projecting_only(model, labels != IGNORED):
            logits = model(**arguments).logits
        sums[rows] += _summed(logits, labels).cpu()
    return sums.tolist()


def _read_seq2seq(model: PreTrainedModel, encoding: Encoding, sources: list[list[int]]) -> _Read:
    ids, mask = _padded(encoding, sources, model.device)
    states = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    prefix = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
    begun = torch.tensor([prefix] * len(sources), device=model.device)
    last = torch.zeros_like(begun, dtype=torch.bool)
    last[:, -1] = True
    with projecting_only(model, last):
        out = model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask,
            decoder_input_ids=begun,
            use_cache=True,
        )
    return _Read(out.logits, mask, out.past_key_values, states)


def _read_causal(model: PreTrainedModel, encoding: Encoding, sources: list[list[int]]) -> _Read:
    ids, mask = _padded(encoding, sources, model.device, left=True)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1
    )
    return _Read(out.logits[:, -1], mask, out.past_key_values, None)


def _selected(cache: Cache, rows: torch.Tensor) -> Cache:
    """The keys and values of some rows, any of them several times; the cache itself stays."""
    if isinstance(cache, EncoderDecoderCache):
        halves = (cache.self_attention_cache, cache.cross_attention_cache)
        return EncoderDecoderCache(*(_selected(half, rows) for half in halves))
    pairs = [(layer.keys, layer.values, rows.to(layer.keys.device)) for layer in cache.layers]
    return DynamicCache([(keys[at], values[at]) for keys, values, at in pairs])


def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of the labels summed per row: logits [labels != IGNORED, V] -> [n]."""
    wanted = labels.to(logits.device) != IGNORED
    labels = labels.to(logits.device)
    losses = torch.nn.functional.cross_entropy(logits.float(), labels[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    return torch.zeros(len(labels), device=logits.device).index_add_(0, rows, -losses)
