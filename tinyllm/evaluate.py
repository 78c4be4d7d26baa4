"""Scoring: which option a model finds likeliest, and what it writes when asked.

The headline metric is the option with the highest length-normalised log-probability; beside it
stand the paper's exact match of generated text, and the option that this text names (its letter or
text, anywhere in it), which asks for the answer without asking for its form. Statistics over the
rows are in `tinyllm.stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinyllm import prompts
from tinyllm.data import Example
from tinyllm.encoding import IGNORED, Encoding, pad, projecting_only
from tinyllm.extract import answer_named

SCORE_VERSION = 1
BATCH = 32  # questions a forward pass; bounds memory, changes no number


def predict(
    model: PreTrainedModel,
    encoding: Encoding,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    in_train: set[str] = frozenset(),
) -> pd.DataFrame:
    """A row a question: scores an option, choice, generated text, exact match, option named.

    in_train: ids of test questions that stand in train too (column `in_train`).

    Besides `score_options`' columns: correct, generated, exact (the text is the gold option's),
    named (index of the option that the text names, -1 where it names none or several), extracted
    (named is gold), in_train.
    """
    frame = pd.DataFrame(score_options(model, encoding, examples))
    frame["correct"] = frame.choice == frame.gold
    frame["generated"] = generate(
        model, encoding, examples, prompts.ANSWER_PREFIX, max_new_tokens=max_new_tokens
    )
    gold = [encoding.normal(prompts.student_answer(example)) for example in examples]
    written = [encoding.normal(text) for text in frame.generated]
    frame["exact"] = [a == b for a, b in zip(gold, written, strict=True)]
    named = [
        answer_named(text, e.options) for text, e in zip(frame.generated, examples, strict=True)
    ]
    frame["named"] = [-1 if index is None else index for index in named]
    frame["extracted"] = frame.named == frame.gold
    frame["in_train"] = frame.id.isin(in_train)
    return frame


@torch.inference_mode()
def score_options(
    model: PreTrainedModel, encoding: Encoding, examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """Log-probability of every option as the answer, one encoder (or prefix) pass a question.

    Returns a dict a question, in order: id, options, gold, choice (index of the highest score),
    scores (log-probability a token, the end token counted), logprobs (summed), tokens.
    """
    rows: list[dict[str, Any]] = [{}] * len(examples)
    for at, sources in _batches(model, encoding, examples, prompts.ANSWER_PREFIX):
        targets = [
            [*encoding.tokens(option), encoding.tokenizer.eos_token_id]
            for i in at
            for option in examples[i].options
        ]
        owner = torch.tensor([q for q, i in enumerate(at) for _ in examples[i].options])
        sums = log_probabilities(model, encoding, sources, targets, owner)
        start = 0
        for i in at:
            example = examples[i]
            end = start + len(example.options)
            tokens = [len(ids) for ids in targets[start:end]]
            scores = [s / n for s, n in zip(sums[start:end], tokens, strict=True)]
            rows[i] = {
                "id": example.id,
                "options": list(example.options),
                "gold": example.answer,
                "choice": max(range(len(scores)), key=scores.__getitem__),
                "scores": scores,
                "logprobs": sums[start:end],
                "tokens": tokens,
            }
            start = end
    return rows


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel,
    encoding: Encoding,
    sources: list[list[int]],
    targets: list[list[int]],
    owner: torch.Tensor,
) -> list[float]:
    """Summed log-probability of each target [n] after the source that `owner` [n] points to.

    One encoder (or prefix) pass a source, however many targets it has.
    """
    score = _score_seq2seq if encoding.seq2seq else _score_causal
    return score(model, encoding, sources, targets, owner.to(model.device)).tolist()


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    encoding: Encoding,
    examples: Sequence[Example],
    prefix: str,
    *,
    max_new_tokens: int,
) -> list[str]:
    """What the model writes, greedily, for each question and the task with `prefix`."""
    texts = [""] * len(examples)
    tokenizer = encoding.tokenizer
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=encoding.start if encoding.seq2seq else None,
    )
    for at, sources in _batches(model, encoding, examples, prefix):
        ids, mask = _padded(encoding, sources, model.device, left=not encoding.seq2seq)
        extra = {}
        if encoding.seq2seq:
            first = torch.tensor([encoding.decoder_prefix(prefix)] * len(at), device=model.device)
            extra["decoder_input_ids"] = first
            skip = first.shape[1]
        else:
            skip = ids.shape[1]
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        for i, text in zip(
            at, tokenizer.batch_decode(out[:, skip:], skip_special_tokens=True), strict=True
        ):
            texts[i] = text.strip()
    return texts


def _batches(
    model: PreTrainedModel, encoding: Encoding, examples: Sequence[Example], prefix: str
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Indices and input ids of a batch at a time, longest first."""
    model.eval()
    sources = [encoding.source(example, prefix) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: -len(sources[i]))
    for start in range(0, len(order), BATCH):
        at = order[start : start + BATCH]
        yield at, [sources[i] for i in at]


def _padded(
    encoding: Encoding, rows: list[list[int]], device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [n, L]."""
    ids = torch.tensor(pad(rows, encoding.tokenizer.pad_token_id, left=left), device=device)
    mask = torch.tensor(pad([[1] * len(row) for row in rows], 0, left=left), device=device)
    return ids, mask


def _summed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of the labels summed a row: logits [labels != IGNORED, V] -> [n]."""
    wanted = labels != IGNORED
    each = -torch.nn.functional.cross_entropy(logits.float(), labels[wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    return torch.zeros(len(labels), device=labels.device).index_add_(0, rows, each)


def _score_seq2seq(
    model: PreTrainedModel,
    encoding: Encoding,
    sources: list[list[int]],
    targets: list[list[int]],
    owner: torch.Tensor,
) -> torch.Tensor:
    """Summed log-probability of each target [n] given the source `owner` [n] points to.

    The decoder reads the task's prefix once a source, which gives each first token and what the
    cross-attention sees of the source (its keys and values); the other tokens follow from there,
    short targets apart from long ones, so that few of them are padding.
    """
    ids, mask = _padded(encoding, sources, model.device)
    states = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    prefix = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
    begun = torch.tensor([prefix] * len(sources), device=model.device)
    last = torch.zeros_like(begun, dtype=torch.bool)
    last[:, -1] = True
    with projecting_only(model, last):
        read = model(
            encoder_outputs=BaseModelOutput(states),
            attention_mask=mask,
            decoder_input_ids=begun,
            use_cache=True,
        )
    first = torch.log_softmax(read.logits.float(), -1)
    sums = first[owner, torch.tensor([t[0] for t in targets], device=model.device)]
    longer = [row for row in range(len(targets)) if len(targets[row]) > 1]
    longer.sort(key=lambda row: len(targets[row]))
    for start in range(0, len(longer), BATCH):
        rows = longer[start : start + BATCH]
        inputs, _ = _padded(encoding, [targets[row][:-1] for row in rows], model.device)
        labels = torch.tensor(pad([targets[row][1:] for row in rows], IGNORED), device=model.device)
        at = torch.tensor(rows, device=model.device)
        whose = owner[at]
        with projecting_only(model, labels != IGNORED):
            logits = model(
                encoder_outputs=BaseModelOutput(states[whose]),
                attention_mask=mask[whose],
                decoder_input_ids=inputs,
                past_key_values=_selected(read.past_key_values, whose),
                use_cache=True,
            ).logits
        sums[at] += _summed(logits, labels)
    return sums


def _selected(cache: EncoderDecoderCache, rows: torch.Tensor) -> EncoderDecoderCache:
    """The keys and values of some rows, any of them several times; the cache itself stays."""
    halves = [
        DynamicCache([(layer.keys[rows], layer.values[rows]) for layer in half.layers])
        for half in (cache.self_attention_cache, cache.cross_attention_cache)
    ]
    return EncoderDecoderCache(*halves)


def _score_causal(
    model: PreTrainedModel,
    encoding: Encoding,
    sources: list[list[int]],
    targets: list[list[int]],
    owner: torch.Tensor,
) -> torch.Tensor:
    """As _score_seq2seq for decoder-only models, with one pass over each question."""
    ids, mask = _padded(encoding, sources, model.device, left=True)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
    )
    first = torch.log_softmax(read.logits[:, -1].float(), -1)
    sums = first[owner, torch.tensor([t[0] for t in targets], device=model.device)]
    if max(map(len, targets)) == 1:
        return sums
    cache = read.past_key_values
    cache.batch_select_indices(owner)
    inputs, seen = _padded(encoding, [t[:-1] for t in targets], model.device)
    labels = torch.tensor(pad([t[1:] for t in targets], IGNORED), device=model.device)
    lengths = mask.sum(1)[owner]
    with projecting_only(model, labels != IGNORED):
        logits = model(
            input_ids=inputs,
            attention_mask=torch.cat([mask[owner], seen], 1),
            position_ids=lengths[:, None] + torch.arange(inputs.shape[1], device=model.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
    return sums + _summed(logits, labels)
