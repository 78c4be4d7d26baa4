"""Public datasets from the Hugging Face hub.

Tested on rows of the hub's schemas, but never on the hub itself, which was not reachable.
"""

import warnings
from typing import Any

from tinyllm.data import files
from tinyllm.data.question import DataError, Question, Splits, drawn, listed

# Repository, configuration and revision (None: the default branch). If the default branch needs a
# script, which datasets >= 4 does not run, the revision is the hub's own parquet conversion.
HUB = {
    "obqa": ("allenai/openbookqa", "main", None),
    "arc": ("allenai/ai2_arc", "ARC-Challenge", None),
    "piqa": ("ybisk/piqa", None, "refs/convert/parquet"),
    "riddle": ("INK-USC/riddle_sense", None, "refs/convert/parquet"),
    "pubmedqa": ("qiaojin/PubMedQA", "pqa_labeled", None),
}


def origin(dataset: str) -> tuple[str, str | None, str | None]:
    """Repository, configuration and revision; DataError if the dataset is not on the hub."""
    if dataset not in HUB:
        raise DataError(f"{dataset} is not on the hub; use `source: release` or file:PATH")
    return HUB[dataset]


def questions(dataset: str) -> Splits:
    """Train, valid and test of a public dataset; warns about rows that are skipped.

    The test labels of PIQA and RiddleSense are not public, so their validation split is divided in
    halves. PubMedQA's only split is divided 500/100/400. Both divisions are random, so the splits
    differ from the release's. Raises DataError if the hub cannot be reached.
    """
    train, seed = _rows(dataset, "train"), f"split:{dataset}"
    if dataset == "pubmedqa":
        train, valid, test = drawn(train, [500, 100], seed)
    elif dataset in ("piqa", "riddle"):
        valid = _rows(dataset, "validation")
        valid, test = drawn(valid, [(len(valid) + 1) // 2], seed)
    else:
        valid, test = _rows(dataset, "validation"), _rows(dataset, "test")
    return {"train": train, "valid": valid, "test": test}


def question_of(dataset: str, row: dict[str, Any], name: str) -> Question:
    """Convert a row of the hub to a Question; raises ValueError, with the reason, if invalid."""
    if dataset == "piqa":
        label = {0: "A", 1: "B"}.get(row["label"])
        row = {"question": row["goal"], "A": row["sol1"], "B": row["sol2"], "label": label}
    elif dataset == "pubmedqa":
        row = {
            "id": row["pubid"],
            "context": " \n ".join(row["context"]["contexts"]),  # as in the release
            "question": row["question"],
            "options": ["yes", "no", "maybe"],
            "answer": row["final_decision"],
            "rationale": row["long_answer"],
        }
    return files.question_of(row, name, {})


def _rows(dataset: str, split: str) -> list[Question]:
    import datasets  # imported here: it takes a second, and only this source needs it

    repository, config, revision = origin(dataset)
    try:
        table = datasets.load_dataset(repository, config, split=split, revision=revision)
    except OSError as error:  # ConnectionError and the hub's own errors are OSErrors
        raise DataError(f"{repository}: {error}; without a hub use source: release") from error
    good, bad = [], []
    for index, row in enumerate(table):
        try:
            good.append(question_of(dataset, row, f"{split}-{index}"))
        except ValueError as error:
            bad.append(f"{repository} {split}, row {index}: {error}")
    if bad:
        warnings.warn(f"skipped {listed(bad)}", stacklevel=2)
    return good
