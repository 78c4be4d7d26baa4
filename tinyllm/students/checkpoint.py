"""Checkpoints of a student in training: written atomically, so that a killed run can resume.

Files of `torch.save`, since the optimiser's state is not only tensors; read with weights_only.

FOLDER/step-000400.pt     trained weights, optimiser and progress (`State`)
FOLDER/best-000300.pt     trained weights of the step with the best accuracy on valid
"""

import os
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyllm import paths
from tinyllm.students.targets import ANSWER

KEPT = 2  # the last checkpoint, and the previous one in case the last is damaged


@dataclass
class State:
    """Progress of a training run.

    step: optimiser steps done. tokens: processed, without padding. seconds: spent on them, also
    before an interruption. valid_accuracy, best_step: of the best evaluation on valid.
    without_gain: evaluations since. losses: each task's running mean, if weights depend on it.
    history: learning curves, one row per step, split, task and metric.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    valid_accuracy: float = -1.0
    best_step: int = 0
    without_gain: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def record(self, epoch: float, accuracy: float, losses: dict[str, float]) -> bool:
        """Add accuracy on valid, and each task's loss since the last evaluation, to the history.

        Returns True if the accuracy is the best so far.
        """
        lines = [("train", task, "loss", loss) for task, loss in losses.items()]
        lines.append(("valid", ANSWER, "accuracy", accuracy))
        names = ("split", "task", "metric", "value")
        at = {"step": self.step, "epoch": epoch}
        self.history += [at | dict(zip(names, line, strict=True)) for line in lines]
        better = accuracy > self.valid_accuracy
        if better:
            self.valid_accuracy, self.best_step = accuracy, self.step
        self.without_gain = 0 if better else self.without_gain + 1
        return better


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained tensors by name, tied ones once."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def save(
    folder: Path, state: State, model: nn.Module, optimizer: torch.optim.Optimizer, better: bool
) -> None:
    """Write a checkpoint, and the weights if they are the best so far; delete older files."""
    folder.mkdir(parents=True, exist_ok=True)
    if better:
        _write(folder / f"best-{state.step:06d}.pt", {"weights": trained(model)})
    content = {"weights": trained(model), "optimizer": optimizer.state_dict()}
    _write(folder / f"step-{state.step:06d}.pt", content | {"state": asdict(state)})
    for kind in ("step", "best"):
        files = sorted(folder.glob(f"{kind}-*.pt"))
        kept = [file for file in files if file.name <= f"{kind}-{state.step:06d}.pt"][-KEPT:]
        for old in {*files}.difference(kept):  # later steps were damaged, see `restore`
            old.unlink()


def _write(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as stream:
            torch.save(content, stream)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        temporary.unlink(missing_ok=True)
        raise OSError(f"{paths.shown(file)}: cannot be written: {error}") from error
    os.replace(temporary, file)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
    """Load the last intact checkpoint into model and optimiser; returns None if there is none."""
    for file in sorted(folder.glob("step-*.pt"), reverse=True):
        try:
            # mmap: read from the file as needed, not a second copy in memory.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            state = State(**content["state"])
            best = folder / f"best-{state.best_step:06d}.pt"  # needed at the end of training
            torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many types of errors for damaged files
            warnings.warn(
                f"{paths.shown(file)} is damaged ({error}); trying an earlier one", stacklevel=2
            )
            continue
        model.load_state_dict(content["weights"], strict=False)
        optimizer.load_state_dict(content["optimizer"])
        return state
    return None


def load_best(folder: Path, state: State, model: nn.Module) -> None:
    """Load the weights with the best accuracy on valid into the model."""
    file = folder / f"best-{state.best_step:06d}.pt"
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    model.load_state_dict(content["weights"], strict=False)
