"""Scoring: the option with the highest log-probability, and the answer that a model generates.

The main metric is based on the option with the highest length-normalised log-probability. Also
recorded are the paper's exact match of generated text, and the option that this text names.
Statistics over the rows are in `tinyllm.evaluation`.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pandas as pd
import torch
from transformers import Cache, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinyllm import prompts
from tinyllm.data.question import Question
from tinyllm.models.encode import IGNORED, Encoding, pad, projecting_only
from tinyllm.models.extract import answer_named

SCORE_VERSION = 1
BATCH = 32  # questions, or options, per forward pass; limits memory, does not change results
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
    """Predictions, one row per question: the columns of `score_options`, and

    correct, generated, exact (the text equals the gold option; False for an empty text), named
    (index of the option that the text names, -1 for none or several), extracted (named is gold),
    in_train (the question's id is in the argument `in_train`).
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
    ties (number of options that share it; 1: no tie), scores (log-probability per token, including
    the end token), tokens (of each option).
    """
    model.eval()
    rows: list[dict[str, Any]] = [{}] * len(questions)
    encoded = [encoding.source(question, prompts.ANSWER_PREFIX) for question in questions]
    end = encoding.tokenizer.eos_token_id
    for at in batches(encoded, batch):
        targets = [[[*encoding.tokens(o), end] for o in questions[i].options] for i in at]
        means = log_probabilities(model, encoding, [encoded[i] for i in at], targets)
        for i, scores, ids in zip(at, means, targets, strict=True):
            rows[i] = {
                "id": questions[i].id,
                "options": list(questions[i].options),
                "gold": questions[i].answer,
                "choice": scores.index(max(scores)),
                "ties": sum(score > max(scores) - TIED for score in scores),
                "scores": scores,
                "tokens": [len(target) for target in ids],
            }
    return rows


def accuracy(rows: Sequence[dict[str, Any]]) -> float:
    """Share of correct rows of `score_options`; a tie with the gold option counts 1 / ties."""
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
) -> list[str]:
    """Greedily generated text for each question, for the task with `prefix`.

    It has at most `max_new_tokens` tokens, and no more than fit into the model's positions.
    """
    model.eval()
    texts, tokenizer = [""] * len(questions), encoding.tokenizer
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=encoding.start,
    )
    sources = [encoding.source(question, prefix) for question in questions]
    for at in batches(sources, BATCH):
        rows = [sources[i] for i in at]
        ids, mask = _padded(encoding, rows, model.device, left=not encoding.seq2seq)
        extra, skip = {}, ids.shape[1]
        if encoding.seq2seq:
            begun = torch.tensor([encoding.decoder_prefix(prefix)] * len(at), device=model.device)
            extra, skip = {"decoder_input_ids": begun}, begun.shape[1]
        if encoding.limit:  # the last token is not read
            extra["max_new_tokens"] = min(max_new_tokens, encoding.limit - skip + 1)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **extra)
        written = tokenizer.batch_decode(out[:, skip:], skip_special_tokens=True)
        for i, text in zip(at, written, strict=True):
            texts[i] = text.strip()
    return texts


def batches(rows: Sequence[list[int]], size: int) -> Iterator[list[int]]:
    """Yield the indices of one batch at a time, longest rows first, so that padding is small.

    Only the first batch may be smaller than `size`, so a resumed run forms the same later batches.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), rows[i]))
    while order:
        count = len(order) % size or size
        yield order[:count]
        order = order[count:]


def _padded(
    encoding: Encoding, rows: list[list[int]], device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask [n, L]."""
    side = "left" if left else "right"
    padded = encoding.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
    return padded["input_ids"].to(device), padded["attention_mask"].to(device)


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel,
    encoding: Encoding,
    sources: list[list[int]],
    targets: list[list[list[int]]],
) -> list[list[float]]:
    """Log-probability per token of each target of each source.

    One encoder (or prefix) pass per source gives the scores of first tokens, and the cache for the
    other tokens. These are scored in batches of BATCH targets of similar length.
    """
    owner = torch.tensor([source for source, group in enumerate(targets) for _ in group])
    flat = [target for group in targets for target in group]
    logits, mask, cache, states = _read(model, encoding, sources)
    first = torch.log_softmax(logits.float(), -1).cpu()
    sums = first[owner, torch.tensor([target[0] for target in flat])]
    longer = [row for row in range(len(flat)) if len(flat[row]) > 1]
    longer.sort(key=lambda row: len(flat[row]))
    for start in range(0, len(longer), BATCH):
        rows = longer[start : start + BATCH]
        at = owner[rows]
        inputs, seen = _padded(encoding, [flat[row][:-1] for row in rows], model.device)
        labels = torch.tensor(pad([flat[row][1:] for row in rows], IGNORED), device=model.device)
        known = copy.deepcopy(cache)
        known.batch_select_indices(at)
        arguments = {"past_key_values": known, "use_cache": True}
        if encoding.seq2seq:
            arguments |= {"encoder_outputs": BaseModelOutput(states[at])}
            arguments |= {"attention_mask": mask[at], "decoder_input_ids": inputs}
        else:
            places = mask.sum(1)[at, None] + torch.arange(inputs.shape[1], device=mask.device)
            arguments |= {"attention_mask": torch.cat([mask[at], seen], 1)}
            arguments |= {"input_ids": inputs, "position_ids": places}
        wanted = labels != IGNORED
        with projecting_only(model, wanted):
            logits = model(**arguments).logits.float()
        labels = labels[wanted].to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").cpu()
        row_of = wanted.nonzero()[:, 0].cpu()
        sums[rows] += torch.zeros(len(rows)).index_add_(0, row_of, -losses)
        del known, arguments  # before the next copy of the cache
    means = (total / len(target) for total, target in zip(sums.tolist(), flat, strict=True))
    return [list(islice(means, len(group))) for group in targets]


def _read(
    model: PreTrainedModel, encoding: Encoding, sources: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor, Cache, torch.Tensor | None]:
    """Logits of the token after each source [S, V], the sources' mask [S, L], the cache, and an
    encoder's states [S, L, width] (None for decoder-only models)."""
    ids, mask = _padded(encoding, sources, model.device, left=not encoding.seq2seq)
    states = None
    if encoding.seq2seq:
        states = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        prefix = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
        read = torch.tensor([prefix] * len(sources), device=model.device)
        arguments = {"encoder_outputs": BaseModelOutput(states), "decoder_input_ids": read}
    else:
        read = ids
        arguments = {"input_ids": ids, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    last = torch.zeros_like(read, dtype=torch.bool)
    last[:, -1] = True
    with projecting_only(model, last):
        out = model(**arguments, attention_mask=mask, use_cache=True)
    return out.logits, mask, out.past_key_values, states
