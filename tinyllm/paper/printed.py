"""Table 1 of v1 and the release's data sets, as data with their source."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from tinyllm import stats

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
SIZES = ("80M", "250M", "780M")  # the students, FLAN-T5 small, base and large
TEACHERS = {"3B": "FLAN-T5 xlarge (teacher)", "7B": "LLaMA 2 (teacher)"}
METHODS = ("Inference", "LoRA", "Full fine-tuning", "TinyLLM")
OURS, BASELINE = "TinyLLM", "Full fine-tuning"
ARM_METHODS = {"inference": "Inference", "lora": "LoRA", "finetune": BASELINE, "tinyllm": OURS}
STUDENT_SIZES = {"flan-t5-small": "80M", "flan-t5-base": "250M", "flan-t5-large": "780M"}


@cache
def published_file(name: str) -> pd.DataFrame:
    with resources.files("tinyllm").joinpath("published", name).open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, dtype=str)


def table1(means: bool = False) -> pd.DataFrame:
    """Table 1 of v1, a row a cell; with `means` its last column too, as dataset "mean".

    Columns: size, method, dataset, printed (percent, as printed), accuracy (k / n where the printed
    number is one, else printed / 100), n (test questions in the release), k (right answers; missing
    where no k / n rounds to the printed number: three cells of the 7B teacher), low and high
    (Wilson, 95%; of k = accuracy x n where k is missing), source.
    """
    return whole_table(means).copy()


@cache
def whole_table(means: bool) -> pd.DataFrame:
    table = published_file("table1.csv").copy()
    if not means:
        table = table[table["dataset"] != "mean"].reset_index(drop=True)
    table["printed"] = table.pop("accuracy").astype(float)
    for column in ("n", "k"):
        table[column] = pd.to_numeric(table[column]).astype("Int64")
    table["accuracy"] = [
        line.printed / 100 if pd.isna(line.k) else line.k / line.n for line in table.itertuples()
    ]
    bounds = [
        (np.nan, np.nan) if pd.isna(line.n) else stats.wilson(line.accuracy * line.n, line.n)
        for line in table.itertuples()
    ]
    table["low"], table["high"] = zip(*bounds, strict=True)
    columns = ["size", "method", "dataset", "printed", "accuracy", "n", "k", "low", "high"]
    return table[[*columns, "source"]]


def datasets() -> pd.DataFrame:
    """The release's data sets, a row each, as counted in its files.

    Columns: dataset, name (the paper's), options, train, valid, test (questions), majority (share
    of the commonest gold label of test), label (its text, or its place where texts differ), source
    and chance (1 / options).
    """
    table = published_file("datasets.csv").copy()
    for column in ("options", "train", "valid", "test", "majority"):
        table[column] = table[column].astype(int)
    table["majority"] = table["majority"] / table["test"]
    table["chance"] = 1 / table["options"]
    return table


def cell(size: str, method: str, dataset: str) -> pd.Series:
    table = whole_table(False)
    found = table[
        (table["size"] == size) & (table["method"] == method) & (table["dataset"] == dataset)
    ]
    if found.empty:
        raise ValueError(f"Table 1 has no {method!r} of size {size!r} on {dataset!r}")
    return found.iloc[0]


def parameters(size: str) -> float:
    """`80M` as 80 million."""
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
