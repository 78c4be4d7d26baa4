"""Points of curves: what each arm of the stored studies reached, with what it was trained with.

A curve joins students that differ in one quantity alone: the same dataset, student, arm and
everything else in FACTS. They may come from one study or several.
"""

from __future__ import annotations

import pandas as pd

from tinyllm import results, stats

QUANTITIES = ("alpha", "teachers", "train_questions", "parameters")
SETTINGS = ("batch", *results.SETTINGS)
FACTS = (*QUANTITIES, *SETTINGS)
VARIED = (*QUANTITIES, "train_flops")
KEYS = ["study", "dataset", "student", "arm"]
BASELINE = "finetune"
CONTROLS = ("shuffled", "scrambled", "gibberish")


def points(predictions: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """`stats.results` with each arm's facts, a row a study, dataset, student and arm.

    facts: of `results.stored_facts`, a row an arm and seed: what seeds share (FACTS; ValueError
        where they do not), and costs, of which the mean over seeds is taken. Arms without facts
        have empty ones.
    """
    rows = stats.results(predictions)
    costs = ("train_flops", "trained_parameters", "train_tokens", "train_seconds")
    groups = facts.groupby(KEYS, sort=False)
    for name in FACTS:
        if (odd := groups[name].nunique() > 1).any():
            raise ValueError(f"manifests: {name!r}: seeds of {odd.idxmax()} differ in it")
    first = {name: "first" for name in FACTS}
    means = groups.agg({**first, **{name: "mean" for name in costs if name in facts}}).reset_index()
    return rows.merge(means, on=KEYS, how="left")


def along(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """The rows of `points` that lie on curves against `x`, and the references beside them.

    x: one of VARIED. Against `teachers` one curve joins fine-tuning (0), every single teacher (1)
    and TinyLLM with as many as it has; against anything else a curve is an arm. Curves of a single
    value are left out. References are fine-tuned students of the same dataset, student, number of
    training questions and SETTINGS, where x does not touch them: their x is empty.

    Adds column `curve`, the name of a row's line.
    """
    if x not in VARIED:
        raise ValueError(f"x: {x!r}: allowed are {', '.join(VARIED)}")
    plain = ~rows["arm"].str.contains("|".join(CONTROLS)) & rows["train_questions"].notna()
    rows = rows[plain].assign(curve=rows["arm"])
    reference = rows["arm"].eq(BASELINE)
    if x == "teachers":
        whole = rows["arm"].str.fullmatch(r"finetune|dss:.+|tinyllm(-.+)?")
        rows = rows[whole & ~rows["arm"].str.contains("+lora", regex=False)]
        rows = rows.assign(curve="tinyllm")
    fixed = [name for name in FACTS if name != x]
    if x in ("parameters", "train_flops"):  # larger students: FLOPs follow from the size
        fixed = [name for name in fixed if name != "parameters"]
        keys = ["dataset", "curve", *fixed]
    elif x == "teachers":  # of one study: fine-tuning has no alpha to tell them apart by
        keys = ["study", "dataset", "student", "curve", "train_questions", "parameters"]
    else:
        keys = ["dataset", "student", "curve", *fixed]
    curves = [
        part
        for _, part in rows[rows[x].notna()].groupby(keys, sort=False, dropna=False)
        if part[x].nunique() > 1
    ]
    if not curves:
        return rows.iloc[:0]
    found = pd.concat(curves)
    if x == "alpha":
        same = ["dataset", "student", "train_questions", *SETTINGS]
        beside = rows[reference.loc[rows.index]].merge(found[same].drop_duplicates(), on=same)
        found = pd.concat([found, beside.drop_duplicates([*same, "arm"])])
    return found.reset_index(drop=True)


def gains(predictions: pd.DataFrame, rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Each point of a curve against fine-tuning, on the same questions: `stats.paired`.

    rows: of `along`. A point's fine-tuning is the one with the same x, else the reference, whose x
    is empty. Columns: dataset, student, arm, x, n, seeds, difference, low, high, p, p_holm (Holm's
    correction over the dataset's and student's points).
    """
    lines = []
    for _, part in rows.groupby(["dataset", "student"], sort=False):
        plain = part[part["arm"] == BASELINE]
        mine = []
        for point in part[part["arm"] != BASELINE].sort_values(["arm", x]).itertuples():
            there = plain[plain[x].isna() | (plain[x] == getattr(point, x))]
            if there.empty:
                continue
            keys = [
                (point.study, point.dataset, point.student, point.arm),
                (there["study"].iloc[0], point.dataset, point.student, BASELINE),
            ]
            chosen = pd.MultiIndex.from_frame(predictions[KEYS]).isin(keys)
            line = stats.paired(predictions[chosen], point.arm, BASELINE)
            about = {"dataset": point.dataset, "student": point.student, x: getattr(point, x)}
            mine.append(about | line)
        if mine:
            lines.append(stats.holm(pd.DataFrame(mine)))
    told = ("n", "seeds", "difference", "low", "high", "p", "p_holm")
    columns = ["dataset", "student", "arm", x, *told]
    return pd.concat(lines, ignore_index=True)[columns] if lines else pd.DataFrame(columns=columns)


def with_teachers(rows: pd.DataFrame, teachers: pd.DataFrame) -> pd.DataFrame:
    """The points with a row a teacher of their studies and datasets, to be drawn as level lines.

    teachers: of `stats.teacher_accuracy`.
    """
    if teachers.empty or rows.empty:
        return rows
    keys = ["study", "dataset"]
    base = rows.drop_duplicates(keys)[[*keys, "chance", "majority"]]
    theirs = teachers.merge(base, on=keys).assign(student="", curve=lambda t: t["arm"])
    return pd.concat([rows, theirs[[c for c in rows if c in theirs]]], ignore_index=True)
