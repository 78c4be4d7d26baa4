"""How fast a training step is on this machine's processor: in fp32 with the logits whole or in
pieces (`tinyllm.projection`), and in bf16.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--ways whole pieces bf16] [--dataset obqa]
                                                     [--steps 4] [--rounds 3]

The laptop study's student (`minilm-ed`) learns from both recorded teachers: forward and backward,
as `tinyllm.training` has it. All ways train on the same steps in turn, and ratios are of medians
over the rounds, in seconds of the processor. Where bf16 would be emulated, it is left out unless it
is asked for. Needs the release (TINYLLM_RELEASE_DIR) and `make models`.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from tinyllm import models, projection, prompts, release
from tinyllm.batches import Collator, LengthGroups, training_rows
from tinyllm.encoding import Encoding
from tinyllm.params import Params
from tinyllm.paths import ROOT
from tinyllm.tasks import ANSWER, Task
from tinyllm.training import MultiTask

WAYS = {"whole": "fp32, logits whole", "pieces": "fp32, logits in pieces", "bf16": "bf16"}
BOTH = ("obqa", "arc", "riddle", "pubmedqa", "bioasq")  # datasets with rationales of both teachers


def main() -> None:
    """See the module."""
    emulated = models.emulates_bf16(torch.cpu.get_capabilities())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    fast = [way for way in WAYS if way != "bf16" or not emulated]
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=fast)
    parser.add_argument("--dataset", choices=BOTH, default="obqa")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    params = Params.from_yaml(ROOT / "params" / "laptop" / f"{asked.dataset}.yaml")
    examples = release.release_examples(asked.dataset, "train")
    columns = zip(*release.release_rationales(asked.dataset, "train"), strict=True)
    found, texts = [Task(ANSWER, prompts.ANSWER_PREFIX, 1.0)], {}
    for index, (uri, column) in enumerate(zip(params.teachers, columns, strict=True)):
        found.append(Task(uri, prompts.rationale_prefix(index), 1.0))
        texts[uri] = {e.id: text for e, text in zip(examples, column, strict=True) if text}
    model, tokenizer = models.load(params.student)
    encoding = Encoding.of(model, tokenizer, params)
    rows = training_rows(examples, texts, found, encoding)
    size = params.batch_size
    order = list(LengthGroups([row["lengths"] for row in rows], size, seed=0))
    collate, module = Collator(encoding, found), MultiTask(model.train(), found)
    steps = [[rows[i] for i in order[k * size : (k + 1) * size]] for k in range(1, asked.steps + 1)]
    batches = [collate(step) for step in steps]
    seconds: dict[str, list[float]] = {way: [] for way in asked.ways}
    in_pieces = projection._in_pieces
    for turn in range(asked.rounds + 1):
        for way, taken in seconds.items():
            projection._in_pieces = in_pieces if way == "pieces" else lambda *_: False
            start = time.process_time()
            for batch in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=way == "bf16"):
                    loss = (module(**batch) / batch["counts"].clamp(min=1)).sum()
                loss.backward()
                module.zero_grad(set_to_none=True)
            if turn:  # the first call of anything is slow
                taken.append((time.process_time() - start) / asked.steps)
    first = median(seconds[asked.ways[0]])
    for way, taken in seconds.items():
        print(
            f"{WAYS[way]}: {median(taken):.2f} s a step ({min(taken):.2f} to {max(taken):.2f}), "
            f"{first / median(taken):.2f} times as fast as the first"
        )


if __name__ == "__main__":
    main()
