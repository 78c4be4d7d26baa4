"""Writes the results between the markers of README.md, from results/.

python docs/readme.py
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyllm import paths
from tinyllm.evaluation import paired, results, summary
from tinyllm.figures import style
from tinyllm.params import DATASETS

README = paths.ROOT / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
ARMS = {  # rows of the table
    "finetune": "Fine-tuning on answers",
    "finetune:x3": "Fine-tuning, 3x epochs",
    "single": "Best single teacher",
    "tinyllm": "TinyLLM, all teachers",
    "tinyllm:shuffled": "TinyLLM, shuffled rationales",
}
PAIRS = {  # what is said of TinyLLM against an arm
    "finetune": "TinyLLM against fine-tuning",
    "single": "TinyLLM against the best single teacher",
    "tinyllm:shuffled": "TinyLLM against shuffled rationales",
}


def table(study: str) -> str:
    """Accuracies of five arms, and their differences from fine-tuning, as a Markdown table.

    Columns: each dataset's accuracy in percent; the mean difference in points over the datasets
    that have both arms, with its 95% interval over questions and seeds, and their number; the
    verdict (`paired.verdict`).
    """
    rows = results.whole()
    rows = rows[rows["study"] == study]
    compared = paired.compare(rows)
    compared = compared[compared["baseline"] == paired.BASELINE].set_index(["dataset", "arm"])
    accuracies = paired.accuracies(rows).set_index(["dataset", "arm"])["estimate"]
    datasets = sorted(set(rows["dataset"]), key=[*DATASETS, *rows["dataset"]].index)
    total = "mean" if len(datasets) > 1 else datasets[0]
    columns = ["Accuracy, %", *datasets, "minus fine-tuning, points (datasets)", "verdict"]
    lines = [f"| {' | '.join(columns)} |"]
    lines.append("|---|" + "---|" * (len(datasets) + 2))
    known = results.baselines(study).query("split == 'test'").set_index("dataset")["majority"]
    cells = [f"{100 * known[data]:.1f}" if data in known else "" for data in datasets]
    lines.append(f"| Always train's commonest answer | {' | '.join(cells)} |  |  |")
    for arm, name in ARMS.items():
        if arm == "single":
            arm = summary.best_single(study)
            name += f" (`{arm}`)"
        if arm not in rows["arm"].unique():
            continue
        values = [accuracies.get((data, arm)) for data in datasets]
        cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
        if (total, arm) in compared.index:
            line = compared.loc[(total, arm)].to_dict()
            cells += [f"{summary.interval(line, 'difference')} ({line['datasets']})"]
            cells += [line["verdict"]]
        else:
            cells += ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(study: str, *baselines: str, datasets: Sequence[str] = ()) -> str:
    """TinyLLM against some of PAIRS as Markdown bullets: verdict, difference, interval.

    datasets: only these, if any are named.
    """
    rows = results.whole()
    rows = rows[(rows["study"] == study) & (rows["dataset"].isin(datasets) | (not datasets))]
    compared = paired.compare(rows)
    if compared["dataset"].eq("mean").any():
        compared = compared[compared["dataset"] == "mean"]
    known = {(row["arm"], row["baseline"]): row for row in compared.to_dict("records")}
    lines = []
    for baseline in baselines:
        arm = summary.best_single(study) if baseline == "single" else baseline
        if row := known.get((paired.OURS, arm)):
            points = summary.interval(row, "difference")
            lines.append(f"- {PAIRS[baseline]}: **{row['verdict']}**, {points} points.")
    return "\n".join(lines)


def section() -> str:
    """The table and the findings of the stored studies."""
    rows = results.whole()
    whole = style.datasets_in_order(rows.loc[rows["study"] == "laptop-whole", "dataset"])
    both = paired.with_arms(rows[rows["study"] == "laptop"], paired.OURS, paired.BASELINE)
    able = summary.above_floor("laptop", "minilm-ed")
    able = style.datasets_in_order(set(able) & set(both["dataset"]))
    blocks = [
        table("laptop"),
        findings("laptop", "single", "tinyllm:shuffled"),
    ]
    if able:
        blocks += [
            "Where TinyLLM ran and fine-tuning beats chance and the commonest answer "
            f"({', '.join(map(style.dataset_name, able))}; rule written after these results):",
            findings("laptop", "finetune", datasets=able),
        ]
    blocks += [
        "With whole rationales and the paper's task prefix "
        f"({', '.join(map(style.dataset_name, whole))}, `laptop-whole`):",
        findings("laptop-whole", *PAIRS),
        "In the micro study, the positive control:",
        findings("micro", "finetune"),
    ]
    return "\n\n".join(blocks)


if __name__ == "__main__":
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    text = "\n\n".join([before + BEGIN, section(), END + rest.split(END)[1]])
    README.write_text(text, encoding="utf-8")
