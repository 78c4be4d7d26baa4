"""The paper's numbers: Table 1 of v1 (arXiv 2402.04616v1) and its claims, data in `published/`.

The paper gives one run per cell, without seeds or answers by question. So only the noise from the
choice of test questions can be computed (see notebook 05). Accuracies are fractions of 1.
"""

from importlib import resources

import pandas as pd

from tinyllm.evaluation.accuracy import wilson
from tinyllm.params import DATASETS

SIZES = ("80M", "250M", "780M")  # the students: FLAN-T5 small, base and large
OURS, BASELINE = "TinyLLM", "Full fine-tuning"
METHODS = {"inference": "Inference", "lora": "LoRA", "finetune": BASELINE, "tinyllm": OURS}


def read(name: str) -> pd.DataFrame:
    """Read a file of `published/` as strings: claims, datasets or table1.

    claims: one row per claim of the paper: claim (short name), where, statement, kind (mean_gain,
        every_dataset, size_ratio, not_known, or worse: `arm` is worse than `baseline_arm`), size,
        method, baseline_size, baseline (rows of Table 1), stated (percent), published (what Table 1
        says), arm and baseline_arm (this study's arms that decide it; dss:* is every single
        teacher), test (the rule).
    datasets: counts of the release's datasets: dataset, name, options, train, valid, test,
        majority (of test), label, source.
    """
    file = resources.files("tinyllm.evaluation") / "published" / f"{name}.csv"
    with file.open(encoding="utf-8") as stream:
        return pd.read_csv(stream, keep_default_na=False, dtype=str)


def table1() -> pd.DataFrame:
    """Table 1 of v1, one row per cell, without its column of means.

    Columns: size, method, dataset, printed (percent), n (test questions), k (right answers; missing
    if no k / n rounds to the printed number), accuracy (k / n, else printed / 100), low and high
    (Wilson, 95%), source.
    """
    table = read("table1").rename(columns={"accuracy": "printed"})
    table = table[table["dataset"] != "mean"].reset_index(drop=True)
    table = table.assign(printed=table["printed"].astype(float), n=table["n"].astype(int))
    table["k"] = pd.to_numeric(table["k"])
    table["accuracy"] = (table["k"] / table["n"]).fillna(table["printed"] / 100)
    bounds = [wilson(row.accuracy * row.n, row.n) for row in table.itertuples()]
    table["low"], table["high"] = zip(*bounds, strict=True)
    return table


def row(size: str, method: str) -> pd.DataFrame:
    """The cells of one row of Table 1, by dataset."""
    table = table1()
    cells = table[(table["size"] == size) & (table["method"] == method)]
    return cells.set_index("dataset").loc[list(DATASETS)]
