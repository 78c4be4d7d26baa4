"""The published numbers, what they can bear, and this study's numbers beside them.

The numbers are data in `published/`: Table 1 of v1 (arXiv 2402.04616v1), the release's test sets,
the claims. Nothing else is known of the paper's results: one run a cell, no seeds, no answers by
question. So the only noise that can be reckoned is the choice of test questions. Two arms are
compared as if they had answered different ones (unpaired): their answers to the same questions,
which would make the test sharper, are not published, nor is the spread of training runs, which
would make it blunter.

Accuracies, differences and relative gains are fractions of 1.
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
from scipy import stats as distributions
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from tinyllm import stats

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
SIZES = ("80M", "250M", "780M")  # the students, FLAN-T5 small, base and large
TEACHERS = {"3B": "FLAN-T5 xlarge (teacher)", "7B": "LLaMA 2 (teacher)"}
METHODS = ("Inference", "LoRA", "Full fine-tuning", "TinyLLM")
OURS, BASELINE = "TinyLLM", "Full fine-tuning"
ARM_METHODS = {"inference": "Inference", "lora": "LoRA", "finetune": BASELINE, "tinyllm": OURS}
STUDENT_SIZES = {"flan-t5-small": "80M", "flan-t5-base": "250M", "flan-t5-large": "780M"}
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


@cache
def _published(name: str) -> pd.DataFrame:
    with resources.files("tinyllm").joinpath("published", name).open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, dtype=str)


def table1(means: bool = False) -> pd.DataFrame:
    """Table 1 of v1, a row a cell; with `means` its last column too, as dataset "mean".

    Columns: size, method, dataset, printed (percent, as printed), accuracy (k / n where the printed
    number is one, else printed / 100), n (test questions in the release), k (right answers; missing
    where no k / n rounds to the printed number: three cells of the 7B teacher), low and high
    (Wilson, 95%; of k = accuracy x n where k is missing), source.
    """
    return _table1(means).copy()


@cache
def _table1(means: bool) -> pd.DataFrame:
    table = _published("table1.csv").copy()
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
    table = _published("datasets.csv").copy()
    for column in ("options", "train", "valid", "test", "majority"):
        table[column] = table[column].astype(int)
    table["majority"] = table["majority"] / table["test"]
    table["chance"] = 1 / table["options"]
    return table


def half_width(accuracy: float, n: int, confidence: float = 0.95) -> float:
    """Half-width of the normal interval of an accuracy measured on n questions."""
    z = distributions.norm.ppf((1 + confidence) / 2)
    return float(z * math.sqrt(accuracy * (1 - accuracy) / n))


def _cell(size: str, method: str, dataset: str) -> pd.Series:
    table = _table1(False)
    found = table[
        (table["size"] == size) & (table["method"] == method) & (table["dataset"] == dataset)
    ]
    if found.empty:
        raise ValueError(f"Table 1 has no {method!r} of size {size!r} on {dataset!r}")
    return found.iloc[0]


def gains(confidence: float = 0.95, alpha: float = 0.05) -> pd.DataFrame:
    """TinyLLM against full fine-tuning as published, a row a size and dataset.

    Columns: size, dataset, n, accuracy, low, high, baseline, baseline_low, baseline_high (Wilson),
    questions (so many more answered right), gain (difference), relative (gain / baseline),
    gain_low, gain_high (Wald), noise (its half-width: without any true gain, chance exceeds it in 1
    of 20 cases), z and p (unpaired, unpooled), needed (questions that it would take to tell a gain
    of this size with 80% power), significant (p < alpha), p_holm and significant_holm (Holm over
    all rows).
    """
    lines = []
    for size in SIZES:
        for dataset in DATASETS:
            mine, other = _cell(size, OURS, dataset), _cell(size, BASELINE, dataset)
            n = int(mine["n"])
            lines.append(
                {
                    "size": size,
                    "dataset": dataset,
                    "n": n,
                    "accuracy": mine["accuracy"],
                    "low": mine["low"],
                    "high": mine["high"],
                    "baseline": other["accuracy"],
                    "baseline_low": other["low"],
                    "baseline_high": other["high"],
                    "questions": int(mine["k"] - other["k"]),
                    **_unpaired(int(mine["k"]), int(other["k"]), n, confidence),
                }
            )
    table = stats.holm(pd.DataFrame(lines), alpha).rename(columns={"significant": "holm"})
    table["significant"], table["significant_holm"] = table["p"] < alpha, table.pop("holm")
    return table


def _unpaired(k: int, k_baseline: int, n: int, confidence: float) -> dict:
    """Two counts of right answers among n questions each: statsmodels' Wald test and interval."""
    test = test_proportions_2indep(k, n, k_baseline, n, method="wald", compare="diff")
    low, high = confint_proportions_2indep(
        k, n, k_baseline, n, method="wald", compare="diff", alpha=1 - confidence
    )
    gain = (k - k_baseline) / n
    noise = (high - low) / 2
    return {
        "gain": gain,
        "relative": gain / (k_baseline / n),
        "gain_low": low,
        "gain_high": high,
        "noise": noise,
        "z": float(test.statistic),
        "p": float(test.pvalue),
        "needed": _needed(gain, noise / distributions.norm.ppf((1 + confidence) / 2), n),
    }


def _needed(difference: float, se: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Questions that it would take to tell `difference`, if its error falls with sqrt(n)."""
    if difference == 0:
        return math.inf
    z = distributions.norm.ppf([1 - alpha / 2, power]).sum()
    return math.ceil(n * (z * se / difference) ** 2)


def mean_gain(
    size: str, method: str, baseline_size: str, baseline: str, confidence: float = 0.95
) -> dict:
    """Difference of two rows of Table 1 in their mean over the data sets, from k / n, not rounded.

    Keys: accuracy, baseline, gain, low, high (normal), se, relative, n (test questions in all),
    needed. The interval covers the choice of test questions alone.
    """
    pairs = [(_cell(size, method, d), _cell(baseline_size, baseline, d)) for d in DATASETS]
    mine, other = np.mean([[a["accuracy"], b["accuracy"]] for a, b in pairs], axis=0)
    variance = sum(
        x["accuracy"] * (1 - x["accuracy"]) / int(x["n"]) for pair in pairs for x in pair
    )
    se, gain = math.sqrt(variance) / len(pairs), float(mine - other)
    z = distributions.norm.ppf((1 + confidence) / 2)
    n = sum(int(a["n"]) for a, _ in pairs)
    return {
        "accuracy": float(mine),
        "baseline": float(other),
        "gain": gain,
        "se": se,
        "low": gain - z * se,
        "high": gain + z * se,
        "relative": gain / float(other),
        "n": n,
        "needed": _needed(gain, se, n),
    }


def sizes() -> pd.DataFrame:
    """Table 1 by the student's size, as points of `figures.accuracy_against`.

    A row a size, method and dataset, and one for the mean over the datasets ("mean"). Columns:
    dataset, student, arm (the method, or `teacher:NAME`), parameters (as the paper rounds them), n,
    seeds (1), estimate, low, high (Wilson; of the mean normal, over the choice of test questions),
    chance, majority.
    """
    table, facts = _table1(False), datasets().set_index("dataset")
    base = facts[["chance", "majority"]]
    cells = table.join(base, on="dataset").rename(columns={"accuracy": "estimate"})
    means = []
    for (size, method), rows in cells.groupby(["size", "method"], sort=False):
        found = mean_gain(size, method, size, method)
        half = distributions.norm.ppf(0.975) * found["se"] / math.sqrt(2)
        mean = found["accuracy"]
        means.append(
            {
                **{"size": size, "method": method, "dataset": "mean", "n": found["n"]},
                **{"estimate": mean, "low": mean - half, "high": mean + half},
                **rows[["chance", "majority"]].mean().to_dict(),
            }
        )
    cells = pd.concat([pd.DataFrame(means), cells], ignore_index=True)
    teacher = cells["method"].isin(TEACHERS.values())
    name = cells["method"].str.removesuffix(" (teacher)")
    cells["arm"] = cells["method"].where(~teacher, "teacher:" + name)
    cells["parameters"] = cells["size"].map(_parameters)
    columns = "dataset student arm parameters n seeds estimate low high chance majority"
    return cells.assign(student="FLAN-T5", seeds=1)[columns.split()]


# --- beside this study -------------------------------------------------------------------------


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
        cell = _cell(beside, ARM_METHODS[row["arm"]], row["dataset"])
        delta_low, delta_high = confint_proportions_2indep(
            *(row["k"], row["n"], int(cell["k"]), int(cell["n"])), method="newcomb", compare="diff"
        )
        lines.append(
            {
                **{name: row[name] for name in ("study", "dataset", "student", "arm")},
                "method": cell["method"],
                "size": beside,
                "same_student": own is not None,
                "metric": column,
                "published": cell["accuracy"],
                "published_low": cell["low"],
                "published_high": cell["high"],
                "n_published": int(cell["n"]),
                "measured": row["estimate"],
                "low": row["low"],
                "high": row["high"],
                "n": row["n"],
                "seeds": row["seeds"],
                "delta": row["estimate"] - cell["accuracy"],
                "delta_low": float(delta_low),
                "delta_high": float(delta_high),
            }
        )
    columns = "study dataset student arm method size same_student metric published published_low"
    columns += " published_high n_published measured low high n seeds delta delta_low delta_high"
    return pd.DataFrame(lines, columns=columns.split())


# --- claims ------------------------------------------------------------------------------------


def claims() -> pd.DataFrame:
    """The paper's claims, a row each.

    Columns: claim (short name), where (it stands), statement, kind (how the published numbers
    decide it), size, method, baseline_size, baseline (rows of Table 1), stated (relative gain or
    share, in percent; empty if none), arm, baseline_arm (this study's arms that decide it; dss:* is
    the best single teacher), test (the rule in words).
    """
    return _published("claims.csv").copy()


def ledger(measured: pd.DataFrame | None = None) -> pd.DataFrame:
    """What can be said of each claim, a row a claim and evidence: published, then this study's.

    measured: predictions on test. Only the paper's data sets count (the micro world says nothing of
        the paper); a claim about one of the paper's sizes is decided by that student alone, and by
        all six data sets. The verdict is on the direction of the difference; of published numbers
        it is also on the arithmetic: the stated gain must follow from the table.

    Columns: claim, statement, where, evidence ("published", or study and student), verdict
    ("holds", "does not hold", "cannot be told"), stated, relative, gain, low, high, n (questions),
    needed (questions that it would take for a gain of this size, with 80% power), why.
    """
    lines, known = [], {}
    for claim in claims().to_dict("records"):
        about = {name: claim[name] for name in ("claim", "statement", "where")}
        about["stated"] = float(claim["stated"]) / 100 if claim["stated"] else np.nan
        lines.append({**about, "evidence": "published", **_judge_published(claim)})
        lines += [{**about, **line} for line in _judge_measured(claim, measured, known)]
    columns = "claim statement where evidence verdict stated relative gain low high n needed why"
    return pd.DataFrame(lines, columns=columns.split())


def _judge_published(claim: dict) -> dict:
    """The verdict of Table 1 on a claim."""
    stated = float(claim["stated"]) if claim["stated"] else None
    rows = (claim["size"], claim["method"], claim["baseline_size"], claim["baseline"])
    if claim["kind"] == "not_known":
        return {"verdict": OPEN, "why": "the numbers behind it are not known here"}
    if claim["kind"] == "size_ratio":
        share = 100 * _parameters(claim["size"]) / _parameters(claim["baseline_size"])
        agrees = _rounds_to(share, claim["stated"])
        return {
            "verdict": HOLDS if agrees else FAILS,
            "relative": share / 100,
            "why": f"{claim['size']} / {claim['baseline_size']} = {share:.2f}%",
        }
    if claim["kind"] == "mean_gain":
        found = mean_gain(*rows)
        line = {name: found[name] for name in ("relative", "gain", "low", "high", "n", "needed")}
        if stated is not None and not _follows(found["accuracy"], found["baseline"], stated):
            why = f"Table 1 gives {found['relative']:+.2%}, not {stated:+.2f}%; {_points(found)}"
            return {**line, "verdict": FAILS, "why": why}
        return {**line, "verdict": _verdict(found["low"], found["high"]), "why": _points(found)}
    if claim["kind"] == "every_dataset":
        table = gains()
        table = table.loc[table["size"] == claim["size"]].drop(columns=["low", "high"])
        table = table.rename(columns={"gain_low": "low", "gain_high": "high"})
        return _every(stats.holm(table))
    raise ValueError(f"claims.csv: column 'kind': {claim['kind']!r} is unknown")


def _judge_measured(claim: dict, measured: pd.DataFrame | None, known: dict) -> list[dict]:
    """This study's verdicts on a claim: one a study and student, or why there is none.

    known: differences that earlier claims asked for, by study, student and arms.
    """

    def none(why: str) -> list[dict]:
        return [{"evidence": "this study", "verdict": OPEN, "why": why}]

    if claim["kind"] == "size_ratio":
        return none("nothing to measure")
    if not claim["arm"]:
        return none("no arm of this study decides it so far")
    if measured is None or measured.empty:
        return none("no runs")
    rows = measured[measured["dataset"].isin(DATASETS)]
    if claim["size"] != "any":
        rows = rows[rows["student"].map(student_size) == claim["size"]]
    lines = []
    for (study, student), part in rows.groupby(["study", "student"]):
        key = (study, student, claim["arm"], claim["baseline_arm"])
        if key not in known:
            known[key] = _differences(part, *key[2:])
        table = known[key]
        if table is None:
            continue
        overall = table.attrs["mean"]
        if claim["kind"] == "every_dataset":
            line = _every(table)
        else:
            line = {**overall, "verdict": _verdict(overall["low"], overall["high"])}
            line["why"] = _points(overall)
        on = ", ".join(table["dataset"])
        line["why"] += f"; {table.attrs['baseline']}; on {on}; seeds: {overall['seeds']}"
        if claim["size"] != "any" and len(table) < len(DATASETS) and line["verdict"] == HOLDS:
            line["verdict"] = OPEN
            line["why"] += f"; not measured on {len(DATASETS) - len(table)} of its datasets"
        lines.append({"evidence": f"{study} / {student}", **line})
    what = (
        "one of the paper's datasets" if claim["size"] == "any" else f"the {claim['size']} student"
    )
    return lines or none(f"no run of {claim['arm']} and {claim['baseline_arm']} with {what}")


def _differences(rows: pd.DataFrame, arm: str, baseline: str) -> pd.DataFrame | None:
    """Paired differences a dataset (Holm-corrected), and in attrs their mean; None without data.

    A baseline `dss:*` is the single teacher with the best mean accuracy on these data sets. Data
    sets without both arms are left out (the verdict names those that count).
    """
    names = sorted(rows["arm"].unique())
    options = [x for x in names if x.startswith("dss:")] if baseline == "dss:*" else [baseline]
    options = [name for name in options if name in names]
    if arm not in names or not options:
        return None
    have = rows[rows["arm"].isin([arm, *options])].groupby("dataset")["arm"].unique()
    complete = [name for name in DATASETS if name in have and {arm, *options} <= set(have[name])]
    if not complete:
        return None
    rows = rows[rows["dataset"].isin(complete)]
    found = [stats.paired(rows, arm, option) for option in options]
    best = max(found, key=lambda line: line["baseline_accuracy"])["baseline"]
    lines = []
    for name in complete:
        line = stats.paired(rows[rows["dataset"] == name], arm, best)
        lines.append({"dataset": name, **_as_gain(line)})
    table = stats.holm(pd.DataFrame(lines))
    overall = next(line for line in found if line["baseline"] == best)
    table.attrs = {"mean": _as_gain(overall), "baseline": f"{arm} against {best}"}
    return table


def _as_gain(line: dict) -> dict:
    """A line of `stats.paired` in the ledger's names."""
    relative = (
        line["difference"] / line["baseline_accuracy"] if line["baseline_accuracy"] else np.nan
    )
    return {
        "gain": line["difference"],
        "low": line["low"],
        "high": line["high"],
        "p": line["p"],
        "relative": relative,
        "n": line["n"],
        "seeds": line["seeds"],
        "needed": _needed(line["difference"], line["se"], line["n"]),
    }


def _every(table: pd.DataFrame) -> dict:
    """The verdict on a gain on every dataset: columns gain, low, high, n, needed, significant."""
    better = table["significant"] & (table["gain"] > 0)
    worse = table["significant"] & (table["gain"] < 0)
    verdict = FAILS if worse.any() else HOLDS if better.all() else OPEN
    weakest = table.loc[table["gain"].idxmin()]
    why = f"beyond noise on {better.sum()} of {len(table)} datasets (Holm)"
    if worse.any():
        why += f", worse on {', '.join(table.loc[worse, 'dataset'])}"
    why += f"; the smallest gain is on {weakest['dataset']} (numbers of this row)"
    columns = ("relative", "gain", "low", "high", "n", "needed")
    return {"verdict": verdict, "why": why, **{name: weakest[name] for name in columns}}


def _verdict(low: float, high: float) -> str:
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def _points(line: dict) -> str:
    """A difference with its interval, in words."""
    gain, low, high = (100 * line[name] for name in ("gain", "low", "high"))
    return f"{gain:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}"


def _parameters(size: str) -> float:
    """`80M` as 80 million."""
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


def _rounds_to(value: float, printed: str) -> bool:
    """True if `value` (percent) rounds to the number as printed, in its own decimals."""
    decimals = len(printed.partition(".")[2])
    return abs(value - float(printed)) <= 0.5 * 10**-decimals + 1e-9


def _follows(accuracy: float, baseline: float, stated: float) -> bool:
    """True if a relative gain, in percent with two decimals, follows from two mean accuracies.

    The paper may have divided its printed means, which are rounded to 0.01 points: so much room.
    """
    room = 0.5e-4
    least = (accuracy - room) / (baseline + room) - 1
    most = (accuracy + room) / (baseline - room) - 1
    return 100 * least - 0.005 <= stated <= 100 * most + 0.005
