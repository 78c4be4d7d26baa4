"""Finished students, handed from machine to machine through results/.

python -m tinyllm.handover GRID          give runs/ the finished students that results/ holds,
                                         so that a grid goes on where another machine left it
python -m tinyllm.handover GRID --keep   store those that notebook 04 cannot store yet, since
                                         others of their study are not finished: they wait
                                         apart, and nothing is drawn from them
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd

from tinyllm import grid, results, runs
from tinyllm.params import ParameterError, Params
from tinyllm.results import HISTORY, PREDICTIONS, WAITING


def keep(params: Params) -> int:
    """Store the finished students that results/ lacks, apart from what is drawn; returns how many.

    Raises StaleRun, at the end, where run folders hold students of other parameters.
    """
    have = [manifest for manifest, _, _ in _kept(params)]
    count, stale = 0, []
    for arm, seed in product(params.arms, params.seeds):
        manifest = runs.read_manifest(results.student_folder(params, arm, seed))
        if manifest is None or manifest in have:
            continue
        try:
            folder = results.asked_folder(params, arm, seed)
        except runs.StaleRun as other:
            stale.append(str(other))
            continue
        there = results.waiting_folder(params, arm, seed)
        there.mkdir(parents=True, exist_ok=True)
        (there / runs.MANIFEST).unlink(missing_ok=True)  # written last, as in a run folder
        rows = results.read_predictions(folder / PREDICTIONS)
        results.pack(results.rounded(rows), there / PREDICTIONS)
        shutil.copy(folder / HISTORY, there / HISTORY)
        runs.write_json(there / runs.MANIFEST, manifest)
        count += 1
    if stale:
        raise runs.StaleRun("\n".join(stale))
    return count


def restore(params: Params) -> int:
    """Give the run folders of a study the students that results/ holds; returns how many.

    Only those that `params` ask for and that no run folder holds yet; those of other parameters
    stay where they are. Models are not stored, so a restored student has answers, learning curve
    and manifest, but cannot be asked anything new.
    """
    count = 0
    for manifest, rows, curve in _kept(params):
        arm, seed = _key(manifest)
        there = results.student_folder(params, arm, seed)
        wanted = arm in params.arms and seed in params.seeds
        if not wanted or results.differs(manifest, params):
            continue
        if (there / runs.MANIFEST).exists() or (there / runs.BEGUN).exists():
            continue
        there.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(there / PREDICTIONS, index=False)
        curve.to_csv(there / HISTORY, index=False)
        runs.write_json(there / "metrics.json", manifest["facts"])
        runs.write_json(there / runs.MANIFEST, manifest)
        count += 1
    return count


def _key(manifest: dict[str, Any]) -> tuple[str, int]:
    return manifest["spec"]["arm"], manifest["spec"]["seed"]


def _kept(params: Params) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Manifest, predictions and learning curve of every student in a study's results."""
    folder = results.stored_folder(params)
    if manifests := results.stored_manifests(folder):
        rows = results.read_predictions(folder / PREDICTIONS)
        curves = pd.read_csv(folder / HISTORY)
        for manifest in manifests:
            arm, seed = _key(manifest)
            mine = [(frame["arm"] == arm) & (frame["seed"] == seed) for frame in (rows, curves)]
            yield manifest, rows[mine[0]], curves[mine[1]].drop(columns=["arm", "seed"])
    for file in sorted((folder / WAITING).glob(f"*/{runs.MANIFEST}")):
        there = file.parent
        rows = results.read_predictions(there / PREDICTIONS)
        yield runs.read_manifest(there), rows, pd.read_csv(there / HISTORY)


def main(arguments: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid")
    parser.add_argument("--keep", action="store_true", help="from runs/ to results/")
    asked = parser.parse_args(arguments)
    stale = []
    for params in grid.load(asked.grid).studies:
        try:
            count = keep(params) if asked.keep else restore(params)
        except runs.StaleRun as other:
            stale.append(str(other))
            continue
        done = "kept" if asked.keep else "restored"
        print(f"{params.study}/{params.dataset}, {params.student}: {count} {done}")
    if stale:
        raise runs.StaleRun("\n".join(stale))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ParameterError, runs.StaleRun) as problem:
        sys.exit(str(problem))
