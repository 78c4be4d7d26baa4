"""Short summaries: a table for the terminal, the best single teacher, datasets above the floor."""

from collections.abc import Mapping
from itertools import product

import pandas as pd

from tinyllm import paths
from tinyllm.evaluation import paired, results
from tinyllm.params import Params
from tinyllm.students import predictions


def best_single(study: str, student: str | None = None) -> str | None:
    """The single-teacher arm with the highest accuracy on valid, mean over datasets and seeds.

    student: use only this student; None: the mean over all. Only datasets with a fine-tuned student
    and all of the study's single-teacher arms count. The test split is not used. Returns None if
    there is no such arm or dataset.
    """
    facts = results.facts(study)
    facts = facts[facts["student"] == student] if student else facts
    tuned = facts.loc[facts["arm"] == paired.BASELINE, "dataset"]
    facts = facts[facts["dataset"].isin(tuned) & facts["arm"].isin(paired.singles(facts["arm"]))]
    wide = facts.pivot_table("valid_accuracy", "dataset", "arm").dropna()
    return wide.mean().idxmax() if len(wide) else None


def above_floor(study: str, student: str) -> list[str]:
    """The stored datasets of a study on which a student is above the floor.

    There the 95% interval of `finetune` lies above chance and above always giving train's most
    common answer (docs/preregistration_further.md). Datasets without stored baselines are left out.
    """
    rows, known = results.stored(study), results.baselines(study)
    rows = rows[(rows["arm"] == paired.BASELINE) & (rows["student"] == student)]
    if rows.empty or known.empty:
        return []
    known = known[known["split"] == "test"].set_index("dataset")
    floor = known[["chance", "majority"]].max(axis=1)
    tuned = paired.accuracies(rows).set_index("dataset")["low"]
    return [name for name in tuned.index if tuned[name] > floor.get(name, 1.0)]


def rows_of(params: Params) -> pd.DataFrame:
    """Stored predictions of the students that `params` ask for.

    Raises FileNotFoundError if there are none, StaleRun if one was made with other parameters.
    """
    asked = (paths.stored(params, *student) for student in product(params.arms, params.seeds))
    folders = [folder for folder in asked if results.finished(folder, params)]
    if not folders:
        raise FileNotFoundError("no student is stored; use `tinyllm run` or `tinyllm store`")
    return predictions.read(*(folder / predictions.PREDICTIONS for folder in folders))


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for the terminal: one row per arm of one student and dataset.

    Columns: arm, accuracy in percent with its interval over questions and seeds, seeds, questions,
    and, if fine-tuning is stored, the difference from it in points, p after Holm, and the verdict.
    """
    differences = paired.compare(rows).to_dict("records")
    known = {row["arm"]: row for row in differences if row["baseline"] == paired.BASELINE}
    lines = []
    for arm, part in rows.groupby("arm", sort=False):
        line = {"arm": arm, "accuracy, %": interval(paired.mean_interval(part), "estimate")}
        line |= {"seeds": part["seed"].nunique(), "questions": part["id"].nunique()}
        if row := known.get(arm):
            line["minus fine-tuning, points"] = interval(row, "difference")
            line |= {"p (Holm)": f"{row['p_holm']:.2g}", "verdict": row["verdict"]}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def interval(row: Mapping, name: str) -> str:
    """`+3.6 [0.9, 6.3]`: an estimate or a signed difference with its interval, in points."""
    sign = "+" if name == "difference" else ""  # z: no -0.0
    return f"{100 * row[name]:{sign}z.1f} [{100 * row['low']:z.1f}, {100 * row['high']:z.1f}]"
