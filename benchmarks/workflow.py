"""What the batch workflow costs: a study through Snakemake, and its notebooks by papermill alone.

    python benchmarks/workflow.py [--arms finetune tinyllm] [--seeds 0]

Both run the five notebooks of the micro study from nothing, in run folders of their own; papermill
alone runs one after the other, as by hand. The fewer the students, the more of the time is the
workflow's own, so the default, two students, is the hard case; `--arms all --seeds 0 1 2` is the
micro study.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tinyllm import grid, paths


def main() -> None:
    """Run both and print seconds and their ratio."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--arms", nargs="+", default=["finetune", "tinyllm"])
    asked.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = asked.parse_args()
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "micro.yaml"
        file.write_text(yaml.safe_dump({"arms": given.arms, "seeds": given.seeds}))
        local = paths.ROOT / "profiles" / "local"
        snakemake = ["snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
        snakemake += ["--profile", str(local), "--config", f"grid={file}"]
        papermill = [
            ["papermill", "--no-progress-bar", "-f", str(file), str(source), f"{source.stem}.ipynb"]
            for source in (paths.ROOT / "notebooks" / f"{n}.ipynb" for n in grid.RULES.values())
        ]
        for way, commands in {"papermill": papermill, "snakemake": [snakemake]}.items():
            there = folder / way
            there.mkdir()
            places = {f"TINYLLM_{x}": str(there / x) for x in ("RUNS", "FIGURES", "RESULTS")}
            start = time.perf_counter()
            for command in commands:
                subprocess.run(
                    [sys.executable, "-m", *command], cwd=there, env=os.environ | places,
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            seconds[way] = time.perf_counter() - start
            print(f"{way:10} {seconds[way]:7.1f} s", flush=True)
    print(f"snakemake takes {seconds['snakemake'] / seconds['papermill']:.2f} times as long")


if __name__ == "__main__":
    main()
