"""What the rationales were worth: do questions whose rationales are good gain more?

The release holds what its teachers wrote about test questions too, the gold answer before them. No
student reads that, but it sorts the questions: on some, fixed rules can tell that a teacher argues
for the right option. If rationales teach by what they say, students should gain most on those. The
rules judge few of LLaMA 2's, so what is not known to be right need not be wrong.
"""

from __future__ import annotations

import pandas as pd

from tinyllm import arms, stats

KEYS = ["study", "dataset", "student"]
BASELINE = "finetune"


def gains(predictions: pd.DataFrame, verdicts: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Gains over fine-tuning by how many teachers argue for the gold answer of a test question.

    predictions: as in `stats.SCHEMA`. verdicts: of `audit.verdicts`. facts: of
    `results.stored_facts`; they tell which teachers an arm learned from, so that arms of others
    than the recorded ones are left out. Only `dss:` arms and `tinyllm` are judged.

    Columns: study, dataset, student, arm, those of `stats.by_group`, p_holm (Holm's correction over
    the contrasts, the rows without n). Groups are `K of M`: of K of the arm's M teachers the rules
    can tell that they argue for it; of the rest they argue for another option, or cannot be judged.
    Empty where nothing can be judged.
    """
    frames = []
    for key, rows in predictions.groupby(KEYS, sort=False):
        mine = verdicts[(verdicts["dataset"] == key[1]) & (verdicts["verdict"] != "none")]
        teachers = [f"release:{name}" for name in mine["teacher"].unique()]
        had = facts[(facts[KEYS] == list(key)).all(axis=1)].groupby("arm")["sources"].first()
        for arm in rows["arm"].unique():
            if not teachers or not (arm == "tinyllm" or arm.startswith("dss:")):
                continue
            try:
                learned = arms.resolve(arm, teachers).teachers
            except ValueError:  # of a teacher that is not recorded
                continue
            if " ".join(learned) != had.get(arm) or BASELINE not in set(rows["arm"]):
                continue
            names = [uri.removeprefix("release:") for uri in learned]
            argued = mine[mine["teacher"].isin(names)]
            count = argued["verdict"].eq("gold").groupby(argued["id"]).sum()
            count = count.reindex(rows["id"].unique(), fill_value=0)
            label = count.astype(str) + f" of {len(names)}"
            frame = stats.by_group(rows, label, arm, BASELINE).assign(arm=arm)
            frames.append(frame.assign(**dict(zip(KEYS, key, strict=True))))
    if not frames:
        return pd.DataFrame(columns=[*KEYS, "arm", "group"])
    found = pd.concat(frames, ignore_index=True)
    found["p_holm"] = float("nan")
    tested = found["n"].isna() & found["p"].notna()
    if tested.any():
        found.loc[tested, "p_holm"] = stats.holm(found[tested])["p_holm"]
    first = [*KEYS, "arm"]
    return found[[*first, *(name for name in found if name not in first)]]
