"""The training loop of one student: resumable, in one process or several, best weights by valid.

Losses are means over the target tokens of an optimiser step (`students/loss.py`), so they depend
neither on gradient accumulation nor on the number of processes.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from transformers import PreTrainedModel

from tinyllm.models import load
from tinyllm.models.aliases import learning_rate_factor
from tinyllm.params import Params
from tinyllm.students import checkpoint
from tinyllm.students.collate import Collator, steps_of_epoch
from tinyllm.students.loss import MultiTask, running, task_weights, weighted_loss
from tinyllm.students.targets import Task

MAX_GRAD_NORM = 1.0


def total_steps(params: Params, questions: int) -> int:
    """Optimiser steps of a run: `epochs` times the steps of one pass over all questions."""
    step = params.batch_size * params.accumulation * params.nproc
    return max(1, round(params.epochs * math.ceil(questions / step)))


def learning_rate(step: int, steps: int, params: Params) -> float:
    """Share of the peak learning rate at a step (from 0): linear warmup, then linear decay."""
    warmup = math.ceil(params.warmup * steps)
    if step < warmup:
        return step / warmup
    left = (steps - step) / max(1, steps - warmup)
    return params.final_lr + (1 - params.final_lr) * left


def optimizer(model: nn.Module, params: Params) -> torch.optim.Optimizer:
    """AdamW; adapters and weights with a new function may have a higher rate (`models.aliases`)."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(learning_rate_factor(params.student, name), []).append(parameter)
    rates = [{"params": part, "factor": factor} for factor, part in groups.items()]
    return torch.optim.AdamW(rates, lr=params.lr, weight_decay=0.0, fused=True)


def train(
    model: PreTrainedModel,
    tasks: Sequence[Task],
    samples: Sequence[Sequence[dict[str, Any]]],
    params: Params,
    *,
    collator: Collator,
    score_valid: Callable[[], float],
    folder: Path,
    seed: int,
    say: Callable[[float], None] = lambda share: None,
) -> checkpoint.State:
    """Train a model in place and leave it with the weights that were best on valid.

    samples: the `training_rows` of each sample; epochs use them in turn. folder: for checkpoints;
        an interrupted run resumes from the last one. say: called with the share of the training
        that is done.
    Raises FloatingPointError on a loss that is not finite.
    """
    AcceleratorState._reset_state()  # a process may train several students, one after another
    bf16 = load.precision(params.precision) == torch.bfloat16
    mixed = "bf16" if bf16 else "no"
    accelerator = Accelerator(mixed_precision=mixed, cpu=load.device().type == "cpu")
    torch.backends.cuda.matmul.fp32_precision = "tf32" if params.precision == "tf32" else "ieee"
    model.to(accelerator.device)
    if bf16 and accelerator.device.type == "cpu":
        load.plain_attention(model, params.max_input)
    module = accelerator.prepare(MultiTask(model, tasks))
    update = optimizer(model, params)
    state = checkpoint.restore(folder, model, update) or checkpoint.State()
    started = perf_counter() - state.seconds
    # Sums since the last evaluation on valid: each task's loss, each task's targets, and tokens.
    totals = torch.zeros(2 * len(tasks) + 1, dtype=torch.float64, device=accelerator.device)
    rows, epoch = samples[0], -1
    steps = total_steps(params, len(rows))
    evals = {math.ceil(steps * k / params.evals) for k in range(1, params.evals + 1)}
    per_step = params.batch_size * params.accumulation * params.nproc
    per_epoch = math.ceil(len(rows) / per_step)
    while state.step < steps and not 0 < params.patience <= state.without_gain:
        if state.step // per_epoch != epoch:
            epoch = state.step // per_epoch
            rows = samples[epoch % len(samples)]
            groups = steps_of_epoch([row["lengths"] for row in rows], per_step, seed, epoch)
        # Each step and process has its own seed, so that a resumed run draws the same numbers.
        entropy = np.random.SeedSequence((seed, state.step, accelerator.process_index))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        module.train()
        batches = share_of(accelerator, groups[state.step % per_epoch], rows, collator, params)
        counts = accelerator.reduce(sum(batch["counts"] for batch in batches), "sum")
        weights = torch.tensor(task_weights(tasks, state.losses), device=accelerator.device)
        summed = torch.zeros_like(weights)
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else accelerator.no_sync(module):
                sums = module(batch)
                # An idle process computes a question, too, but its loss counts 0.
                sums = sums * batch["counts"].any()
                loss = weighted_loss(sums, counts, weights)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} at step {state.step}: lower lr (now "
                        f"{params.lr:g}), or set precision: fp32"
                    )
                # Processes average their gradients, but the loss is the sum of their parts.
                accelerator.backward(loss * accelerator.num_processes)
            summed += sums.detach()
            totals += torch.cat([sums.detach(), batch["counts"], batch["tokens"]])
        if any(task.auto for task in tasks):
            state.losses = running(state.losses, accelerator.reduce(summed, "sum"), counts)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for group in update.param_groups:
            group["lr"] = params.lr * group["factor"] * learning_rate(state.step, steps, params)
        update.step()
        update.zero_grad()
        state.step += 1
        if state.step in evals:
            parts = accelerator.reduce(totals, "sum").split([len(tasks), len(tasks), 1])
            losses, targets, tokens = (part.tolist() for part in parts)
            totals.zero_()
            means = zip(tasks, losses, targets, strict=True)
            losses = {task.name: total / count for task, total, count in means if count}
            state.tokens += int(tokens[0])
            better = state.record(round(state.step / per_epoch, 4), score_valid(), losses)
            state.seconds = round(perf_counter() - started, 1)
            if accelerator.is_main_process:
                checkpoint.save(folder, state, model, update, better)
        say(state.step / steps)
    accelerator.wait_for_everyone()
    checkpoint.load_best(folder, state, model)
    return state


def share_of(
    accelerator: Accelerator,
    group: np.ndarray,
    rows: Sequence[dict[str, Any]],
    collator: Collator,
    params: Params,
) -> list[dict[str, torch.Tensor]]:
    """This process's batches of a step's questions, on its device; if idle, one with counts 0."""
    mine = np.array_split(group, accelerator.num_processes)[accelerator.process_index]
    chosen = mine if len(mine) else group[:1]
    batches = []
    for start in range(0, len(chosen), params.batch_size):
        batch = collator([rows[i] for i in chosen[start : start + params.batch_size]])
        if not len(mine):
            batch |= {name: torch.zeros_like(batch[name]) for name in ("counts", "tokens")}
        batches.append({name: value.to(accelerator.device) for name, value in batch.items()})
    return batches
