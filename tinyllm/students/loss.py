"""The paper's loss, and the forward pass that gives its parts.

    L = L_A + sum_m alpha^m L_Tm          each L is a mean over its own target tokens

so a long rationale does not outweigh the answer. In one forward call per batch the encoder runs
once over the distinct inputs of all tasks, the decoder one task at a time, and the vocabulary is
projected to at targets only.

In the arm `tinyllm:alpha-auto`, alpha^m = L_A / L_Tm, of running means that pass no gradient. So
weighs homoscedastic uncertainty (Kendall et al. 2018) where each uncertainty is at its optimum
(Kirchdorfer et al. 2024, arXiv 2408.07985), if the answer's weight is set to 1.
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
                logits = self._logits(t, states, batch)
            losses = TokenLosses.apply(logits, labels[wanted])
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


class TokenLosses(torch.autograd.Function):
    """Cross-entropy of each row of logits [N, vocabulary] with its label [N], in float32: [N].

    torch's own numbers, a few rows at a time: only the logits and their gradient are ever held
    whole, in the model's precision. For 30,000 words and bf16 on a CPU, output layer and loss take
    0.6 of the time.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses, totals = [], []
        for rows in TokenLosses.pieces(logits):
            part, label = logits[rows].float(), labels[rows, None]
            totals.append(part.logsumexp(1, keepdim=True))
            losses.append((totals[-1] - part.gather(1, label))[:, 0])
        ctx.save_for_backward(logits, labels, torch.cat(totals))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, totals = ctx.saved_tensors
        whole = torch.empty_like(logits)
        for rows in TokenLosses.pieces(logits):
            part = (logits[rows].float() - totals[rows]).exp_()  # the softmax
            label = labels[rows, None]
            part.scatter_(1, label, part.gather(1, label) - 1)
            whole[rows] = part.mul_(gradient[rows, None])
        return whole, None

    @staticmethod
    def pieces(logits: torch.Tensor) -> list[slice]:
        """Rows that are worked on together: few fit a processor's cache, a GPU wants many."""
        size = 64 if logits.device.type == "cpu" else 4096
        return [slice(start, start + size) for start in range(0, len(logits), size)]


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


MEMORY = 0.9  # of the running means


def running(means: list[float], sums: torch.Tensor, counts: torch.Tensor) -> list[float]:
    """Running mean of each task's loss after a step: 0 before its first target, else kept."""
    new = (sums / counts.clamp(min=1)).tolist()
    pairs = zip(means or [0.0] * len(new), new, strict=True)
    mixed = MEMORY, 1 - MEMORY
    return [mixed[0] * old + mixed[1] * now if old and now else old or now for old, now in pairs]


def task_weights(tasks: Sequence[Task], means: Sequence[float]) -> list[float]:
    """Each task's weight; where it is `auto`, the answer's mean loss over its own, once known."""
    known = zip(tasks, means, strict=True) if means else [(task, 0.0) for task in tasks]
    return [means[0] / mean if task.auto and mean else task.weight for task, mean in known]
