"""Tokens a second of a teacher: a prompt at a time, fixed batches in dataset order, and sorted.

    python benchmarks/teacher_throughput.py [--model smollm2] [--dataset piqa] [--questions 48]

The same prompts (the study's own, from the paper's release) go to the same model in three ways,
each several times in turn, because the machine is noisy; what counts are the ratios. Tokens are
those read and written, padding excluded.
"""

import argparse
import time
from statistics import median

import torch
from tqdm import tqdm

from tinyllm import prompts
from tinyllm.data import load as data
from tinyllm.models import load
from tinyllm.params import Params
from tinyllm.teachers.hf import HFTeacher

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--model", default="smollm2", help="alias, folder or hub id")
parser.add_argument("--dataset", default="piqa")
parser.add_argument("--questions", type=int, default=48)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--new-tokens", type=int, default=32)
parser.add_argument("--max-prompt", type=int, default=480)
parser.add_argument("--examples", default="random:2", help="in-context examples, as in params")
parser.add_argument("--rounds", type=int, default=3)


class InOrder(HFTeacher):
    """The same teacher, with fixed batches in the order in which the questions stand."""

    def _batches(self, rows):
        yield from (
            list(range(start, min(start + self.batch, len(rows))))
            for start in range(0, len(rows), self.batch)
        )


def main() -> None:
    options = parser.parse_args()
    params = Params.checked(
        study="benchmark", dataset=options.dataset, source="release", arms=["finetune"],
        teachers=["release:flan-t5"], limit={"train": options.questions, "valid": 1, "test": 1},
    )  # fmt: skip
    train = data.load(params)["train"]
    teacher = HFTeacher(
        options.model,
        max_new_tokens=options.new_tokens,
        batch=options.batch,
        dtype=load.precision("auto"),
    )
    in_context = prompts.InContext(train, options.examples, 0)

    def render(question, shots):
        return prompts.teacher_prompt(question, shots, forcing=True)

    asked = [
        teacher.rendered(
            prompts.fitted(e, in_context(e), render, teacher.tokens, options.max_prompt).text
        )
        for e in train
    ]

    def run(kind: type, batch: int) -> tuple[float, dict[int, str]]:
        teacher.__class__, teacher.batch = kind, batch
        start = time.perf_counter()
        said = dict(teacher.write(asked))
        tokens = sum(sum(each.tokens) for each in said.values())
        return tokens / (time.perf_counter() - start), {i: c.text for i, c in said.items()}

    ways = {
        "one prompt at a time": (InOrder, 1),
        "fixed batches in dataset order": (InOrder, options.batch),
        "sorted by length (the study's)": (HFTeacher, options.batch),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    texts = {}
    for _ in tqdm(range(options.rounds)):
        for name, way in ways.items():
            speed, texts[name] = run(*way)
            speeds[name].append(speed)
    lengths = sorted(len(ids) for ids in teacher._ids(asked))
    print(
        f"{options.model}, {len(asked)} questions of {options.dataset}, prompts of {lengths[0]} to "
        f"{lengths[-1]} tokens (median {lengths[len(lengths) // 2]}), {options.new_tokens} new "
        f"tokens at most, batches of {options.batch}, {torch.get_num_threads()} threads"
    )
    study = list(ways)[-1]
    for name, each in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds[study], each, strict=True)]
        same = sum(texts[name][i] == texts[study][i] for i in texts[study])
        print(
            f"{name:32} {median(each):7.0f} tokens/s; the study's is {median(ratios):.2f} times as "
            f"fast ({min(ratios):.2f} to {max(ratios):.2f}); {same} of {len(asked)} texts equal"
        )


if __name__ == "__main__":
    main()
