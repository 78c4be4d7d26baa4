"""Result tables as Markdown, LaTeX (booktabs) and CSV.

Bold says one thing only: a paired test tells this cell from the baseline, in its favour, after
Holm's correction over the table. The best number of a column is not bold for being the best.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tinyllm import figures, paper, paths, stats


@dataclass(frozen=True)
class Table:
    """A table ready to write.

    cells: texts; the index holds the rows' names, the columns the columns'.
    bold: of the same shape, True where a test supports it.
    caption: what the numbers are, n, seeds, interval, and what bold means.
    numbers: the figures behind the texts, a row a cell; written as the CSV.
    """

    cells: pd.DataFrame
    bold: pd.DataFrame
    caption: str
    numbers: pd.DataFrame


def results(
    predictions: pd.DataFrame,
    baseline: str = "finetune",
    column: str = "correct",
    teachers: pd.DataFrame | None = None,
) -> Table:
    """Accuracy in percent with Wilson's 95% interval: a row an arm, a column a dataset.

    predictions: of one study and student, on one split. teachers: see `stats.results`; their rows,
    chance and majority stand below the arms. Without the baseline, or alone, nothing is bold.
    """
    for name in ("study", "student"):
        if len(values := predictions[name].unique()) != 1:
            raise ValueError(f"column {name!r}: a table holds one, not {sorted(values)}; filter it")
    numbers = stats.results(predictions, column, teachers)
    comparison = pd.DataFrame(columns=["dataset", "arm", "difference", "p", "p_holm"])
    if {baseline} < set(predictions["arm"]):
        comparison = stats.compare(predictions, baseline, column)
    wanted = ["dataset", "arm", "difference", "p", "p_holm", "significant"]
    numbers = numbers.merge(comparison.reindex(columns=wanted), on=["dataset", "arm"], how="left")
    better = numbers["significant"].eq(True) & (numbers["difference"] > 0)
    numbers["better"] = better.fillna(False).astype(bool)
    texts = numbers.assign(
        text=[
            f"{100 * line.estimate:.1f} [{100 * line.low:.1f}, {100 * line.high:.1f}]"
            for line in numbers.itertuples()
        ]
    )
    datasets = list(dict.fromkeys(numbers["dataset"]))
    arms = figures.in_order(numbers["arm"])
    cells = texts.pivot(index="arm", columns="dataset", values="text").loc[arms, datasets]
    bold = texts.pivot(index="arm", columns="dataset", values="better").loc[arms, datasets]
    for name in ("chance", "majority"):
        value = numbers.groupby("dataset")[name].first()
        cells.loc[name] = [f"{100 * value[dataset]:.1f}" for dataset in datasets]
        bold.loc[name] = False
    titles = [figures.dataset_name(dataset) for dataset in datasets]
    cells, bold = (
        frame.fillna(blank).set_axis(titles, axis=1).rename_axis(index=None, columns=None)
        for frame, blank in ((cells, ""), (bold, False))
    )
    n = ", ".join(
        f"{figures.dataset_name(name)} {part['n'].iloc[0]}"
        for name, part in numbers.groupby("dataset", sort=False)
    )
    caption = (
        f"Accuracy in percent ({figures.METRICS.get(column, column)}), student "
        f"{numbers['student'].iloc[0]}, {_seeds(numbers)}, with Wilson's 95% interval over the "
        f"test questions (n: {n}). {_bold(comparison, baseline)}"
    )
    cells, bold = (frame.rename(index=figures.arm_name) for frame in (cells, bold))
    return Table(cells, bold.astype(bool), caption, numbers)


def _seeds(numbers: pd.DataFrame) -> str:
    """How many seeds the students' rows have, in words."""
    rows = numbers[~numbers["arm"].str.startswith("teacher:")]
    seeds = sorted(rows["seeds"].unique())
    if seeds == [1]:
        return "one seed"
    return f"mean of {' or '.join(map(str, seeds))} seeds"


def _bold(comparison: pd.DataFrame, baseline: str) -> str:
    """What bold means in the table, or why nothing is."""
    if comparison.empty:
        return f"Nothing is bold: there is nothing to compare with {baseline}."
    what = "questions and seeds"
    if comparison["seeds"].max() == 1:
        what = "questions (one seed, so the spread of training is not in it)"
    holm = f" after Holm's correction over {len(comparison)} comparisons" * (len(comparison) > 1)
    return f"Bold: better than {baseline} by a paired test over {what}, p < 0.05{holm}."


def published() -> Table:
    """Table 1 of v1 as printed; bold where TinyLLM exceeds full fine-tuning by more than noise."""
    table, gains = paper.table1(means=True), paper.gains()
    order = list(dict.fromkeys(zip(table["size"], table["method"], strict=True)))
    wide = table.assign(text=table["printed"].map("{:.2f}".format)).pivot(
        index=["size", "method"], columns="dataset", values="text"
    )
    cells = wide.loc[order, [*paper.DATASETS, "mean"]]
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for line in gains[gains["significant_holm"]].itertuples():
        bold.loc[(line.size, paper.OURS), line.dataset] = line.gain > 0
    titles = [figures.dataset_name(dataset) for dataset in cells.columns]
    names = [f"{size} {method}" for size, method in order]
    cells, bold = (
        frame.set_axis(titles, axis=1).set_axis(names, axis=0) for frame in (cells, bold)
    )
    caption = (
        "Table 1 of TinyLLM v1 (arXiv 2402.04616v1) as printed: accuracy in percent, one run a "
        "cell. Bold: TinyLLM above full fine-tuning of the same student, unpaired test of k of n "
        f"questions, p < 0.05 after Holm's correction over {len(gains)} comparisons."
    )
    return Table(cells, bold, caption, table)


def markdown(table: Table) -> str:
    """The table as Markdown (GitHub's kind), its caption below."""
    lines = [["", *table.cells.columns]]
    for name, row in table.cells.iterrows():
        marks = table.bold.loc[name]
        texts = [
            f"**{text}**" if mark and text else text for text, mark in zip(row, marks, strict=True)
        ]
        lines.append([name, *texts])
    rows = ["| " + " | ".join(str(x).replace("|", "\\|") for x in line) + " |" for line in lines]
    rule = "|---" + "|---:" * len(table.cells.columns) + "|"
    return "\n".join([rows[0], rule, *rows[1:], "", table.caption, ""])


def latex(table: Table, label: str = "") -> str:
    """The table as LaTeX with booktabs' rules, to be read with \\input."""
    marks = table.bold.map(lambda mark: "textbf:--rwrap" if mark else "")
    style = table.cells.style.format(escape="latex").apply(lambda _: marks, axis=None)
    style = style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    caption = re.sub(r"[%&#_]", lambda sign: "\\" + sign[0], table.caption).replace("<", "$<$")
    return style.to_latex(
        hrules=True,
        column_format="l" + "r" * len(table.cells.columns),
        caption=caption,
        label=label or None,
        position_float="centering",
    )


def write(table: Table, name: str, folder: str | Path | None = None) -> list[Path]:
    """Write NAME.md, NAME.tex and NAME.csv (the numbers); gives their paths."""
    folder = Path(folder) if folder is not None else paths.figures()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown(table), encoding="utf-8")
    (folder / f"{name}.tex").write_text(latex(table, f"tab:{name}"), encoding="utf-8")
    csv = folder / f"{name}.csv"
    table.numbers.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n")
    return [folder / f"{name}.{kind}" for kind in ("md", "tex", "csv")]
