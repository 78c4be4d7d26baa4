"""Figures: the same numbers give the same bytes, and the drawn points match the numbers."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import papermill
import pytest
from matplotlib import font_manager
from simulated import history, notebook, predictions

from tinyllm import paths
from tinyllm.evaluation import paired, results
from tinyllm.figures import style

differences = notebook("04")["differences"]
learning_curves = notebook("03")["learning_curves"]


@pytest.mark.parametrize(
    ("name", "curve", "drawn"),
    [("laptop-alpha-2", True, 2), ("laptop-alpha-2", False, 0), ("b-alpha-2", True, 0)],
)
def test_a_curve_joins_a_study_with_its_own_points_only(committed_results, name, curve, drawn):
    book, known = notebook("05"), results.facts("laptop", "obqa")
    other = results.facts("laptop-alpha-2").assign(study=name, curve=curve)
    again = known.assign(study="again")  # the same students under another name
    slower = other.assign(study="laptop-alpha-3", lr=1.0)  # differs in more than alpha
    book["facts"] = pd.concat([known, other, again, slower])
    points = book["curve"]("alpha", "alpha")
    assert sorted(points["study"]) == ["laptop", name][:drawn]
    assert len(book["minus_finetuning"](points)) == drawn


@pytest.mark.slow
def test_notebook_05_runs_before_any_result_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("TINYLLM_FIGURES", str(tmp_path / "figures"))
    file = paths.ROOT / "notebooks" / "05_paper_figures.ipynb"
    papermill.execute_notebook(file, tmp_path / "05.ipynb", progress_bar=False)
    drawn = {figure.stem for figure in (tmp_path / "figures").glob("*.csv")}
    assert drawn == {"method", "published_gains", "ledger"}


def compared() -> pd.DataFrame:
    arms = {"finetune": 0.5, "dss:micro:a": 0.55, "tinyllm": 0.8}
    rows = pd.concat([predictions(arms, name, n=60) for name in ("obqa", "arc")])
    table = paired.compare(rows)
    return table[table["baseline"] == "finetune"]


def draw() -> pd.DataFrame:
    """Saves two figures; returns the numbers of the first."""
    table, curves = compared(), history(["inference", "finetune", "tinyllm"])
    style.save(differences(table, "Title", "dss:micro:a"), "differences", table, "Seen.")
    style.save(learning_curves(curves), "learning", curves, "Seen.")
    return table


def test_figures_are_byte_identical_across_processes(own_folders):
    numbers, one, two = draw(), own_folders / "figures", own_folders / "again"
    file = font_manager.findfont("DejaVu Sans:bold")
    assert Path(file).is_relative_to(mpl.get_data_path())  # independent of the system's fonts
    variables = {"TINYLLM_FIGURES": str(two), "PYTHONHASHSEED": "3"}
    variables["PYTHONPATH"] = str(Path(__file__).parent)
    code = "import test_figures; test_figures.draw()"
    subprocess.run([sys.executable, "-c", code], check=True, env=variables)
    kinds = ("png", "pdf", "csv", "caption.md")
    files = {f"{name}.{kind}" for name in ("differences", "learning") for kind in kinds}
    assert files == {file.name for file in one.iterdir()}
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    again = pd.read_csv(one / "differences.csv")
    assert again["difference"].tolist() == pytest.approx(numbers["difference"].tolist(), rel=1e-5)


def test_a_saved_figure_is_shown_with_its_caption(own_folders, monkeypatch):
    figure, _ = style.grid(1, 1, 2, 1)
    style.save(figure, "empty", pd.DataFrame(), "What *it* shows.\n")
    shown = []
    monkeypatch.setattr(style, "display", shown.append)
    figure._ipython_display_()
    picture, caption = shown
    assert picture.data.startswith(b"\x89PNG")
    assert caption.data == "What *it* shows."


def test_points_show_differences_in_percent_filled_if_better_or_worse():
    table = compared()
    figure, part = differences(table, "Title", None), table[table["dataset"] == "obqa"]
    points = [bars[0] for bars in figure.axes[0].containers]
    drawn = [point.get_xdata()[0] for point in points]
    assert drawn == pytest.approx((100 * part["difference"]).tolist())
    filled = [point.get_markerfacecolor() != "white" for point in points]
    assert filled == part["verdict"].isin(["better", "worse"]).tolist() == [False, True]


def test_arms_have_readable_names_a_fixed_order_and_distinct_markers():
    for arm in ("finetune:x3", "dss:hf:google/flan-t5-xl", "tinyllm+lora:4"):
        assert arm not in style.arm_name(arm) and "/" not in style.arm_name(arm)
    tagged = "dss:openai:http://127.0.0.1:8000/v1#qwen/qwen3:8b"  # several models of one tag
    assert style.arm_name(tagged) == "one teacher (qwen3:8b)"
    arms = ["inference", "finetune", "finetune:x3", "dss:a", "dss:b", "tinyllm", "tinyllm:shuffled"]
    assert len({style.arm_name(arm) for arm in arms}) == len(arms)
    assert style.in_order(arms[::-1]) == arms
    looks = [style.look(arm, "dss:a") for arm in ("finetune", "tinyllm", "dss:a", "dss:b")]
    for feature in ("color", "marker"):
        assert len({look[feature] for look in looks}) == 4
