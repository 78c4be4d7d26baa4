"""Training one student: the multi-task forward pass, and transformers' Trainer around it.

Each task's loss is a mean over the tokens of its own targets, so that a long rationale does not
outweigh the answer; the mean is taken over all rows of an optimiser step, so that accumulation and
several processes change nothing. Rows without a rationale add nothing.

One forward call a step: the encoder runs once over the distinct inputs of all tasks stacked, the
decoder runs a task at a time, and the vocabulary is projected to at the targets only.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_utils import get_last_checkpoint

from tinyllm import models, runs
from tinyllm.batches import Collator, LengthGroups
from tinyllm.encoding import IGNORED, projecting_only
from tinyllm.params import Params
from tinyllm.tasks import ANSWER, Task

WEIGHT_DECAY = 0.0
MAX_GRAD_NORM = 1.0


class MultiTask(nn.Module):
    """A student that is asked for every task of a batch in one forward call."""

    def __init__(self, model: PreTrainedModel, found: Sequence[Task]):
        super().__init__()
        self.model = model
        self.temperatures = [task.temperature for task in found]

    def forward(
        self, counts: torch.Tensor, tokens: torch.Tensor | None = None, **batch: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy of each task, summed over its target tokens (or questions): [tasks].

        The batch is a Collator's; `tokens` is not the model's business.
        """
        states = mask = None
        if "input_ids" in batch:
            mask = batch["attention_mask"]
            encoder = models.bare(self.model).get_encoder()
            states = encoder(input_ids=batch["input_ids"], attention_mask=mask)[0]
        sums = []
        for t, temperature in enumerate(self.temperatures):
            if f"labels_{t}" not in batch:
                sums.append(counts.new_zeros((), dtype=torch.float32))
                continue
            labels = batch[f"labels_{t}"]
            wanted = labels != IGNORED
            with projecting_only(self.model, wanted):
                logits = self._logits(t, states, mask, batch).float()
            if f"places_{t}" in batch:
                losses = nn.functional.cross_entropy(logits, labels[wanted], reduction="none")
                places, target = batch[f"places_{t}"], batch[f"wanted_{t}"]
                sums.append(_soft_loss(losses, wanted, places, target, temperature))
            else:
                sums.append(nn.functional.cross_entropy(logits, labels[wanted], reduction="sum"))
        return torch.stack(sums)

    def _logits(
        self,
        t: int,
        states: torch.Tensor | None,
        mask: torch.Tensor | None,
        batch: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Logits at the positions of task t that have a target: [targets, vocabulary]."""
        if states is None:
            ids, mask = batch[f"input_{t}"], batch[f"mask_{t}"]
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        at = batch[f"rows_{t}"]
        return self.model(
            encoder_outputs=BaseModelOutput(states[at]),
            attention_mask=mask[at],
            decoder_input_ids=batch[f"decoder_{t}"],
            use_cache=False,
        ).logits

    def state_dict(self, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps: each trained tensor once (tied embeddings are one tensor)."""
        state = super().state_dict(*args, **options)
        trained = {id(p) for p in self.parameters() if p.requires_grad}
        named = dict(self.named_parameters())  # names every tied tensor once
        prefix = options.get("prefix", "")
        return {
            name: tensor
            for name, tensor in state.items()
            if (bare := name.removeprefix(prefix)) in named and id(named[bare]) in trained
        }


def _soft_loss(
    losses: torch.Tensor,
    wanted: torch.Tensor,
    places: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Cross-entropy to a target distribution over options, summed over questions.

    losses: of each target token; wanted: [lines, D], where those stand; places, target: [Q, O] as
    in Collator. The student's logit of an option is its log-probability a token.
    """
    lines = wanted.nonzero()[:, 0]
    total = losses.new_zeros(len(wanted)).index_add(0, lines, -losses)
    scores = (total / wanted.sum(1))[places.clamp(min=0)] / temperature
    absent = places < 0
    logs = torch.log_softmax(scores.masked_fill(absent, -torch.inf), 1).masked_fill(absent, 0.0)
    return -(target * logs).sum()


class DistillTrainer(Trainer):
    """transformers' Trainer with the multi-task loss and option scoring on valid.

    scorer: gives the scored rows of valid (see evaluate.score_options).
    history: the learning curves, a row a step, split, task and metric.
    tokens: read and written in training so far, by all processes, without padding.
    """

    # compute_loss already divides by the tokens of the whole step (transformers#47688).
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: MultiTask,
        rows: list[dict[str, Any]],
        *,
        found: list[Task],
        params: Params,
        scorer: Callable[[], list[dict[str, Any]]],
        collator: Collator,
        folder: Path,
        seed: int,
    ):
        super().__init__(
            model=model,
            args=_arguments(params, len(rows), folder, seed),
            train_dataset=rows,
            eval_dataset=rows[:1],  # must not be None; `evaluate` below asks the scorer instead
            data_collator=collator,
        )
        # What fp32 products are computed in on GPUs that have TF32; nothing to other devices.
        product = "tf32" if params.precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = product
        self.remove_callback(PrinterCallback)
        if params.patience:
            self.add_callback(EarlyStoppingCallback(params.patience))
        self.found, self.params, self.scorer = found, params, scorer
        self.weights = torch.tensor([task.weight for task in found])
        self.sums = torch.zeros(len(found), dtype=torch.float64)
        self.seen = torch.zeros(len(found), dtype=torch.float64)
        self.read = torch.zeros(1, dtype=torch.float64)
        self.history: list[dict[str, Any]] = []
        self.tokens = 0

    def last_checkpoint(self) -> str | None:
        """Where a stopped run goes on, or None."""
        folder = self.args.output_dir
        return get_last_checkpoint(folder) if os.path.isdir(folder) else None

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = [row["lengths"] for row in self.train_dataset]
        return LengthGroups(lengths, step * self.args.world_size, self.args.seed)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """What each task's sum is divided by, over all passes and processes of a step: [tasks]."""
        counts = torch.stack([batch["counts"] for batch in batch_samples]).sum(0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return counts

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None
    ) -> torch.Tensor:
        """Weighted sum over tasks of the token means of the whole step."""
        sums = model(**inputs)
        loss = (self.weights.to(sums) * sums / num_items_in_batch.clamp(min=1)).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step}: lower lr "
                f"(now {self.args.learning_rate:g}), or set precision: fp32"
            )
        self.sums += sums.detach().cpu().double()
        self.seen += inputs["counts"].cpu().double()
        self.read += inputs["tokens"].cpu().double()
        # Processes average their gradients; each holds its part of one sum.
        return loss * self.args.world_size

    def _record(self, split: str, task: str, metric: str, value: float) -> None:
        at = {"step": self.state.global_step, "epoch": round(self.state.epoch or 0.0, 4)}
        self.history.append(at | {"split": split, "task": task, "metric": metric, "value": value})

    def _take_means(self) -> None:
        """Record the mean loss of each task since the last time, and count the tokens."""
        both = torch.cat([self.sums, self.seen, self.read])
        if self.args.world_size > 1:
            both = self.accelerator.reduce(both.to(self.args.device), reduction="sum").cpu()
        sums, seen, read = both.split([len(self.found), len(self.found), 1])
        for task, total, count in zip(self.found, sums.tolist(), seen.tolist(), strict=True):
            if count:
                self._record("train", task.name, "loss", total / count)
        self.tokens += int(read)
        for each in (self.sums, self.seen, self.read):
            each.zero_()

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Score valid as the study scores test: accuracy of the likeliest option."""
        self._take_means()
        scored = self.scorer()
        right = sum(row["choice"] == row["gold"] for row in scored)
        metrics = {"eval_accuracy": right / len(scored)}
        self._record("valid", ANSWER, "accuracy", metrics["eval_accuracy"])
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; weights that are not pretrained may have a higher rate (models.Alias)."""
        if self.optimizer is None:
            groups: dict[float, list[nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    factor = models.learning_rate_factor(self.params.student, name)
                    groups.setdefault(factor, []).append(parameter)
            self.optimizer = torch.optim.AdamW(
                [{"params": p, "lr": self.params.lr * f} for f, p in groups.items()],
                lr=self.params.lr,
                weight_decay=WEIGHT_DECAY,
                fused=True,
            )
        return self.optimizer

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        super()._save_checkpoint(*args, **options)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            runs.write_json(
                folder / "history.json", {"history": self.history, "tokens": self.tokens}
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / "history.json"
        kept = json.loads(file.read_text(encoding="utf-8"))
        self.history, self.tokens = kept["history"], kept["tokens"]

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Tied and frozen tensors are left out of a checkpoint on purpose: nothing to warn of."""


def steps_of(params: Params, questions: int) -> tuple[int, int]:
    """Optimiser steps of a run, and every how many valid is scored (the last step included)."""
    step = params.batch_size * params.accumulation * params.nproc
    total = max(1, math.ceil(params.epochs * questions / step))
    every = math.ceil(total / params.evals)
    return every * max(1, round(total / every)), every


def _arguments(params: Params, questions: int, folder: Path, seed: int) -> TrainingArguments:
    """The Trainer's settings for a study's parameters."""
    steps, every = steps_of(params, questions)
    gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        learning_rate=params.lr,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(params.warmup * steps),
        max_grad_norm=MAX_GRAD_NORM,
        bf16=models.precision(params.precision) == torch.bfloat16,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        seed=seed,
        use_cpu=not gpu,
        ddp_backend="gloo" if params.nproc > 1 and not gpu else None,
    )


class Progress(TrainerCallback):
    """Calls `say(share of training done)` now and then."""

    def __init__(self, say: Callable[[float], None]):
        self.say, self.last = say, 0.0

    def on_step_end(self, args, state, control, **options):
        if time.monotonic() - self.last > 1.0:
            self.last = time.monotonic()
            self.say(state.global_step / max(1, state.max_steps))


def memory_remedy(params: Params, error: BaseException) -> str | None:
    """What to lower where memory ran out; None if the error is another one."""
    # A GPU raises OutOfMemoryError; the CPU's allocator a RuntimeError with these words.
    out = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    return (
        f"out of memory: lower batch_size (now {params.batch_size}) and raise accumulation "
        f"(now {params.accumulation}) by the same factor, or set checkpointing: true"
        if out
        else None
    )
