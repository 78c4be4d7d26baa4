"""Tiny students, a few questions with rationales, and small studies with an untrained teacher."""

from pathlib import Path

import torch
import yaml

from tinyllm.data import load as data
from tinyllm.data import micro
from tinyllm.models import load, score
from tinyllm.models import micro as models
from tinyllm.models.encode import Encoding
from tinyllm.params import Params
from tinyllm.students import train
from tinyllm.students.collate import Collator, training_rows
from tinyllm.students.targets import Task
from tinyllm.teachers import ask

TASKS = [
    Task("answer", "predict: ", 1.0),
    Task("micro:a", "explain: ", 0.5),
    Task("micro:b", "rationale: ", 2.0),
]
KINDS = [("t5", "encoder"), ("t5", "decoder"), ("llama", "encoder"), ("llama", "decoder")]


def questions(count=24):
    """Training questions of the micro world."""
    return micro.questions(0)["train"][:count]


def rationales(rows):
    """Rationales by teacher; b has none for every third question and an empty text for one."""
    whole = {row.id: "So it seems. " + micro.reference_rationale(row) for row in rows}
    part = {row.id: micro.reference_rationale(row) for i, row in enumerate(rows) if i % 3}
    part[rows[1].id] = "  "
    return {"micro:a": whole, "micro:b": part}


def make(kind, task_prefix="encoder", dropout=0.0, **changes):
    """A micro model of this kind with random weights, its tokenizer and its encoding."""
    model, tokenizer = models.untrained(kind, 0), models.tokenizer(eos=kind == "t5")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    params = Params.checked(task_prefix=task_prefix, **changes)
    return model, tokenizer, Encoding.of(model, tokenizer, params)


class Stop(Exception):
    """Simulates a killed training run."""


def trained(
    folder, rows, texts, kind="t5", *, stop_at=-1, valid=None, lora=0, tasks=None, **changes
):
    """Train a tiny student; returns the model, the training state and the rows of each batch.

    texts: rationales by teacher, or a list of these, one per sample.
    stop_at: raises Stop at this batch. valid: replaces validation accuracy on 8 questions.
    tasks: replaces TASKS.
    """
    tasks = tasks or TASKS
    model, _, encoding = make(kind, **changes)
    changes.pop("dropout", None)
    params = Params.checked(**changes)
    if lora:
        model = load.adapt(model, "tiny", lora)
    collate, seen = Collator(encoding, tasks), []

    def collator(batch):
        if len(seen) == stop_at:
            raise Stop
        seen.append(batch)
        return collate(batch)

    accuracy = valid or (lambda: score.accuracy(score.score_options(model, encoding, rows[:8])))
    how = {"collator": collator, "score_valid": accuracy, "folder": Path(folder), "seed": 0}
    samples = [texts] if "micro:a" in texts else texts
    learned = [training_rows(rows, sample, tasks, encoding) for sample in samples]
    return model, train.train(model, tasks, learned, params, **how), seen


def saved_model(folder, kind="t5", dropout=0.0):
    """Save a micro model with random weights, to be used as student or teacher; its path."""
    model = models.untrained(kind, 0)
    if dropout:
        model.config.dropout_rate = dropout
    models.save(model, kind, folder)
    return str(folder)


def study(folder, asked=True, **changes):
    """A small study with stored questions, rationales and answers of an untrained teacher.

    folder: where the teacher is saved. Set TINYLLM_RUNS before calling this.
    """
    values = {
        "limit": {"train": 48, "valid": 12, "test": 12}, "seeds": [0], "workers": 1, "epochs": 1.0,
        "evals": 1, "max_new_tokens": 6, "batch_size": 16, "max_target": 12, "max_prompt": 480,
        "lr": 2e-3, "max_input": 256,
    }  # fmt: skip
    teacher = Path(folder) / "teacher"
    values["teachers"] = ["hf:" + saved_model(teacher)]
    params = Params.checked(**values | changes)
    data.save(data.load(params), params)
    if asked:
        ask.ask_all(params)
        ask.answer_all(params)
    return params


def write_yaml(file, **values):
    """Write a parameter file or a grid file; returns its path."""
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file
