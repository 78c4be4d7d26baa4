"""One student: initial model, training, predictions on test, and the facts in its manifest."""

import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from tinyllm import arms, prompts
from tinyllm.data import load as data
from tinyllm.data import question
from tinyllm.models import load, score
from tinyllm.models.encode import Encoding
from tinyllm.params import ParameterError, Params
from tinyllm.students import checkpoint, predictions, targets
from tinyllm.students.collate import Collator, training_rows
from tinyllm.students.loss import task_weights
from tinyllm.students.predictions import CHECKPOINT, CHECKPOINTS, HISTORY, PREDICTIONS
from tinyllm.students.train import train
from tinyllm.teachers import choose

# Increase it when a change alters students by more than rounding. 3: epochs are whole passes, and
# minilm-ed has no attention dropout.
TRAIN_VERSION = 3
Say = Callable[[float], None]  # called with the share of the training that is done


def untrained(params: Params, arm: arms.Arm, seed: int) -> tuple[PreTrainedModel, Encoding]:
    """The student that an arm starts from, with adapters if the arm uses LoRA."""
    model, tokenizer = load.load(params.student, seed=seed)
    if arm.trained and params.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if arm.lora:
        model = load.adapt(model, params.student, arm.lora, seed=seed)
    return model, Encoding.of(model, tokenizer, params)


def check(params: Params) -> None:
    """Raise ParameterError if the student has too few positions for the study's questions; warn if
    its tokenizer does not know their text or cannot distinguish their options, and if answers are
    longer than a limit."""
    model, tokenizer = load.load(params.student)
    encoding = Encoding.of(model, tokenizer, params)
    prefixes = [prompts.ANSWER_PREFIX]
    prefixes += [prompts.rationale_prefix(i) for i in range(len(params.teachers) + 1)]
    rows = [row for split in data.read(params).values() for row in split]
    counts = encoding.check(rows, prefixes)
    if counts["unknown"] or counts["tied"]:
        warnings.warn(
            f"{params.student}: of {counts['questions']} questions, {counts['unknown']} have text "
            f"that its tokenizer does not know, and {counts['tied']} have options that become the "
            "same tokens (a choice among these counts as chance)",
            stacklevel=2,
        )
    gold = [len(encoding.tokens(row.gold)) for row in rows]
    # An end token follows in training only.
    for name, end, effect in (
        ("max_target", 1, "cut in training"),
        ("max_new_tokens", 0, "never an exact match"),
    ):
        if long := sum(length + end > getattr(params, name) for length in gold):
            warnings.warn(
                f"{name}: {getattr(params, name)}: {long} of {len(gold)} gold answers are longer "
                f"(up to {max(gold) + end} tokens), so they are {effect}",
                stacklevel=2,
            )


def make(
    params: Params, arm: arms.Arm, seed: int, folder: Path, say: Say, first: bool = True
) -> dict[str, Any]:
    """Train one student, score it on test, and write its files; returns facts for its manifest.

    first: True in one of several processes; only that process writes and returns facts.
    Raises FloatingPointError on a loss that is not finite.
    """
    splits, batch = data.read(params), min(score.BATCH, params.batch_size)
    model, encoding = untrained(params, arm, seed)

    def valid() -> float:
        rows = score.score_options(model, encoding, splits["valid"], batch=batch)
        return score.accuracy(rows)

    if arm.trained:
        state, facts = _fit(params, arm, seed, model, encoding, valid, folder, say)
    else:
        model.to(load.device())
        state = checkpoint.State()
        state.record(0.0, valid(), {})
        facts = {"train_seconds": 0.0, "train_questions": 0, "targets": {}}
    if not first:
        return {}
    how = {"max_new_tokens": params.max_new_tokens, "in_train": question.in_train(splits)}
    rows = score.predict(model, encoding, splits["test"], batch=batch, **how)
    labels = {"study": params.study, "dataset": params.dataset, "arm": arm.name}
    labels |= {"student": params.student, "seed": seed, "split": "test"}
    predictions.write(pd.DataFrame(labels, index=rows.index).join(rows), folder / PREDICTIONS)
    pd.DataFrame(state.history).to_csv(folder / HISTORY, index=False, lineterminator="\n")
    if arm.trained and params.keep_weights:
        load.save(model, encoding.tokenizer, folder / CHECKPOINT)
    facts |= _cost(model, params, state)
    return facts | {
        "accuracy": score.accuracy(rows.to_dict("records")),
        "exact_match": float(rows.exact.mean()),
        "n": len(rows),
        "tied": int((rows.ties > 1).sum()),
        "cut_inputs": len(encoding.cut_inputs),
        "cut_targets": len(encoding.cut_targets),
    }


def _fit(
    params: Params,
    arm: arms.Arm,
    seed: int,
    model: PreTrainedModel,
    encoding: Encoding,
    valid: Callable[[], float],
    folder: Path,
    say: Say,
) -> tuple[checkpoint.State, dict[str, Any]]:
    """Train a model in place; returns the final state of training, and facts for its manifest."""
    questions, tasks = data.read(params)["train"], targets.tasks(arm, params)
    turns = params.samples if arm.teachers and params.learn_sample == "each-epoch" else 1
    chosen = choose.choices(params, arm.teachers, arm.routed, seed) if arm.routed else None
    how = (params, arm, questions, seed)
    texts = [targets.arm_texts(*how, turn, None if turn else chosen) for turn in range(turns)]
    if silent := [uri for uri, rationales in texts[0].items() if not rationales]:
        raise ParameterError(
            f"arms: {arm.name!r}: no rationale of {silent[0]!r} for any training question of "
            f"{params.dataset!r}; leave out that teacher or this arm, or delete the teacher's "
            "folder in runs/rationales to ask again"
        )
    options = targets.arm_options(params, arm)
    samples = [training_rows(questions, sample, tasks, encoding, options) for sample in texts]
    state = train(
        model,
        tasks,
        samples,
        params.model_copy(update={"epochs": params.epochs * arm.passes}),
        collator=Collator(encoding, tasks),
        score_valid=valid,
        folder=folder / CHECKPOINTS,
        seed=seed,
        say=say,
    )
    rows = samples[0]
    facts: dict[str, Any] = {"train_seconds": state.seconds, "train_questions": len(rows)}
    known = {task.name: [bool(row["targets"][t]) for row in rows] for t, task in enumerate(tasks)}
    facts["targets"] = {name: sum(flags) for name, flags in known.items()}
    if arm.auto_alpha:
        facts["final_alpha"] = task_weights(tasks, state.losses)[1:]
    if arm.routed:
        counts = Counter(chosen.values())
        shares = {uri: 100 * counts[uri] / counts.total() for uri in arm.teachers}
        facts["chosen"] = ", ".join(f"{uri} {share:.0f}%" for uri, share in shares.items())
    return state, facts


def _cost(model: PreTrainedModel, params: Params, state: checkpoint.State) -> dict[str, Any]:
    """Model size, cost of training and memory, for a manifest.

    FLOPs per token and parameter: 2 forward, 2 for the gradient of the activations, 2 for that of a
    trained parameter (Kaplan et al. 2020, section 2.1). Memory is the process's peak so far.
    """
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if state.step else 0
    unit = 1 if sys.platform == "darwin" else 1024
    facts = {
        "parameters": total,
        "trained_parameters": trained,
        "train_tokens": state.tokens,
        "train_flops": (4 * total + 2 * trained) * state.tokens,
        "steps": state.step,
        "best_step": state.best_step,
        "valid_accuracy": state.valid_accuracy,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3),
        "computed_in": load.precision_name(params.precision),
        "attention_dropout": load.attention_dropout(model),
        "curve": params.curve,
    }
    versions = {"train": TRAIN_VERSION, "score": score.SCORE_VERSION}
    facts["versions"] = versions | {"prompt": prompts.PROMPT_VERSION}
    if torch.cuda.is_available():
        facts["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return facts
