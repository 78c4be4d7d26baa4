"""Figures: the same numbers give the same bytes, and what is drawn are the numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import font_manager
from simulated import history, notebook, predictions

from tinyllm.evaluation import paired
from tinyllm.figures import style

differences = notebook("04")["differences"]
learning_curves = notebook("03")["learning_curves"]
ARMS = {"finetune": 0.5, "dss:micro:a": 0.55, "dss:micro:b": 0.4, "tinyllm": 0.7}
ARMS |= {"tinyllm:shuffled": 0.5}


def compared() -> pd.DataFrame:
    names = ["obqa", "arc"]
    frame = pd.concat([predictions(ARMS, name, n=60, rng=i) for i, name in enumerate(names)])
    table = paired.compare(frame)
    return table[table["baseline"] == "finetune"]


def draw() -> pd.DataFrame:
    table, curves = compared(), history(["inference", "finetune", "tinyllm"])
    style.save(differences(table, "Title", "dss:micro:a"), "differences", table, "Seen.")
    style.save(learning_curves(curves), "learning", curves, "Seen.")
    return table


def test_the_same_numbers_give_the_same_bytes_in_every_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_FIGURES", str(tmp_path / "one"))
    numbers = draw()
    file = font_manager.findfont("DejaVu Sans:bold")
    assert Path(file).is_relative_to(mpl.get_data_path())  # whatever fonts the system has
    variables = {"TINYLLM_FIGURES": str(tmp_path / "two"), "PYTHONHASHSEED": "3"}
    variables["PYTHONPATH"] = str(Path(__file__).parent)
    code = "import test_figures; test_figures.draw()"
    subprocess.run([sys.executable, "-c", code], check=True, env=variables)
    kinds = ("png", "pdf", "csv", "caption.md")
    files = {f"{name}.{kind}" for name in ("differences", "learning") for kind in kinds}
    assert files == {file.name for file in (tmp_path / "one").iterdir()}
    for name in files:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two and len(one) > 4, name
    again = pd.read_csv(tmp_path / "one" / "differences.csv")
    assert again["difference"].tolist() == pytest.approx(numbers["difference"].tolist(), rel=1e-5)
    seeds = [float(text) for text in again["by_seed"].iloc[0].split()]
    assert seeds == pytest.approx(numbers["by_seed"].iloc[0], rel=1e-5)


def test_differences_draws_the_numbers_and_fills_what_is_better_or_worse():
    table = compared()
    table = table[~(table["dataset"].eq("arc") & table["arm"].eq("tinyllm"))]
    figure = differences(table, "Title", "dss:micro:a")
    assert [len(axis.containers) for axis in figure.axes] == [4, 3, 4]  # obqa, arc, mean
    part, axis = table[table["dataset"] == "obqa"], figure.axes[0]
    drawn = [bars[0] for bars in axis.containers]
    places = [mark.get_xdata()[0] for mark in drawn]
    assert places == pytest.approx(list(100 * part["difference"]))
    filled = [mark.get_markerfacecolor() != "white" for mark in drawn]
    assert filled == part["verdict"].isin(["better", "worse"]).tolist()
    assert any(filled) and not all(filled)


def test_arms_have_readable_names_one_order_and_are_told_apart_without_colour():
    names = {
        "finetune:x3": "fine-tuning, 3x epochs",
        "dss:hf:google/flan-t5-xl": "flan-t5-xl rationales only",
        "tinyllm-llama2": "TinyLLM without LLaMA-2",
        "tinyllm+lora:4": "TinyLLM, LoRA",
        "something new": "something new",
    }
    assert {arm: style.arm_name(arm) for arm in names} == names
    arms = ["inference", "finetune", "finetune:x3", "dss:a", "dss:b", "tinyllm", "tinyllm:shuffled"]
    assert style.in_order(arms[::-1]) == arms
    assert style.datasets_in_order(["micro", "mine", "obqa"]) == ["obqa", "micro", "mine"]
    looks = {arm: style.look(arm, "dss:a") for arm in ("finetune", "tinyllm", "dss:a", "dss:b")}
    assert len({look["color"] for look in looks.values()}) == 4
    assert len({look["marker"] for look in looks.values()}) == 4
