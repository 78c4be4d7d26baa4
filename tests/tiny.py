"""Tiny students and a few questions with rationales, for tests of the training."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from tinyllm import evaluate, micro, models
from tinyllm.batches import Collator, training_rows
from tinyllm.encoding import Encoding
from tinyllm.params import Params
from tinyllm.tasks import Task
from tinyllm.training import DistillTrainer, MultiTask

TASKS = [
    Task("answer", "predict: ", 1.0),
    Task("micro:a", "explain: ", 0.5),
    Task("micro:b", "rationale: ", 2.0),
]
WITH_OPTIONS = [TASKS[0], TASKS[1], Task("options", "predict: ", 4.0, temperature=2.0)]
KINDS = [("t5", "encoder"), ("t5", "decoder"), ("llama", "encoder"), ("llama", "decoder")]


def questions():
    """24 questions of the micro world."""
    return micro.questions(0)["train"][:24]


def rationales(examples):
    """Teacher b wrote nothing for every third question, and an empty text for one."""
    whole = {e.id: micro.reference_rationale(e, 0) for e in examples}
    part = {e.id: "So it is. " + whole[e.id] for i, e in enumerate(examples) if i % 3}
    part[examples[1].id] = "  "
    return {"micro:a": whole, "micro:b": part}


def probabilities(examples):
    """A distribution over the options of every question but the first: the gold one has 0.7."""
    return {
        e.id: [0.7 if i == e.answer else 0.1 for i in range(len(e.options))] for e in examples[1:]
    }


def make(kind, task_prefix, **changes):
    """A tiny model of a kind, its tokenizer and encoding."""
    tokenizer = micro.tokenizer(eos=kind == "t5")
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    if kind == "t5":
        config = T5Config(
            d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=2, dropout_rate=0.0,
            decoder_start_token_id=0, **ids,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    else:
        config = LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            bos_token_id=None, **ids,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    params = Params.checked(task_prefix=task_prefix, **changes)
    return model, tokenizer, Encoding.of(model, tokenizer, params)


def trainer(folder, examples, texts, kind="t5", task_prefix="encoder", lora=0, **changes):
    """A trainer of a tiny student on all tasks; valid is the first 8 questions."""
    params = Params.checked(task_prefix=task_prefix, **changes)
    model, _, encoding = make(kind, task_prefix, **changes)
    if params.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora:
        model = models.adapt(model, "tiny", lora)
    return DistillTrainer(
        MultiTask(model, TASKS),
        training_rows(examples, texts, TASKS, encoding),
        found=TASKS,
        params=params,
        scorer=lambda: evaluate.score_options(model, encoding, examples[:8]),
        collator=Collator(encoding, TASKS),
        folder=folder,
        seed=0,
    )
