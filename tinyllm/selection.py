"""The learning rate of a study, chosen on valid by a rule that is written down.

    python -m tinyllm.selection laptop_search     writes results/selection.csv and prints the choice

The grid's studies differ in `lr` alone, and their test is cut to one question, so that nobody can
look at it. For each dataset and student: a rate's worth is the accuracy on valid of the best
checkpoint, averaged over the grid's arms and seeds, so that no arm is favoured. A rate whose
fine-tuning, the cheapest arm, is more than two standard errors below the best one's is given up,
and no other arm need be trained with it. If one rate is left, it is taken, whatever else was
trained with it. Else the rate with the highest mean is taken; among rates within one standard error
of it, the smallest. The standard error is a share's over the questions of valid, as if the arms'
answers depended on each other wholly: it errs towards the smaller rate.
"""

from __future__ import annotations

import sys
from math import sqrt

import pandas as pd

from tinyllm import grid, paths, results, runs
from tinyllm.params import ParameterError

FILE = "selection.csv"
SCREEN = "finetune"  # the arm by which rates are given up
KEYS = ["dataset", "student"]


def collect(name: str) -> pd.DataFrame:
    """What the finished students of a grid reached on valid: a row a student.

    Columns: dataset, student, lr, epochs, arm, seed, valid_accuracy, n (questions of valid).
    """
    rows = []
    for params in grid.load(name).studies:
        data = runs.read_manifest(paths.study(params.study, params.dataset) / "data")
        for arm in params.arms:
            for seed in params.seeds:
                student = runs.read_manifest(results.student_folder(params, arm, seed))
                if student is None:
                    continue
                row = {"dataset": params.dataset, "student": params.student, "lr": params.lr}
                row |= {"epochs": params.epochs, "arm": arm, "seed": seed}
                row["valid_accuracy"] = student["facts"]["valid_accuracy"]
                rows.append(row | {"n": data["facts"]["rows"]["valid"]})
    return pd.DataFrame(rows)


def choose(students: pd.DataFrame) -> pd.DataFrame:
    """The rule of the module, on a frame of `collect`: a row a dataset, student and rate.

    Columns: dataset, student, epochs, lr, one an arm (its accuracy on valid, mean over seeds),
    mean, se, n, given_up, chosen. Raises ValueError where rates that were not given up were not
    tried with the same arms and seeds.
    """
    tables = []
    for key, part in students.groupby(KEYS, sort=False):
        n = int(part["n"].iloc[0])
        wide = part.pivot(index="lr", columns=["arm", "seed"], values="valid_accuracy").sort_index()
        screen = wide[SCREEN].mean(axis=1, skipna=False)
        given_up = screen < screen.max() - 2 * _se(screen.max(), n)
        lacking = wide[~given_up].isna()
        if len(lacking) > 1 and lacking.any(axis=None):
            lr = lacking.any(axis=1).idxmax()
            arm, seed = lacking.loc[lr].idxmax()
            raise ValueError(f"{'/'.join(key)}: lr {lr:g}: {arm}, seed {seed}, is not finished")
        table = wide.T.groupby(level="arm", sort=False).mean().T
        mean = wide[~given_up].mean(axis=1)
        best = mean.max()
        se = _se(best, n)
        table = table.assign(mean=mean, se=se, n=n, given_up=given_up, chosen=False)
        table.loc[mean[mean >= best - se].index.min(), "chosen"] = True
        table.insert(0, "epochs", part["epochs"].iloc[0])
        tables.append(table.reset_index().assign(**dict(zip(KEYS, key, strict=True))))
    frame = pd.concat(tables, ignore_index=True)
    return frame[[*KEYS, *(name for name in frame if name not in KEYS)]]


def _se(share: float, n: int) -> float:
    return sqrt(share * (1 - share) / n)


def stored() -> pd.DataFrame:
    """What was chosen so far: `choose` as it is stored; an empty frame where nothing is."""
    file = paths.results() / FILE
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*KEYS, "lr", "chosen"])


def main(arguments: list[str]) -> None:
    """Choose, for each dataset whose students are all finished; others keep what is stored."""
    students = collect(arguments[0])
    found = [old for old in [stored()] if len(old)]
    for key, part in students.groupby(KEYS, sort=False):
        rates = {p.lr for p in grid.load(arguments[0]).studies if (p.dataset, p.student) == key}
        try:
            if missing := rates - set(part["lr"]):
                raise ValueError(f"{'/'.join(key)}: lr {min(missing):g} is not finished")
            found.append(choose(part))
        except ValueError as unfinished:
            print(f"not yet: {unfinished}")
    table = pd.concat(found, ignore_index=True).drop_duplicates([*KEYS, "lr"], keep="last")
    file = paths.results() / FILE
    table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    print(table.to_string(index=False, float_format="%.4g"))
    print(f"written: {paths.shown(file)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ParameterError as problem:
        sys.exit(str(problem))
