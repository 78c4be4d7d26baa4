"""Simulated predictions and learning curves, and access to the functions of a notebook."""

import ast
import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tinyllm import paths


def notebook(name: str) -> dict:
    """The imports, functions and literal constants that a notebook's cells define."""
    file = next((paths.ROOT / "notebooks").glob(f"{name}*.ipynb"))
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                literal = isinstance(node, ast.Assign | ast.AugAssign)
                literal &= isinstance(getattr(node, "value", None), ast.Dict | ast.List)
                if literal or isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    with contextlib.suppress(NameError):  # a dict of earlier cells' results
                        exec(compile(ast.Module([node], []), name, "exec"), names)
    return names


def predictions(
    arms: Mapping[str, float],
    dataset: str = "obqa",
    n: int = 100,
    seeds: Sequence[int] = (0, 1, 2),
    options: Sequence[str] = ("w", "x", "y", "z"),
    student: str = "minilm-ed",
    study: str = "simulated",
    rng: int = 0,
) -> pd.DataFrame:
    """One row per question, arm and seed: arms differ in accuracy, questions in difficulty."""
    draw = np.random.default_rng(rng)
    count = len(options)
    gold, hard = draw.integers(count, size=n), draw.normal(scale=0.15, size=n)
    rows = []
    for arm, chance in arms.items():
        for seed in seeds:
            right = draw.random(n) < np.clip(chance + hard, 0, 1)
            for i in range(n):
                off = 0 if right[i] else 1 + draw.integers(count - 1)
                choice = int((gold[i] + off) % count)
                scores = draw.normal(-2, 0.5, size=count)
                scores[choice] = scores.max() + 0.3
                rows.append(
                    {"study": study, "dataset": dataset, "arm": arm, "student": student}
                    | {"seed": seed, "split": "test", "id": f"q{i}", "options": list(options)}
                    | {"gold": int(gold[i]), "choice": choice, "scores": scores.tolist()}
                    | {"tokens": [3] * count, "correct": bool(right[i])}
                    | {"generated": options[choice], "exact": bool(right[i]), "named": choice}
                    | {"extracted": bool(right[i]), "in_train": False}
                )
    return pd.DataFrame(rows)


def answers(right: Mapping[str, Sequence[Sequence[int]]], dataset: str = "obqa") -> pd.DataFrame:
    """Predictions with the given correct (1) and wrong (0) answers: arm -> seeds -> questions."""
    frames = []
    for arm, seeds in right.items():
        for seed, row in enumerate(seeds):
            frame = predictions({arm: 0.5}, dataset=dataset, n=len(row), seeds=[seed])
            correct = np.array(row, dtype=bool)
            choice = np.where(correct, frame["gold"], (frame["gold"] + 1) % 4)
            columns = {"correct": correct, "exact": correct, "extracted": correct}
            frames.append(frame.assign(**columns, choice=choice, named=choice))
    return pd.concat(frames, ignore_index=True)


def history(arms: Sequence[str] = ("finetune", "tinyllm"), seeds: Sequence[int] = (0, 1)):
    """Learning curves with the columns of history.csv, plus arm and seed."""
    draw = np.random.default_rng(0)
    rows = []
    for arm, seed, step in itertools.product(arms, seeds, range(100, 900, 100)):
        fall = np.exp(-step / 400)
        lines = [("train", "answer", "loss", fall), ("valid", "answer", "accuracy", 1 - fall)]
        if arm != "finetune":
            lines += [("train", f"micro:{name}", "loss", 2 * fall) for name in "ab"]
        for split, task, metric, value in lines:
            noisy = value + draw.normal(scale=0.01)
            rows.append((arm, seed, step, step / 100, split, task, metric, noisy))
    columns = ["arm", "seed", "step", "epoch", "split", "task", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)
