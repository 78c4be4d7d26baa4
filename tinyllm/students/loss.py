"""The paper's loss, and the forward pass that computes its terms.

    L = L_A + sum_m alpha^m L_Tm          each L is a mean over its own target tokens

so a long rationale does not outweigh the answer. In one forward call per batch the encoder runs
once over the distinct inputs of all tasks, the decoder runs once per task, and logits are computed
only at targets.

In the arm `tinyllm:alpha-auto`, alpha^m = L_A / L_Tm, computed from running means without gradient:
the optimal weights under homoscedastic uncertainty (Kendall et al. 2018; Kirchdorfer et al. 2024,
arXiv 2408.07985), scaled so that the answer's weight is 1.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tinyllm.models.encode import IGNORED, projecting_only
from tinyllm.students.targets import Task


class MultiTask(nn.Module):
    """A student that computes the losses of all tasks of a batch in one forward call."""

    def __init__(self, model: PreTrainedModel, tasks: Sequence[Task]):
        super().__init__()
        self.model = model
        self.temperatures = [task.temperature for task in tasks]

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of each task, summed over its target tokens (or questions): [tasks]."""
        states = None
        if "input_ids" in batch:
            encoder = self.model.get_encoder()
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            states = encoder(**inputs)[0]
        sums = []
        for t, temperature in enumerate(self.temperatures):
            if f"labels_{t}" not in batch:
                sums.append(torch.zeros((), device=batch["counts"].device))
                continue
            labels = batch[f"labels_{t}"]
            wanted = labels != IGNORED
            if states is None:
                inputs = {"input_ids": batch[f"input_{t}"], "attention_mask": batch[f"mask_{t}"]}
            else:
                at = batch[f"rows_{t}"]
                inputs = {"encoder_outputs": BaseModelOutput(states[at])}
                inputs["attention_mask"] = batch["attention_mask"][at]
                inputs["decoder_input_ids"] = batch[f"decoder_{t}"]
            with projecting_only(self.model, wanted):  # logits: [targets, vocabulary]
                logits = self.model(**inputs, use_cache=False).logits
            losses = token_losses(logits, labels[wanted])
            if f"sizes_{t}" in batch:
                target, sizes = batch[f"probabilities_{t}"], batch[f"sizes_{t}"].tolist()
                sums.append(_options_loss(losses, wanted, target, sizes, temperature))
            else:
                sums.append(losses.sum())
        return torch.stack(sums)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row of logits [N, vocabulary] with its label [N], in float32: [N].

    Computed in chunks of rows, and again in the backward pass: all logits in float32 would take
    more memory and, on a CPU, more time. Small chunks fit a CPU's cache; a GPU needs large ones.
    """
    size = 64 if logits.device.type == "cpu" else 4096
    pairs = zip(logits.split(size), labels.split(size), strict=True)
    how = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(_cross_entropy, *pair, **how) for pair in pairs])


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def _options_loss(
    losses: torch.Tensor,
    wanted: torch.Tensor,
    probabilities: torch.Tensor,
    sizes: list[int],
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy to a target distribution over options, summed over questions.

    losses: of each target token. wanted: [lines, D], True at target tokens. probabilities, sizes:
    see Collator. The student's logit of an option is its log-probability per token.
    """
    lines = wanted.nonzero()[:, 0]
    totals = losses.new_zeros(len(wanted)).index_add(0, lines, losses)
    logits = -totals / wanted.sum(1) / temperature
    pairs = zip(logits.split(sizes), probabilities.split(sizes), strict=True)
    return sum(nn.functional.cross_entropy(mine, target) for mine, target in pairs)


def weighted_loss(sums: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """L: the weighted sum over tasks of sums [tasks] / counts [tasks]."""
    return (weights * sums / counts.clamp(min=1)).sum()


MEMORY = 0.9  # weight of the old value in running means


def running(means: list[float], sums: torch.Tensor, counts: torch.Tensor) -> list[float]:
    """Update the running mean of each task's loss; steps without its targets do not change it."""
    new = (sums / counts.clamp(min=1)).tolist()
    pairs = zip(means or [0.0] * len(new), new, strict=True)
    kept, added = MEMORY, 1 - MEMORY
    return [kept * old + added * now if old and now else old or now for old, now in pairs]


def task_weights(tasks: Sequence[Task], means: Sequence[float]) -> list[float]:
    """Weight of each task; for `auto` tasks the answer's mean loss over their own, once known."""
    known = zip(tasks, means, strict=True) if means else [(task, 0.0) for task in tasks]
    return [means[0] / mean if task.auto and mean else task.weight for task, mean in known]
