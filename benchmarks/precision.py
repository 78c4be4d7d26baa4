"""Speedup of a training step in bf16 over fp32 on this machine's CPU.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--steps 4] [--rounds 3]

The laptop study's student (`minilm-ed`) learns from both recorded teachers on OpenBookQA. Forward
and backward passes run in fp32, in bf16 as in training, and in bf16 with PyTorch's fused attention
and cross-entropy. All variants take turns on the same steps; ratios compare the median CPU seconds
over the rounds. Needs the release (TINYLLM_RELEASE_DIR) and `make models`.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from tinyllm import prompts
from tinyllm.data import release
from tinyllm.models import load
from tinyllm.models.encode import Encoding
from tinyllm.params import Params
from tinyllm.paths import ROOT
from tinyllm.students import loss
from tinyllm.students.collate import Collator, steps_of_epoch, training_rows
from tinyllm.students.loss import MultiTask, weighted_loss
from tinyllm.students.targets import ANSWER, Task


def plain_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """PyTorch's cross-entropy on full logits."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def main() -> None:
    """Run the benchmark described in the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="obqa", choices=("obqa", "riddle", "pubmedqa"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    params = Params.from_yaml(ROOT / "params" / "laptop" / f"{args.dataset}.yaml")
    examples = release.questions(args.dataset, "train")
    columns = zip(*release.rationales(args.dataset, "train"), strict=True)
    tasks, texts = [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0)], {}
    for index, (uri, column) in enumerate(zip(params.teachers, columns, strict=True)):
        tasks.append(Task(uri, prompts.rationale_prefix(index), 1.0))
        texts[uri] = {e.id: text for e, text in zip(examples, column, strict=True) if text}
    (model, tokenizer), (plain, _) = load.load(params.student), load.load(params.student)
    load.plain_attention(plain, params.max_input)
    encoding = Encoding.of(model, tokenizer, params)
    rows = training_rows(examples, texts, tasks, encoding)
    groups = steps_of_epoch([row["lengths"] for row in rows], params.batch_size, 0, 0)
    collate = Collator(encoding, tasks)
    modules = {"fp32": MultiTask(model.train(), tasks), "bf16": MultiTask(plain.train(), tasks)}
    modules["bf16, torch's own"] = modules["fp32"]
    steps = [[rows[i] for i in group] for group in groups[1 : args.steps + 1]]
    batches = [collate(step) for step in steps]
    ours = loss.token_losses
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for turn in range(args.rounds + 1):
        for name, module in modules.items():
            loss.token_losses = plain_losses if "own" in name else ours
            start = time.process_time()
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=name != "fp32"):
                    value = weighted_loss(module(batch), batch["counts"], torch.ones(len(tasks)))
                value.backward()
                module.zero_grad(set_to_none=True)
            if turn:  # the first round is a warm-up
                seconds[name].append((time.process_time() - start) / args.steps)
    for name, taken in seconds.items():
        faster = median(seconds["fp32"]) / median(taken)
        text = f"{median(taken):.2f} s per step ({min(taken):.2f} to {max(taken):.2f})"
        print(f"{name}: {text}, {faster:.2f} times as fast as fp32")


if __name__ == "__main__":
    main()
