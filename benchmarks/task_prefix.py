"""One encoder pass a question: what `task_prefix: decoder` does to accuracy and to time, on micro.

    python benchmarks/task_prefix.py [--arms finetune tinyllm] [--seeds 0 1 2] [--study micro]

Students of the micro study with the prefix in the encoder's input (the paper's way) and in the
decoder's. They learn from the same questions and rationales, are trained one at a time and take
turns, so that what else the machine does falls on both. Questions and rationales are the study's,
if it is there; else they are made first (about four minutes). Accuracies are of the test split with
Wilson 95% intervals, differences are paired (see `tinyllm.stats`), times are of training alone.
"""

from __future__ import annotations

import argparse
import shutil
from statistics import mean

import pandas as pd

from tinyllm import data, distill, paths, rationales, results, stats
from tinyllm.params import Params

WAYS = ("encoder", "decoder")


def studies(arms: list[str], seeds: list[int], source: str) -> dict[str, Params]:
    """A study for each way, with the same questions and rationales."""
    found = {}
    for way in WAYS:
        params = Params.checked(
            study=f"task-prefix-{way}", task_prefix=way, arms=arms, seeds=seeds, workers=1
        )
        here = paths.study(params.study, params.dataset)
        for part in ("data", "teachers", "rationales"):
            there = paths.study(source, params.dataset) / part
            if there.is_dir() and not (here / part).exists():
                shutil.copytree(there, here / part)
        if not (here / "data").exists():
            data.save(data.load(params), here / "data", params)
        rationales.collect_all(params)
        found[way] = params
        source = params.study  # what was made for the first way serves the second
    return found


def main() -> None:
    """Train, then print accuracies, differences and times."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--arms", nargs="+", default=["finetune", "tinyllm"])
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument("--study", default="micro", help="whose questions and rationales to use")
    given = asked.parse_args()
    both = studies(given.arms, given.seeds, given.study)
    for seed in given.seeds:
        for arm in given.arms:
            for way in WAYS if seed % 2 else WAYS[::-1]:
                distill.train(both[way], arm, seed)
    rows, seconds = [], {}
    for way, params in both.items():
        rows.append(results.collect(params)[0].assign(study="task-prefix", arm_of=way))
        taken = results.facts(params).groupby("arm").train_seconds
        seconds |= {(arm, way): mean(each) for arm, each in taken}
    predictions = pd.concat(rows, ignore_index=True)
    for arm in given.arms:
        two = predictions[predictions.arm == arm].drop(columns="arm")
        two = two.rename(columns={"arm_of": "arm"})
        table = stats.accuracy(two, by=["arm"]).set_index("arm")
        table["train seconds"] = pd.Series({way: seconds[arm, way] for way in WAYS})
        print(f"\n{arm}")
        print(table[["n", "seeds", "estimate", "low", "high", "train seconds"]].round(3))
        gap = stats.paired(two, "decoder", "encoder")
        speed = seconds[arm, "encoder"] / seconds[arm, "decoder"]
        print(
            f"decoder - encoder: {100 * gap['difference']:+.1f} points "
            f"({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}), {speed:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
