"""What stored studies say in short: the best single teacher, and the README's table."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from tinyllm.evaluation import paired, results
from tinyllm.params import DATASETS

ARMS = {  # rows of the README's table
    "finetune": "Fine-tuning on answers",
    "finetune:x3": "Fine-tuning, 3x epochs",
    "single": "Best single teacher",
    "tinyllm": "TinyLLM, all teachers",
    "tinyllm:shuffled": "TinyLLM, shuffled rationales",
}
PAIRS = {  # what the README says in words of TinyLLM against an arm
    "finetune": "TinyLLM against fine-tuning",
    "single": "TinyLLM against the best single teacher",
    "tinyllm:shuffled": "TinyLLM against itself with other questions' rationales",
}


def best_single(study: str, student: str | None = None) -> str | None:
    """The single-teacher arm with the highest accuracy on valid, mean over datasets and seeds.

    student: that one's alone, else the mean over all. Only datasets with a fine-tuned student
    count. Test has no say in the choice. None where there is no such arm.
    """
    facts = results.facts(study)
    facts = facts[facts["student"] == student] if student else facts
    tuned = facts.loc[facts["arm"] == paired.BASELINE, "dataset"]
    facts = facts[facts["dataset"].isin(tuned) & facts["arm"].isin(paired.singles(facts["arm"]))]
    means = facts.groupby("arm")["valid_accuracy"].mean()
    return means.idxmax() if len(means) else None


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm of one student and dataset, to be read in a terminal.

    Columns: arm, accuracy in percent with its interval over questions and seeds, seeds, questions,
    and where there is fine-tuning the difference from it in points, p after Holm, and the verdict.
    """
    differences = paired.compare(rows).to_dict("records")
    known = {row["arm"]: row for row in differences if row["baseline"] == paired.BASELINE}
    lines = []
    for arm, part in rows.groupby("arm", sort=False):
        line = {"arm": arm, "accuracy, %": _interval(paired.mean_interval(part), "estimate")}
        line |= {"seeds": part["seed"].nunique(), "questions": part["id"].nunique()}
        if row := known.get(arm):
            line["minus fine-tuning, points"] = _interval(row, "difference")
            line |= {"p (Holm)": f"{row['p_holm']:.2g}", "verdict": row["verdict"]}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def _interval(row: Mapping, name: str) -> str:
    sign = "+" if name == "difference" else ""  # z: no -0.0
    return f"{100 * row[name]:{sign}z.1f} [{100 * row['low']:z.1f}, {100 * row['high']:z.1f}]"


def readme_table(study: str) -> str:
    """Accuracies of five arms, and their differences from fine-tuning, as a Markdown table.

    Columns: each dataset's accuracy in percent, the mean difference over datasets in points with
    its 95% interval over questions and seeds, and the verdict (`paired.verdict`).
    """
    rows = results.whole()
    rows = rows[rows["study"] == study]
    compared = paired.compare(rows)
    compared = compared[compared["baseline"] == paired.BASELINE].set_index(["dataset", "arm"])
    accuracies = paired.accuracies(rows).set_index(["dataset", "arm"])["estimate"]
    datasets = sorted(set(rows["dataset"]), key=[*DATASETS, *rows["dataset"]].index)
    total = "mean" if len(datasets) > 1 else datasets[0]
    lines = [f"| Accuracy, % | {' | '.join(datasets)} | minus fine-tuning, points | verdict |"]
    lines.append("|---|" + "---|" * (len(datasets) + 2))
    for arm, name in ARMS.items():
        if arm == "single":
            arm = best_single(study)
            name += f" (`{arm}`)"
        if arm not in rows["arm"].unique():
            continue
        cells = [f"{100 * accuracies[data, arm]:.1f}" for data in datasets]
        if (total, arm) in compared.index:
            line = compared.loc[(total, arm)].to_dict()
            cells += [_interval(line, "difference"), line["verdict"]]
        else:
            cells += ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(study: str, *baselines: str) -> str:
    """TinyLLM against some of PAIRS as Markdown bullets: verdict, difference, interval."""
    rows = results.whole()
    compared = paired.compare(rows[rows["study"] == study])
    if compared["dataset"].eq("mean").any():
        compared = compared[compared["dataset"] == "mean"]
    known = {(row["arm"], row["baseline"]): row for row in compared.to_dict("records")}
    lines = []
    for baseline in baselines:
        arm = best_single(study) if baseline == "single" else baseline
        if row := known.get((paired.OURS, arm)):
            points = _interval(row, "difference")
            lines.append(f"- {PAIRS[baseline]}: **{row['verdict']}**, {points} points.")
    return "\n".join(lines)
