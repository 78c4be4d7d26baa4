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
TOGETHER = "together"  # stands for the dataset where several are taken together


def gains(predictions: pd.DataFrame, verdicts: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Gains over fine-tuning by how many teachers argue for the gold answer of a test question.

    predictions: as in `stats.SCHEMA`. verdicts: of `audit.verdicts`. facts: of
    `results.stored_facts`; they tell which teachers an arm learned from, so that arms of others
    than the recorded ones are left out. Only `dss:` arms and `tinyllm` are judged.

    Columns: study, dataset (TOGETHER: the mean of all datasets that have the arm, where there are
    several), student, arm, those of `stats.by_group`, p_holm (Holm's correction over the contrasts,
    the rows without n; over those of TOGETHER apart). Groups are `K of M`: of K of the arm's M
    teachers the rules can tell that they argue for it; of the rest they argue for another option,
    or cannot be judged. Empty where nothing can be judged.
    """
    frames = []
    for (study, student), rows in predictions.groupby(["study", "student"], sort=False):
        labels: dict[str, list[pd.Series]] = {}  # by arm, one a dataset
        for dataset, part in rows.groupby("dataset", sort=False):
            key = (study, dataset, student)
            had = facts[(facts[KEYS] == list(key)).all(axis=1)].groupby("arm")["sources"].first()
            said = verdicts[verdicts["dataset"] == dataset]
            for arm, label in _labels(part, said, had).items():
                labels.setdefault(arm, []).append(label)
                frames.append(_gains(part, label, arm, key))
        for arm, each in labels.items():
            if len(each) > 1:
                whole = pd.concat(each)
                part = rows[rows["dataset"].isin(whole.index.get_level_values("dataset"))]
                frames.append(_gains(part, whole, arm, (study, TOGETHER, student)))
    if not frames:
        return pd.DataFrame(columns=[*KEYS, "arm", "group"])
    found = pd.concat(frames, ignore_index=True)
    found["p_holm"] = float("nan")
    for together in (False, True):
        tested = found["n"].isna() & found["p"].notna() & found["dataset"].eq(TOGETHER).eq(together)
        if tested.any():
            found.loc[tested, "p_holm"] = stats.holm(found[tested])["p_holm"]
    first = [*KEYS, "arm"]
    return found[[*first, *(name for name in found if name not in first)]]


def _labels(rows: pd.DataFrame, verdicts: pd.DataFrame, sources: pd.Series) -> dict[str, pd.Series]:
    """For each arm to be judged on a dataset: the group of every question, by dataset and id.

    rows, verdicts: of one dataset. sources: the teachers that an arm learned from, by arm.
    """
    known = verdicts[verdicts["verdict"] != "none"]
    teachers = [f"release:{name}" for name in known["teacher"].unique()]
    if not teachers or BASELINE not in set(rows["arm"]):
        return {}
    questions = pd.MultiIndex.from_frame(rows[["dataset", "id"]].drop_duplicates())
    found = {}
    for arm in rows["arm"].unique():
        if not (arm == "tinyllm" or arm.startswith("dss:")):
            continue
        try:
            learned = arms.resolve(arm, teachers).teachers
        except ValueError:  # of a teacher that is not recorded
            continue
        if " ".join(learned) != sources.get(arm):
            continue
        names = [uri.removeprefix("release:") for uri in learned]
        argued = known[known["teacher"].isin(names)]
        count = argued["verdict"].eq("gold").groupby([argued["dataset"], argued["id"]]).sum()
        found[arm] = count.reindex(questions, fill_value=0).astype(str) + f" of {len(names)}"
    return found


def _gains(
    rows: pd.DataFrame, label: pd.Series, arm: str, key: tuple[str, str, str]
) -> pd.DataFrame:
    """`stats.by_group` of an arm against fine-tuning, with the names of KEYS."""
    about = dict(zip(KEYS, key, strict=True))
    return stats.by_group(rows, label, arm, BASELINE).assign(arm=arm, **about)
