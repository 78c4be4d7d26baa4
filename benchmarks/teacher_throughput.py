"""Tokens per second of a teacher with three batching methods.

    python benchmarks/teacher_throughput.py [--model smollm2] [--dataset piqa] [--questions 48]

single      one prompt at a time
fixed       batches in dataset order
sorted      as in the study: batches of similar length (`models.score.batches`)

The same model gets the same prompts (the study's, from the paper's release) with each method. The
methods take turns because timings are noisy, so compare the ratios. Tokens are input and output
tokens without padding.
"""

import argparse
import time
from collections.abc import Callable
from statistics import mean, median

import torch
from tqdm import tqdm

from tinyllm import prompts
from tinyllm.data import load as data
from tinyllm.models import load, score
from tinyllm.params import Params
from tinyllm.teachers.base import Completion
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


def in_order(rows, size):
    """Batches in dataset order."""
    for start in range(0, len(rows), size):
        yield list(range(start, min(start + size, len(rows))))


WAYS = {  # batching function, and whether batches hold more than one prompt
    "single": (in_order, False),
    "fixed": (in_order, True),
    "sorted": (score.batches, True),
}
parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))


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

    def render(question, shots):
        return prompts.teacher_prompt(question, shots, forcing=True)

    texts = [
        teacher.rendered(
            prompts.fitted(
                e,
                prompts.in_context(e, train, options.examples, 0),
                render,
                teacher.tokens,
                options.max_prompt,
            ).text
        )
        for e in train
    ]

    def run(way: Callable, batched: bool) -> tuple[list[float], dict[int, Completion]]:
        score.batches, teacher.batch = way, options.batch if batched else 1
        start = time.process_time(), time.perf_counter()
        replies = dict(teacher.write(texts))
        seconds = [time.process_time() - start[0], time.perf_counter() - start[1]]
        tokens = sum(sum(reply.tokens) for reply in replies.values())
        return [tokens / duration for duration in seconds], replies

    speeds: dict[str, list[list[float]]] = {name: [] for name in options.ways}
    replies = {}
    for _ in tqdm(range(options.rounds)):
        for name in options.ways:
            speed, replies[name] = run(*WAYS[name])
            speeds[name].append(speed)
    last = options.ways[-1]
    read, written = zip(*(reply.tokens for reply in replies[last].values()), strict=True)
    print(
        f"{options.model}, {len(texts)} questions of {options.dataset}, prompts of {min(read)} to "
        f"{max(read)} tokens, texts of {min(written)} to {max(written)} (mean "
        f"{mean(written):.0f}, at most {options.new_tokens}), batches of {options.batch}, "
        f"{torch.get_num_threads()} threads. Tokens per second of CPU and of wall time:"
    )
    for name in options.ways:
        cpu, wall = ([speed[kind] for speed in speeds[name]] for kind in (0, 1))
        against = [median(theirs) for theirs in zip(*speeds[last], strict=True)]
        same = sum(replies[name][i].text == reply.text for i, reply in replies[last].items())
        print(
            f"{name:9} {median(cpu):6.1f} and {median(wall):6.1f}; {last} is "
            f"{against[0] / median(cpu):.2f} and {against[1] / median(wall):.2f} times as fast; "
            f"{same} of {len(texts)} texts equal"
        )


if __name__ == "__main__":
    main()
