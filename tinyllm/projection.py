"""The output layer, only where there are targets: most of a small student's work is there.

A vocabulary of 30 000 tokens makes the projection to it the largest product of a small model, and
the logits its largest tensor. So the layer sees only the positions that have a target; and in
training on a CPU the logits are made a piece at a time, small enough to stay in the cache, with
their gradient at once (as in Wijmans et al. 2024, *Cut your losses*, and Hsu et al. 2024, *Liger
kernel*, on GPUs). benchmarks/precision.py measures it. torch's own `linear_cross_entropy`, which
does the same, took 2.8 times as long as the whole logits there (torch 2.13, one thread).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from tinyllm import models
from tinyllm.encoding import IGNORED

# Models whose logits are what the output layer gives, with nothing done to them afterwards.
PLAIN = {"bert", "llama", "t5"}
# Targets of a piece: for a vocabulary of 30 000, 32 MB of logits in fp32. Pieces of 96 to 512 make
# the products within 15% as fast.
PIECE = 256


@contextmanager
def projecting_only(model: PreTrainedModel, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the output layer sees only the positions where `wanted` [n, D] is True.

    The logits then have shape [wanted.sum(), vocabulary].
    """
    layer = _owner(model).get_output_embeddings()
    handle = layer.register_forward_pre_hook(lambda _, given: (given[0][wanted],))
    try:
        yield
    finally:
        handle.remove()


def cross_entropy(
    model: PreTrainedModel, run: Callable[[], torch.Tensor], labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy to labels [n, D], summed over those that are not IGNORED.

    run: calls the model and gives its logits.
    """
    wanted = labels != IGNORED
    owner = _owner(model)
    layer = owner.get_output_embeddings()
    if not _in_pieces(owner, layer):
        with projecting_only(model, wanted):
            logits = run().float()
        return nn.functional.cross_entropy(logits, labels[wanted], reduction="sum")
    layer.forward = lambda states: states[wanted]  # the product is left to the pieces
    try:
        states = run()
    finally:
        del layer.forward
    return _Pieces.apply(states, layer.weight, layer.bias, labels[wanted])


def _owner(model: PreTrainedModel) -> PreTrainedModel:
    """The model that has the output layer."""
    model = models.bare(model)
    return model.decoder if model.config.model_type == "encoder-decoder" else model


def _in_pieces(owner: PreTrainedModel, layer: nn.Module) -> bool:
    """True where pieces give the same and are faster: in fp32 on a CPU."""
    return (
        owner.config.model_type in PLAIN
        and type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class _Pieces(torch.autograd.Function):
    """Summed cross-entropy of softmax(states W' + b) to labels, its gradient made beside it.

    states [N, d]; weight W [V, d]; bias b [V] or None; labels [N]. Logits stand as [V, piece]: made
    so, they take 0.7 of the time that [piece, V] takes (AVX2, one thread).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        loss = states.new_zeros(())
        needs = ctx.needs_input_grad
        to_states = torch.empty_like(states) if needs[0] else None
        new = torch.empty_like if len(states) else torch.zeros_like  # the first piece fills it
        to_weight = new(weight) if needs[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and needs[2] else None
        for start in range(0, len(states), PIECE):
            some, gold = states[start : start + PIECE], labels[start : start + PIECE]
            every = torch.arange(len(some))
            logits = weight @ some.T  # [V, piece]
            if bias is not None:
                logits += bias[:, None]
            logits -= logits.amax(0)
            loss -= logits[gold, every].sum()
            total = logits.exp_().sum(0)
            loss += total.log().sum()
            if not any(needs):
                continue
            logits /= total  # the softmax, and less 1 at the labels the gradient
            logits[gold, every] -= 1.0
            if to_states is not None:
                to_states[start : start + PIECE] = logits.T @ weight
            if to_weight is not None:
                torch.addmm(to_weight, logits, some, beta=min(start, 1), out=to_weight)
            if to_bias is not None:
                to_bias += logits.sum(1)
        ctx.gradients = to_states, to_weight, to_bias
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        if found is None:
            raise RuntimeError("the gradient was scaled in place, and can be asked for once only")
        return *(None if each is None else each.mul_(by) for each in found), None
