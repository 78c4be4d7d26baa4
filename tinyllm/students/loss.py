"""The paper's loss, and the forward pass that gives its parts.

    L = L_A + sum_m alpha^m L_Tm          each L is a mean over its own target tokens

so a long rationale does not outweigh the answer. In one forward call per batch the encoder runs
once over the distinct inputs of all tasks, the decoder one task at a time, and the vocabulary is
projected to at targets only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinyllm.models import load
from tinyllm.models.encode import IGNORED, projecting_only
from tinyllm.students.targets import Task


class MultiTask(nn.Module):
    """A student that is asked for every task of a batch in one forward call."""

    def __init__(self, model: PreTrainedModel, tasks: Sequence[Task]):
        super().__init__()
        self.model = model
        self.temperatures = [task.temperature for task in tasks]

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of each task, summed over its target tokens (or questions): [tasks]."""
        states = None
        if "input_ids" in batch:
            encoder = load.bare(self.model).get_encoder()
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            states = encoder(**inputs)[0]
        sums = []
        for t, temperature in enumerate(self.temperatures):
            if f"labels_{t}" not in batch:
                sums.append(torch.zeros((), device=batch["counts"].device))
                continue
            labels = batch[f"labels_{t}"]
            wanted = labels != IGNORED
            with projecting_only(self.model, wanted):
                logits = self._logits(t, states, batch).float()
            losses = nn.functional.cross_entropy(logits, labels[wanted], reduction="none")
            if f"places_{t}" in batch:
                places, target = batch[f"places_{t}"], batch[f"wanted_{t}"]
                sums.append(_options_loss(losses, wanted, places, target, temperature))
            else:
                sums.append(losses.sum())
        return torch.stack(sums)

    def _logits(
        self, t: int, states: torch.Tensor | None, batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Logits at the positions of task t that have a target: [targets, vocabulary]."""
        if states is None:
            ids, mask = batch[f"input_{t}"], batch[f"mask_{t}"]
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        at = batch[f"rows_{t}"]
        return self.model(
            encoder_outputs=BaseModelOutput(states[at]),
            attention_mask=batch["attention_mask"][at],
            decoder_input_ids=batch[f"decoder_{t}"],
            use_cache=False,
        ).logits


def _options_loss(
    losses: torch.Tensor,
    wanted: torch.Tensor,
    places: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy to a target distribution over options, summed over questions.

    losses: of each target token; wanted: [lines, D], where those are; places, target: [Q, O] as in
    Collator. The student's logit of an option is its log-probability per token.
    """
    lines = wanted.nonzero()[:, 0]
    total = losses.new_zeros(len(wanted)).index_add(0, lines, -losses)
    scores = (total / wanted.sum(1))[places.clamp(min=0)] / temperature
    absent = places < 0
    logs = torch.log_softmax(scores.masked_fill(absent, -torch.inf), 1).masked_fill(absent, 0.0)
    return -(target * logs).sum()


def weighted_loss(sums: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """L: the weighted sum over tasks of sums [tasks] / counts [tasks]."""
    return (weights * sums / counts.clamp(min=1)).sum()
