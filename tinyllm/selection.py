"""The learning rate of a study, chosen on valid by a rule that is written down.

    python -m tinyllm.selection [GRID]      writes results/selection.csv and prints it

It keeps the manifests of the search's finished students too (results/selection_students.jsonl), so
that a search can be stopped and go on, on another machine if need be.

The grid's studies differ in `lr` alone, and their test is cut to one question, so that nobody can
look at it. For each dataset and student: a rate's worth is the accuracy on valid of the best
checkpoint, averaged over the grid's arms and seeds, so that no arm is favoured. A rate whose
fine-tuning, the cheapest arm, is more than two standard errors below the best one's is given up,
and no other arm need be trained with it. If one rate is left, it is taken, whatever else was
trained with it. Else the rate with the highest mean is taken; among rates within one standard error
of it, the smallest. That is the whole rule for a student's first dataset in the grid; the others
keep that dataset's rate where fine-tuning does not give it up, and need the other arms only where
it does: a search of all arms takes hours for each dataset. The standard error is a share's over the
questions of valid, as if the arms' answers depended on each other wholly: it errs towards the
smaller rate.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from math import sqrt
from typing import Any

import pandas as pd

from tinyllm import grid, paths, results, runs
from tinyllm.params import ParameterError, Params

FILE = "selection.csv"
STUDENTS = "selection_students.jsonl"  # a line a finished student, so that a search can go on
SCREEN = "finetune"  # the arm by which rates are given up
KEYS = ["dataset", "student"]


def finished(name: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The grid's finished students, by study, dataset, student, arm and seed: `key`, these five,
    `n` (questions of valid) and `manifest`. Of runs/, and of results/ where runs/ has none of these
    parameters: a search takes hours, and need not be made in one go on one machine."""
    file = paths.results() / STUDENTS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = {tuple(one["key"]): one for one in map(json.loads, lines)}
    for params in grid.load(name).studies:
        data = runs.read_manifest(paths.study(params.study, params.dataset) / "data")
        for arm, seed in product(params.arms, params.seeds):
            manifest = runs.read_manifest(results.student_folder(params, arm, seed))
            if data and manifest and not results.differs(manifest, params):
                key, n = _key(params, arm, seed), data["facts"]["rows"]["valid"]
                found[key] = {"key": list(key), "n": n, "manifest": manifest}
    return found


def _key(params: Params, arm: str, seed: int) -> tuple[str, ...]:
    return params.study, params.dataset, params.student, arm, str(seed)


def collect(name: str) -> pd.DataFrame:
    """What the students of a grid reached on valid: a row a student that the grid asks for.

    Columns: dataset, student, lr, epochs, arm, seed, valid_accuracy (empty where that student is
    not finished, or was made with other parameters), n (questions of valid).
    """
    rows, found = [], finished(name)
    for params in grid.load(name).studies:
        base = {"dataset": params.dataset, "student": params.student}
        base |= {"lr": params.lr, "epochs": params.epochs}
        for arm, seed in product(params.arms, params.seeds):
            one = found.get(_key(params, arm, seed))
            if one and results.differs(one["manifest"], params):
                one = None
            accuracy = one["manifest"]["facts"]["valid_accuracy"] if one else None
            n = one["n"] if one else None
            rows.append({**base, "arm": arm, "seed": seed, "valid_accuracy": accuracy, "n": n})
    return pd.DataFrame(rows)


def choose(students: pd.DataFrame, kept: float | None = None) -> pd.DataFrame:
    """The rule of the module, for the students of one dataset in a frame of `collect`.

    kept: the rate of the student's first dataset; None if this is the first.
    Returns a row a rate: dataset, student, epochs, lr, a column an arm (its accuracy on valid, mean
    over seeds), mean, se, n, given_up, chosen. Raises ValueError where a student that the rule
    needs has no accuracy, where fine-tuning or the kept rate was not tried, or where a rate stands
    for several studies.
    """
    key = dict(zip(KEYS, students[KEYS].iloc[0], strict=True))
    name = "/".join(key.values())
    if SCREEN not in set(students["arm"]):
        raise ValueError(f"{name}: the rule needs the arm {SCREEN!r}, which is not tried")
    if (twice := students.duplicated(["lr", "arm", "seed"])).any():
        raise ValueError(f"{name}: lr {students.loc[twice, 'lr'].iloc[0]:g} stands in two studies")
    wide = students.pivot(index="lr", columns=["arm", "seed"], values="valid_accuracy").sort_index()
    screen = wide[SCREEN].mean(axis=1, skipna=False)
    if (lacking := screen.isna()).any():
        raise ValueError(f"{name}: lr {lacking.idxmax():g}: {SCREEN} is not finished")
    n = int(students["n"].max())
    given_up = screen < screen.max() - 2 * _se(screen.max(), n)
    if kept is not None and kept not in given_up:
        raise ValueError(f"{name}: lr {kept:g}, the first dataset's, is not tried")
    keeps = kept is not None and not given_up[kept]
    lacking = wide[~given_up].isna()
    if len(lacking) > 1 and not keeps and lacking.any(axis=None):
        lr = lacking.any(axis=1).idxmax()
        arm, seed = lacking.loc[lr].idxmax()
        raise ValueError(f"{name}: lr {lr:g}: {arm}, seed {seed}, is not finished")
    mean = wide[~given_up].dropna(axis="columns").mean(axis=1)  # over what all of them have
    best = mean.max()
    se = _se(best, n)
    chosen = kept if keeps else mean[mean >= best - se].index.min()
    table = wide.T.groupby(level="arm", sort=False).mean().T
    table = table.assign(mean=mean, se=se, n=n, given_up=given_up, chosen=table.index == chosen)
    table.insert(0, "epochs", students["epochs"].iloc[0])
    table = table.reset_index().assign(**key)
    return table[[*KEYS, *(column for column in table if column not in KEYS)]]


def _se(share: float, n: int) -> float:
    return sqrt(share * (1 - share) / n)


def stored() -> pd.DataFrame:
    """What was chosen so far: `choose` as it is stored; an empty frame where nothing is."""
    file = paths.results() / FILE
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*KEYS, "lr", "chosen"])


def main(arguments: list[str]) -> None:
    """Keep what is finished, and choose for each dataset whose students all are; others keep what
    is stored."""
    lines = [json.dumps(one) for _, one in sorted(finished(arguments[0]).items())]
    file = paths.results() / STUDENTS
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    table = stored()
    first: dict[str, tuple[str, float | None]] = {}  # by student: its first dataset, the rate there
    for key, part in collect(arguments[0]).groupby(KEYS, sort=False):
        here = (table[KEYS] == list(key)).all(axis=1)
        dataset, kept = first.get(key[1], ("", None))
        try:
            if dataset and kept is None:
                raise ValueError(f"{key[1]}: {dataset}, its first dataset, has no rate yet")
            new = choose(part, kept)
        except ValueError as unfinished:
            print(f"not yet: {unfinished}")
            new = table[here]
        others = table[~here]
        table = pd.concat([others, new], ignore_index=True) if len(others) else new
        rates = new.loc[new["chosen"].astype(bool), "lr"]
        first.setdefault(key[1], (key[0], rates.iloc[0] if len(rates) else None))
    file = paths.results() / FILE
    table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    print(table.to_string(index=False, float_format="%.4g"))
    print(f"written: {paths.shown(file)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or ["laptop_search"])
    except ParameterError as problem:
        sys.exit(str(problem))
