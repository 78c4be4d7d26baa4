"""Writes the results between the markers of README.md, from results/.

python docs/readme.py
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm import paths
from tinyllm.evaluation import paired, results, summary
from tinyllm.figures import style

README = paths.ROOT / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
ARMS = {  # rows of the table
    "finetune": "Fine-tuning",
    "finetune:x3": "Fine-tuning, 3x epochs (PIQA: 2x)",
    "single": "Single {}, best on valid",
    "tinyllm": "TinyLLM",
    "tinyllm:shuffled": "TinyLLM, shuffled rationales",
}
AGAINST = {  # columns of the second table: TinyLLM minus an arm, in a metric (`accuracy.credit`)
    "fine-tuning": ("finetune", "correct"),
    "fine-tuning, by exact match": ("finetune", "exact"),
    "best single teacher": ("single", "correct"),
    "shuffled rationales": ("tinyllm:shuffled", "correct"),
}


def table(study: str) -> str:
    """Accuracies in percent as a Markdown table: one row per arm, one column per dataset."""
    rows = results.whole()
    rows = rows[rows["study"] == study]
    longer = rows["arm"].replace("finetune:x2", "finetune:x3")  # PIQA's, in the same row
    accuracies = paired.accuracies(rows.assign(arm=longer))
    accuracies = accuracies.set_index(["arm", "dataset"])["estimate"]
    datasets = style.datasets_in_order(rows["dataset"].unique())
    known = results.baselines(study).query("split == 'test'").set_index("dataset")
    lines = [" | ".join(["Accuracy, %", *map(style.dataset_name, datasets)])]
    lines.append("|".join(["---"] * (1 + len(datasets))))
    parts = {"Chance": known["chance"], "Majority training answer": known["majority"]}
    for arm, name in ARMS.items():
        arm = summary.best_single(study) if arm == "single" else arm
        if arm in accuracies:
            parts[name.format(style.arm_name(arm).removeprefix("one "))] = accuracies[arm]
    exact = paired.accuracies(rows[rows["arm"] == paired.BASELINE], "exact")
    parts["Fine-tuning, by exact match"] = exact.set_index("dataset")["estimate"]
    for name, values in parts.items():
        cells = [f"{100 * values[d]:.1f}" if d in values else "" for d in datasets]
        lines.append(" | ".join([name, *cells]).rstrip())
    return "\n".join(lines)


def line(name: str, study: str, datasets: Sequence[str] = ()) -> str:
    """TinyLLM minus the arms of AGAINST, as a row of a Markdown table: differences and verdicts.

    datasets: only these, if any are named; the mean if there are several. A cell says so if fewer
    datasets have both arms, and stays empty if fewer than two have.
    """
    rows = results.whole()
    rows = rows[(rows["study"] == study) & (rows["dataset"].isin(datasets) | (not datasets))]
    count, cells = paired.with_arms(rows, paired.OURS, paired.BASELINE)["dataset"].nunique(), [name]
    tables = {column: paired.compare(rows, column) for column in ("correct", "exact")}
    for arm, column in AGAINST.values():
        compared = tables[column]
        pair = paired.OURS, summary.best_single(study) if arm == "single" else arm
        own = compared[(compared["arm"] == pair[0]) & (compared["baseline"] == pair[1])]
        own = own[(own["dataset"] == "mean") == (count > 1)].to_dict("records")
        shown = [f"{summary.interval(row, 'difference')} **{row['verdict']}**" for row in own]
        fewer = [f" (of {row['datasets']})" for row in own if row["datasets"] < count]
        cells.append("".join(shown + fewer))
    return " | ".join(cells).rstrip()


def section() -> str:
    """Two tables of the stored studies."""
    rows = results.whole()
    whole = style.datasets_in_order(rows.loc[rows["study"] == "laptop-whole", "dataset"])
    both = paired.with_arms(rows[rows["study"] == "laptop"], paired.OURS, paired.BASELINE)
    both = both["dataset"].unique()
    able = style.datasets_in_order({*summary.above_floor("laptop", "minilm-ed")} & {*both})
    lines = [" | ".join(["TinyLLM minus ..., points", *AGAINST])]
    lines.append("|".join(["---"] * (1 + len(AGAINST))))
    lines.append(line(f"mean of {len(both)} datasets", "laptop"))
    if able:
        names = ", ".join(map(style.dataset_name, able))
        lines.append(line(f"mean above the floor ({names})", "laptop", able))
    for dataset in whole:
        title = f"128-token targets: {style.dataset_name(dataset)}"
        lines.append(line(title, "laptop-whole", [dataset]))
    lines.append(line("micro study (positive control)", "micro"))
    return "\n\n".join([table("laptop"), "\n".join(lines)])


if __name__ == "__main__":
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    text = "\n\n".join([before + BEGIN, section(), END + rest.split(END)[1]])
    README.write_text(text, encoding="utf-8")
