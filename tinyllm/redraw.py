"""Every figure and table, from stored predictions and published numbers: `make figures`.

    python -m tinyllm.redraw      redraw all, on all cores; prints what was written

The notebooks draw by the same functions, so that both give the same files. Studies that a grid
makes as points of a curve (`grid.curves`) are drawn in the curve only. Nothing here imports torch,
and what cannot be drawn from what is stored (an ablation without `tinyllm`, a curve of one point)
is left out.

Figures of questions are drawn by notebook 01, which holds the data; here they are redrawn from the
numbers that lie beside them (NAME.csv). The audit of the release's rationales is drawn from its
table under results/.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd

from tinyllm import figures, grid, paper, paths, results, series, stats, tables, worth
from tinyllm.figures import Drawing

CURVES = {  # column along x: end of the figure's name
    "alpha": "accuracy_alpha",
    "train_questions": "accuracy_questions",
    "teachers": "accuracy_teachers",
    "parameters": "accuracy_size",
    "train_flops": "accuracy_flops",
}
FROM_NUMBERS: dict[str, Callable[[pd.DataFrame], Drawing]] = {  # end of the name: function
    "option_balance": figures.option_balance,
    "lengths": figures.length_histograms,
}


def table_folder() -> Path:
    """Where tables are written: `tables` beside the figures."""
    return paths.figures() / "tables"


def study(study: str, dataset: str) -> dict[str, Drawing]:
    """Draw and save the figures and tables of one stored study on a dataset, all its students.

    Returns the figures by the end of their names, those that can be drawn: main_results,
    paired_differences, ablation, calibration, confusion.
    """
    predictions = results.stored(study, dataset)
    if predictions.empty:
        raise FileNotFoundError(
            f"nothing is stored of {study}/{dataset}: run notebook 04, which stores it"
        )
    teachers = results.stored_teachers(study, dataset)
    comparison, ablations = compared(predictions), stats.ablations(predictions)
    confusion, bins = stats.confusion(predictions), figures.calibration_bins(predictions)
    rows = stats.results(predictions, teachers=teachers)
    found = {"main_results": (figures.main_results(predictions, teachers=teachers), rows)}
    if len(comparison):
        found["paired_differences"] = (figures.paired_differences(comparison), comparison)
    if len(ablations) > 1:  # one alone is the paired difference with its sign turned
        found["ablation"] = (figures.ablation(ablations), ablations)
    found["calibration"] = (figures.calibration(bins), bins)
    if len(confusion):
        found["confusion"] = (figures.confusion(confusion), confusion)
    label = results.study_label(study, dataset)
    for name, (figure, numbers) in found.items():
        figures.save(figure, f"{label}_{name}", numbers)
    students = list(dict.fromkeys(predictions["student"]))
    for student in students:
        rows = predictions[predictions["student"] == student]
        middle = "" if len(students) == 1 else f"{paths.slug(student)}_"
        table = tables.results(rows, teachers=teachers)
        tables.write(table, f"{label}_{middle}results", table_folder())
    return {name: figure for name, (figure, _) in found.items()}


def compared(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every arm against fine-tuning, of the students that have it; empty where none has."""
    groups = predictions.groupby(["study", "dataset", "student"], sort=False)
    kept = [rows for _, rows in groups if {"finetune"} < set(rows["arm"])]
    return stats.compare(pd.concat(kept)) if kept else pd.DataFrame()


def histories(study: str, dataset: str) -> None:
    """Draw and save the learning curves of one stored study on a dataset, a figure a student."""
    found, label = results.stored_histories(study, dataset), results.study_label(study, dataset)
    for student, history in found.items():
        middle = "" if len(found) == 1 else f"{student}_"
        figures.save(figures.learning_curves(history), f"{label}_{middle}learning_curves", history)


def published() -> dict[str, Drawing]:
    """Draw and save the figures and the table that need published numbers only."""
    table, gains, sizes = paper.table1(), paper.gains(), paper.sizes()
    stages = ["questions", "teacher prompt", "teachers", "rationales", "student", "evaluation"]
    steps = pd.DataFrame({"stage": stages, "notebook": ["01", "02", "02", "02", "03", "04"]})
    note = (
        "Table 1 of TinyLLM v1 as published, one run a cell; how many tokens the students were "
        "trained on is not known, so there is no such figure by training FLOPs. The interval of "
        "the mean is normal."
    )
    found = {
        "published_table": (figures.published_table(table), table),
        "published_gains": (figures.published_gains(gains), gains),
        "published_size": (figures.accuracy_against(sizes, "parameters", note), sizes),
        "pipeline": (figures.pipeline(), steps),
    }
    for name, (figure, numbers) in found.items():
        figures.save(figure, name, numbers)
    tables.write(tables.published(), "published_table", table_folder())
    return {name: figure for name, (figure, _) in found.items()}


def across_studies() -> dict[str, Drawing]:
    """Draw and save what joins all stored studies: curves, and measured beside published.

    Returns the figures by name: those of CURVES that have a curve, published_and_measured,
    gains_by_verdict.
    """
    measured = results.stored()
    if measured.empty:
        return {}
    drawn = {}
    facts, whole_studies = results.stored_facts(), results.reported()
    rows = series.points(measured, facts)
    whole = ~rows["study"].isin(grid.curves())
    teachers = stats.teacher_accuracy(results.stored_teachers())
    for x, name in CURVES.items():
        points = series.along(rows if x in ("alpha", "train_questions") else rows[whole], x)
        if points.empty:
            continue
        if x in ("parameters", "train_flops"):
            points = series.with_teachers(points, teachers)
        drawn[name] = figures.accuracy_against(points, x)
        figures.save(drawn[name], name, points)
    beside = paper.compare(whole_studies)
    if len(beside):
        drawn["published_and_measured"] = figures.published_and_measured(beside)
        figures.save(drawn["published_and_measured"], "published_and_measured", beside)
    gains = worth.gains(whole_studies, results.stored_verdicts(), facts)
    if len(gains):
        drawn["gains_by_verdict"] = figures.gains_by_verdict(gains)
        figures.save(drawn["gains_by_verdict"], "gains_by_verdict", gains)
    return drawn


def curve_gains(x: str) -> pd.DataFrame:
    """What the points of all stored studies' curves against `x` gain over fine-tuning, see
    `series.gains`; without rows where nothing is stored."""
    stored = results.stored()
    if stored.empty:
        return series.gains(stored, pd.DataFrame(columns=["dataset", "student"]), x)
    return series.gains(stored, series.along(series.points(stored, results.stored_facts()), x), x)


def from_numbers(file: Path, draw: Callable[[pd.DataFrame], Drawing]) -> Path:
    """Redraw a figure whose data are not under results/ from its own CSV; gives the PNG."""
    numbers = pd.read_csv(file, keep_default_na=False, na_values=[""])
    return figures.save(draw(numbers), file.stem, numbers)


def recorded_rationales() -> None:
    """Draw and save the audit of the release's rationales, where its table is stored."""
    from tinyllm.figures import audit  # it reads the release's files too, which takes a second

    if (paths.results() / audit.audit.FILE).exists():
        audit.recorded_audit()


def pieces() -> list[Callable[[], object]]:
    """All that is drawn, in pieces that do not need each other, those that take longest first."""
    points = grid.curves()
    whole = [each for each in results.stored_studies() if each[0] not in points]
    found = [partial(study, *each) for each in whole] + [published, across_studies]
    found += [recorded_rationales, *(partial(histories, *each) for each in whole)]
    for end, draw in FROM_NUMBERS.items():
        files = sorted(paths.figures().glob(f"*_{end}.csv"))
        found += [partial(from_numbers, file, draw) for file in files]
    return found


def _draw(piece: Callable[[], object]) -> None:
    piece()  # what it returns stays in its process


def main() -> None:
    """See the module."""
    shared = hasattr(os, "sched_getaffinity")  # a part of a node
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)) if shared else os.cpu_count()) as pool:
        list(pool.map(_draw, pieces()))  # an error in any of them ends here
    folder = paths.figures()
    drawn, written = len(list(folder.glob("*.png"))), len(list(table_folder().glob("*.csv")))
    print(f"{drawn} figures in {paths.shown(folder)}, {written} tables in {table_folder().name}/")


if __name__ == "__main__":
    main()
