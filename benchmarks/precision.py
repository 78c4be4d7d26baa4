"""How much faster a training step is in bf16 than in fp32 on this machine's processor.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--steps 4] [--rounds 3]

The laptop study's student (`minilm-ed`) learns from both recorded teachers on OpenBookQA: forward
and backward, in autocast or not. Both train on the same steps in turn, and the ratio is of medians
over the rounds, in seconds of the processor. Needs the release (TINYLLM_RELEASE_DIR) and
`make models`.
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
from tinyllm.students.collate import Collator, steps_of_epoch, training_rows
from tinyllm.students.loss import MultiTask, weighted_loss
from tinyllm.students.targets import ANSWER, Task


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    params = Params.from_yaml(ROOT / "params" / "laptop" / "obqa.yaml")
    examples = release.questions("obqa", "train")
    columns = zip(*release.rationales("obqa", "train"), strict=True)
    found, texts = [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0)], {}
    for index, (uri, column) in enumerate(zip(params.teachers, columns, strict=True)):
        found.append(Task(uri, prompts.rationale_prefix(index), 1.0))
        texts[uri] = {e.id: text for e, text in zip(examples, column, strict=True) if text}
    model, tokenizer = load.load(params.student)
    encoding = Encoding.of(model, tokenizer, params)
    rows = training_rows(examples, texts, found, encoding)
    groups = steps_of_epoch([row["lengths"] for row in rows], params.batch_size, 0, 0)
    collate, module = Collator(encoding, found), MultiTask(model.train(), found)
    steps = [[rows[i] for i in group] for group in groups[1 : asked.steps + 1]]
    batches = [collate(step) for step in steps]
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(asked.rounds + 1):
        for name, taken in seconds.items():
            start = time.process_time()
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                    loss = weighted_loss(module(batch), batch["counts"], torch.ones(len(found)))
                loss.backward()
                module.zero_grad(set_to_none=True)
            if turn:  # the first call of anything is slow
                taken.append((time.process_time() - start) / asked.steps)
    for name, taken in seconds.items():
        print(f"{name}: {median(taken):.2f} s a step ({min(taken):.2f} to {max(taken):.2f})")
    print(f"bf16 is {median(seconds['fp32']) / median(seconds['bf16']):.2f} times as fast")


if __name__ == "__main__":
    main()
