"""The paper's claims one by one, and what published and measured numbers say of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tinyllm import stats
from tinyllm.paper.beside import student_size
from tinyllm.paper.noise import gains, mean_gain
from tinyllm.paper.printed import DATASETS, parameters, published_file

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


def claims() -> pd.DataFrame:
    """The paper's claims, a row each.

    Columns: claim (short name), where (it stands), statement, kind (how the published numbers
    decide it), size, method, baseline_size, baseline (rows of Table 1), stated (relative gain or
    share, in percent; empty if none), arm, baseline_arm (this study's arms that decide it; dss:* is
    every single teacher), test (the rule in words).
    """
    return published_file("claims.csv").copy()


def ledger(measured: pd.DataFrame | None = None) -> pd.DataFrame:
    """What can be said of each claim, a row a claim and evidence: published, then this study's.

    measured: predictions on test. Only the paper's data sets count (the micro world says nothing of
        the paper); a claim about one of the paper's sizes is decided by that student alone, and by
        all six data sets. The verdict is on the direction of the difference; of published numbers
        it is also on the arithmetic: the stated gain must follow from the table.

    Columns: claim, statement, where, evidence ("published", or study and student), verdict
    ("holds", "does not hold", "cannot be told"), stated, relative, gain, low, high, n (questions),
    needed (questions that it would take for a gain of this size, with 80% power; empty for this
    study's, whose seeds' noise more questions do not lessen), why.
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
        share = 100 * parameters(claim["size"]) / parameters(claim["baseline_size"])
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
        if not known[key]:
            continue
        line = _every(known[key][0].table) if claim["kind"] == "every_dataset" else _all(known[key])
        table, mean = known[key][0].table, known[key][0].mean
        line["why"] += f"; on {', '.join(table['dataset'])}; seeds: {mean['seeds']}"
        some = claim["size"] != "any" and len(table) < len(DATASETS)
        worse = claim["kind"] == "every_dataset" and line["verdict"] == FAILS  # one is enough
        if some and line["verdict"] != OPEN and not worse:
            line["verdict"] = OPEN
            line["why"] += f"; not measured on {len(DATASETS) - len(table)} of its datasets"
        lines.append({"evidence": f"{study} / {student}", **line})
    what = (
        "one of the paper's datasets" if claim["size"] == "any" else f"the {claim['size']} student"
    )
    return lines or none(f"no run of {claim['arm']} and {claim['baseline_arm']} with {what}")


@dataclass(frozen=True)
class _Gain:
    """Two arms' paired differences a dataset (Holm-corrected), and the mean over the datasets."""

    arms: str
    table: pd.DataFrame
    mean: dict


def _differences(rows: pd.DataFrame, arm: str, baseline: str) -> list[_Gain]:
    """`arm` against a baseline (`dss:*`: every single teacher); empty without data.

    Data sets without all of these arms are left out (the verdict names those that count).
    """
    names = sorted(rows["arm"].unique())
    singles = [name for name in names if name.startswith("dss:") and "+lora" not in name]
    options = singles if baseline == "dss:*" else [baseline]
    rows, found = stats.with_arms(rows, arm, *options), []
    complete = [name for name in DATASETS if name in set(rows["dataset"])]
    if not complete:
        return []
    for option in options:
        lines = [
            {"dataset": name, **_as_gain(stats.paired(part, arm, option))}
            for name in complete
            for part in [rows[rows["dataset"] == name]]
        ]
        table, mean = stats.holm(pd.DataFrame(lines)), _as_gain(stats.paired(rows, arm, option))
        found.append(_Gain(f"{arm} against {option}", table, mean))
    return found


def _all(found: list[_Gain]) -> dict:
    """The verdict on a gain over every one of several baselines (or the only one).

    It holds if each interval lies above zero, and does not if one arm is better (after Holm's
    correction over the baselines). The numbers are those of the baseline that decides.
    """
    table = stats.holm(pd.DataFrame([{"arms": each.arms, **each.mean} for each in found]))
    worse = table[table["significant"] & (table["gain"] < 0)]
    line = worse.loc[worse["p"].idxmin()] if len(worse) else table.loc[table["low"].idxmin()]
    verdict = FAILS if len(worse) else HOLDS if line["low"] > 0 else OPEN
    why = f"{_points(line)}; {line['arms']}"
    if len(found) > 1:
        why += f", which of {len(found)} decides"
    return {**line, "verdict": verdict, "why": why}


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
        "needed": np.nan,
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
