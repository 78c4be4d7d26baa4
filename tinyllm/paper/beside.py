"""The published numbers beside this study's."""

from __future__ import annotations

import re

import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from tinyllm import stats
from tinyllm.paper.printed import ARM_METHODS, DATASETS, SIZES, STUDENT_SIZES, cell


def student_size(student: str) -> str | None:
    """The paper's size of a student (hub id, folder or alias); None for any but its three."""
    name = re.split(r"[/\\]", student.rstrip("/\\"))[-1].lower()
    return STUDENT_SIZES.get(name)


def compare(
    measured: pd.DataFrame, size: str | None = None, column: str = "correct"
) -> pd.DataFrame:
    """Published beside measured, a row a study, dataset, student and arm that Table 1 has too.

    measured: predictions on test. size: the published size to set beside students that are none of
        the paper's (default: 80M, the smallest); `same_student` tells which rows compare like with
        like. column: "correct", or "exact" for the paper's own metric (exact match).

    Columns: study, dataset, student, arm, method, size, same_student, metric, published,
    published_low, published_high, n_published, measured, low, high, n, seeds (Wilson, see
    `stats.accuracy`), delta (measured - published), delta_low, delta_high (Newcombe, unpaired).
    """
    lines = []
    for row in stats.accuracy(measured, column=column).to_dict("records"):
        if row["dataset"] not in DATASETS or row["arm"] not in ARM_METHODS:
            continue
        own = student_size(row["student"])
        beside = own or size or SIZES[0]
        theirs = cell(beside, ARM_METHODS[row["arm"]], row["dataset"])
        delta_low, delta_high = confint_proportions_2indep(
            *(row["k"], row["n"], int(theirs["k"]), int(theirs["n"])),
            method="newcomb",
            compare="diff",
        )
        lines.append(
            {
                **{name: row[name] for name in ("study", "dataset", "student", "arm")},
                "method": theirs["method"],
                "size": beside,
                "same_student": own is not None,
                "metric": column,
                "published": theirs["accuracy"],
                "published_low": theirs["low"],
                "published_high": theirs["high"],
                "n_published": int(theirs["n"]),
                "measured": row["estimate"],
                "low": row["low"],
                "high": row["high"],
                "n": row["n"],
                "seeds": row["seeds"],
                "delta": row["estimate"] - theirs["accuracy"],
                "delta_low": float(delta_low),
                "delta_high": float(delta_high),
            }
        )
    columns = "study dataset student arm method size same_student metric published published_low"
    columns += " published_high n_published measured low high n seeds delta delta_low delta_high"
    return pd.DataFrame(lines, columns=columns.split())
