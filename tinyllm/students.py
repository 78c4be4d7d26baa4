"""Students once trained, and what they are shown: loaded again, asked, looked at."""

from __future__ import annotations

import pandas as pd
import peft
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinyllm import arms, data, evaluate, models, paths, results, runs
from tinyllm.batches import Collator, training_rows
from tinyllm.encoding import IGNORED, Encoding
from tinyllm.params import Params
from tinyllm.tasks import ANSWER, OPTIONS, Task, arm_options, arm_texts, tasks

CHECKPOINT = "checkpoint"


def untrained(
    params: Params, arm: arms.Arm, seed: int
) -> tuple[PreTrainedModel | peft.PeftModel, PreTrainedTokenizerBase]:
    """The student that an arm starts from, with adapters where the arm has LoRA."""
    model, tokenizer = models.load(params.student, seed=seed)
    if arm.trained and params.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if arm.lora:
        model = models.adapt(model, params.student, arm.lora, seed=seed)
    return model, tokenizer


def load(
    params: Params, arm_name: str, seed: int
) -> tuple[PreTrainedModel | peft.PeftModel, Encoding]:
    """A finished student of a study, ready to be asked, with its encoding.

    A student with LoRA is the untrained one with its stored adapters, the student of `inference`
    the untrained one itself; others are stored whole. Raises FileNotFoundError, with the remedy,
    where it is not finished.
    """
    folder = results.student_folder(params, arm_name, seed)
    runs.inputs(folder)
    arm = arms.resolve(arm_name, params.teachers)
    stored = folder / CHECKPOINT
    if arm.trained and not arm.lora:
        model, tokenizer = models.load(str(stored))
    else:
        model, tokenizer = models.load(params.student, seed=seed)
        if arm.lora:
            model = models.load_adapters(model, stored)
    return model.to(models.device()).eval(), Encoding.of(model, tokenizer, params)


def best(params: Params, *, rationales: bool) -> tuple[str, int]:
    """Arm and seed of the finished student with the highest accuracy on valid.

    rationales: only among those that learned to write some, controls excepted, if there are any.
    Students whose models are not here (`handover.restore`) are passed over; FileNotFoundError where
    no other is left.
    """
    facts = results.facts(params).dropna(subset=["valid_accuracy"])
    here = [_has_model(params, *key) for key in zip(facts.arm, facts.seed, strict=True)]
    facts = facts[here]
    if facts.empty:
        raise FileNotFoundError("no model of these students is here: they were restored")
    resolved = [arms.resolve(name, params.teachers) for name in facts.arm]
    able = [bool(arm.teachers) and not arm.moved and not arm.gibberish for arm in resolved]
    if rationales and any(able):
        facts = facts[able]
    top = facts.loc[facts.valid_accuracy.idxmax()]
    return str(top.arm), int(top.seed)


def _has_model(params: Params, arm: str, seed: int) -> bool:
    """True if a finished student can be loaded: it was not trained, or its checkpoint is here."""
    trained = arms.resolve(arm, params.teachers).trained
    return not trained or (results.student_folder(params, arm, seed) / CHECKPOINT).exists()


def teacher_tasks(params: Params, arm_name: str) -> list[Task]:
    """The tasks of an arm that are a teacher's rationales."""
    found = tasks(arms.resolve(arm_name, params.teachers), params)
    return [task for task in found if task.name not in (ANSWER, OPTIONS)]


def own_words(params: Params, rows: int = 3) -> pd.DataFrame:
    """What the best student answers, and writes when asked for each teacher's rationale.

    The student is `best`'s; the questions are the first `rows` of test. Index: question. Columns:
    options, gold, chosen (the likeliest option), and a column a teacher of its arm. Empty where no
    student's model is here.
    """
    try:
        arm, seed = best(params, rationales=True)
    except FileNotFoundError as absent:
        frame = pd.DataFrame(columns=["question", "options", "gold", "chosen"])
        frame.attrs["student"] = str(absent)
        return frame.set_index("question")
    model, encoding = load(params, arm, seed)
    base = paths.study(params.study, params.dataset)
    examples = data.examples(data.read(base / "data")["test"])[:rows]
    scored = evaluate.score_options(model, encoding, examples)
    table = {
        "question": [example.question for example in examples],
        "options": [" · ".join(example.options) for example in examples],
        "gold": [example.options[example.answer] for example in examples],
        "chosen": [row["options"][row["choice"]] for row in scored],
    }
    for task in teacher_tasks(params, arm):
        table[f"{task.prefix}({task.name})"] = evaluate.generate(
            model, encoding, examples, task.prefix, max_new_tokens=params.max_target
        )
    frame = pd.DataFrame(table).set_index("question")
    frame.attrs["student"] = f"{arm}, seed {seed}"
    return frame


def worked_example(params: Params, arm_name: str) -> pd.DataFrame:
    """One training question as the student sees it: a row a task, with its tokens as text.

    The question is the first that every teacher of the arm wrote something for (else the first).
    `masked` counts the decoder's positions that have no label: those of a prefix, or for
    decoder-only students those of the question. A task without a target is masked whole. An arm
    that is not trained has no row.
    """
    arm = arms.resolve(arm_name, params.teachers)
    if not arm.trained:
        return pd.DataFrame(columns=["task", "writes", "tokens", "masked"]).set_index("task")
    folder = paths.study(params.study, params.dataset) / "data"
    examples = data.examples(data.read(folder)["train"])
    texts = arm_texts(params, arm, examples, params.seeds[0])
    whole = (e for e in examples if all(e.id in have for have in texts.values()))
    example = next(whole, examples[0])
    model, tokenizer = models.load(params.student)
    encoding = Encoding.of(model, tokenizer, params)
    found = tasks(arm, params)
    options = arm_options(params, arm)
    batch = Collator(encoding, found)(training_rows([example], texts, found, encoding, options))
    rows = []
    for t, task in enumerate(found):
        if f"labels_{t}" not in batch:
            rows.append({"task": task.name, "writes": "(no target)", "tokens": 0, "masked": 0})
            continue
        for line, labels in enumerate(batch[f"labels_{t}"]):
            kept = labels[labels != IGNORED].tolist()
            begin = int((labels != IGNORED).nonzero()[0]) + 1
            row = {"task": task.name}
            if encoding.seq2seq:
                at = int(batch[f"rows_{t}"][line])
                seen = batch["input_ids"][at][batch["attention_mask"][at] == 1]
                starts = batch[f"decoder_{t}"][line][:begin]
                row["encoder reads"] = tokenizer.decode(seen.tolist())
                row["decoder starts"] = tokenizer.decode(starts.tolist())
            else:
                row["reads"] = tokenizer.decode(batch[f"input_{t}"][line][:begin].tolist())
            row |= {"writes": tokenizer.decode(kept), "tokens": len(kept), "masked": begin - 1}
            if f"wanted_{t}" in batch:
                row["probability"] = round(float(batch[f"wanted_{t}"][0, line]), 3)
            rows.append(row)
    return pd.DataFrame(rows).set_index("task")
