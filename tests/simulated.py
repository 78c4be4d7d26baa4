"""Simulated predictions in the schema of `tinyllm.stats`, for tests of statistics and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tinyllm import results


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
    """A row a question: each arm is right with its own chance; questions differ in difficulty."""
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
                    {
                        "study": study,
                        "dataset": dataset,
                        "arm": arm,
                        "student": student,
                        "seed": seed,
                        "split": "test",
                        "id": f"q{i}",
                        "options": list(options),
                        "gold": int(gold[i]),
                        "choice": choice,
                        "scores": scores.tolist(),
                        "logprobs": (3 * scores).tolist(),
                        "tokens": [3] * count,
                        "correct": bool(right[i]),
                        "generated": options[choice],
                        "exact": bool(right[i]),
                        "named": choice,
                        "extracted": bool(right[i]),
                        "in_train": False,
                    }
                )
    return pd.DataFrame(rows)


def answers(right: Mapping[str, Sequence[Sequence[int]]], dataset: str = "obqa") -> pd.DataFrame:
    """Predictions with the given right (1) and wrong (0) answers: arm -> seeds -> questions."""
    frames = []
    for arm, seeds in right.items():
        for seed, row in enumerate(seeds):
            frame = predictions({arm: 0.5}, dataset=dataset, n=len(row), seeds=[seed])
            correct = np.array(row, dtype=bool)
            choice = np.where(correct, frame["gold"], (frame["gold"] + 1) % 4)
            columns = {"correct": correct, "exact": correct, "extracted": correct}
            frames.append(frame.assign(**columns, choice=choice, named=choice))
    return pd.concat(frames, ignore_index=True)


def teachers(
    predictions: pd.DataFrame, chances: Mapping[str, float], shots: Sequence[str] = ("random:2",)
) -> pd.DataFrame:
    """The teachers' own answers to the questions of `predictions`: teacher -> its chance."""
    draw = np.random.default_rng(1)
    questions = predictions.drop_duplicates(["study", "dataset", "id"])
    frames = []
    for teacher, chance in chances.items():
        for kind in shots:
            right = draw.random(len(questions)) < chance
            frame = questions[["study", "dataset", "id", "options", "gold"]].copy()
            frame["choice"] = np.where(right, frame["gold"], -1)
            frames.append(frame.assign(teacher=teacher, shots=kind, correct=right))
    return pd.concat(frames, ignore_index=True)


def facts(predictions: pd.DataFrame, **values: object) -> pd.DataFrame:
    """What `results.stored_facts` gives for `predictions`; a value may be a dict by arm."""
    keys = ["study", "dataset", "student", "arm", "seed"]
    rows = predictions[keys].drop_duplicates().reset_index(drop=True)
    known = {"alpha": 1.0, "teachers": 2, "train_questions": 1000, "parameters": 4e7}
    known |= {"precision": "fp32", "lr": 1e-4, "epochs": 3.0, "batch": 32, "max_target": 40}
    for name, value in {**known, "train_flops": 1e15, **values}.items():
        rows[name] = rows["arm"].map(value) if isinstance(value, Mapping) else value
    return rows


def manifests(facts: pd.DataFrame) -> str:
    """The file of manifests that `results.stored_facts` reads such facts from."""
    lines = []
    for row in facts.to_dict("records"):
        tasks = [["answer", "predict: ", 1.0]]
        tasks += [[f"teacher{i}", f"{i}: ", row["alpha"]] for i in range(row["teachers"])]
        spec = {name: row[name] for name in ("arm", "seed", *results.SETTINGS)}
        spec |= {"tasks": tasks, "batch_size": row["batch"], "accumulation": 1, "nproc": 1}
        recorded = {name: row[name] for name in results.RECORDED if name in row}
        lines.append(json.dumps({"spec": spec, "facts": recorded}))
    return "\n".join(lines) + "\n"


def history(arms: Sequence[str] = ("finetune", "tinyllm"), seeds: Sequence[int] = (0, 1)):
    """Learning curves in the columns of history.csv, with arm and seed."""
    draw = np.random.default_rng(0)
    rows = []
    for arm in arms:
        for seed in seeds:
            for step in range(100, 900, 100):
                fall = np.exp(-step / 400)
                lines = [("train", "answer", "loss", fall)]
                lines.append(("valid", "answer", "accuracy", 0.6 - 0.3 * fall))
                if arm != "finetune":
                    lines.append(("train", "micro:a", "loss", 2 * fall))
                    lines.append(("train", "micro:b", "loss", 1.5 * fall))
                for split, task, metric, value in lines:
                    noisy = value + draw.normal(scale=0.01)
                    rows.append((arm, seed, step, step / 100, split, task, metric, noisy))
    columns = ["arm", "seed", "step", "epoch", "split", "task", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)
