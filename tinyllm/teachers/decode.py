"""Decoding by a decoder-only model, where a prompt that is done makes room for the next one.

`generate` computes every row of a batch until the longest one ends. Here it runs CHUNK tokens at a
time: then rows that have ended leave, and waiting prompts take their places.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tinyllm.models import encode

CHUNK = 8  # tokens between two looks at which rows have ended


@dataclass(frozen=True)
class Rows:
    """Prompts under way, by index: prompt and what is written, padded on the left [n, L], and the
    keys and values of all tokens but the last, by layer [n, heads, L - 1, width]."""

    index: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache | None = None

    def longer(self, model: PreTrainedModel, config: GenerationConfig, tokens: int) -> Rows:
        """The same rows with at most so many more tokens."""
        config.max_new_tokens = tokens
        arguments = {"attention_mask": self.mask, "past_key_values": self.cache}
        out = model.generate(self.ids, **arguments, generation_config=config)
        mask = pad(self.mask, (0, out.sequences.shape[1] - self.ids.shape[1]), value=1)
        return Rows(self.index, out.sequences, mask, out.past_key_values)


def supported(model: PreTrainedModel) -> bool:
    """Whether rows of the model's cache can be exchanged: full attention in every layer."""
    return {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}


def refilled(
    model: PreTrainedModel, prompts: Sequence[list[int]], size: int, config: GenerationConfig
) -> Iterator[tuple[int, list[int]]]:
    """Index and new tokens of each prompt, as they end; there may be more after an end token.

    prompts: token ids, begun in this order: the longest first need the least padding.
    size: rows at a time. config: decoding settings; eos_token_id is a list.
    """
    limit, ends, config = config.max_new_tokens, set(config.eos_token_id), copy.copy(config)
    config.return_dict_in_generate = True
    waiting, parts = list(range(len(prompts))), []
    while waiting or parts:
        free = size - sum(len(keep) for _, keep in parts)
        if new := waiting[:free]:
            waiting = waiting[free:]
            ids = encode.pad([prompts[i] for i in new], config.pad_token_id, left=True)
            mask = encode.pad([[1] * len(prompts[i]) for i in new], 0, left=True)
            ids, mask = (torch.tensor(rows, device=model.device) for rows in (ids, mask))
            rows = Rows(new, ids, mask).longer(model, config, 1)
            parts.append((rows, list(range(len(new)))))
        rows = _together(parts, config.pad_token_id)
        most = max(_written(rows, prompts))
        if most < limit:
            rows = rows.longer(model, config, min(CHUNK, limit - most))
        parts = [(rows, [])]
        for place, (i, count) in enumerate(zip(rows.index, _written(rows, prompts), strict=True)):
            tokens = rows.ids[place, -count:].tolist()
            if count < limit and ends.isdisjoint(tokens):
                parts[0][1].append(place)
            else:
                yield i, tokens
        parts = [(rows, keep) for rows, keep in parts if keep]


def _written(rows: Rows, prompts: Sequence[list[int]]) -> list[int]:
    """How many tokens each row has beyond its prompt."""
    lengths = rows.mask.sum(1).tolist()
    return [length - len(prompts[i]) for i, length in zip(rows.index, lengths, strict=True)]


def _together(parts: Sequence[tuple[Rows, list[int]]], pad_id: int) -> Rows:
    """Some rows of each part as one batch, as short as its longest row. Empties the parts' caches,
    layer by layer, so that no second copy of all keys and values exists."""
    length = max(int(rows.mask[keep].sum(1).max()) for rows, keep in parts)

    def joined(tensors: Sequence[torch.Tensor], *inner: int, value: int = 0) -> torch.Tensor:
        cut = [(*inner, length - rows.ids.shape[1], 0) for rows, _ in parts]
        kept = [tensor[keep] for tensor, (_, keep) in zip(tensors, parts, strict=True)]
        return torch.cat([pad(*both, value=value) for both in zip(kept, cut, strict=True)])

    cache = []
    for layers in zip(*(rows.cache.layers for rows, _ in parts), strict=True):
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        cache.append((joined(keys, 0, 0), joined(values, 0, 0)))
        for layer in layers:
            layer.keys = layer.values = None
    index = [rows.index[place] for rows, keep in parts for place in keep]
    ids = joined([rows.ids for rows, _ in parts], value=pad_id)
    return Rows(index, ids, joined([rows.mask for rows, _ in parts]), DynamicCache(cache))
