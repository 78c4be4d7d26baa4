"""Curves join students that differ in one quantity alone, and nothing else."""

from __future__ import annotations

import pandas as pd
import pytest
from simulated import facts, predictions, teachers

from tinyllm import series, stats, summary

ARMS = {"finetune": 0.5, "tinyllm": 0.6, "tinyllm:shuffled": 0.5}


def points(*studies: dict, arms: dict | None = None) -> pd.DataFrame:
    """Points of studies that differ in the given facts."""
    rows, known = [], []
    for index, values in enumerate(studies):
        student = values.pop("student", "minilm-ed")
        rows.append(predictions(arms or ARMS, study=f"s{index}", n=20, student=student))
        known.append(facts(rows[-1], **values))
    return series.points(pd.concat(rows), pd.concat(known))


def test_points_are_the_results_with_the_mean_of_the_seeds_facts():
    rows = predictions(ARMS, n=20)
    known = facts(rows, train_flops=1e15)
    known.loc[known["seed"] == 0, "train_flops"] = 4e15
    table = series.points(rows, known)
    pd.testing.assert_frame_equal(table[list(stats.results(rows))], stats.results(rows))
    assert table["train_flops"].unique().tolist() == [2e15]
    known.loc[known["seed"] == 0, "alpha"] = 9
    with pytest.raises(ValueError, match=r"'alpha': seeds of .*finetune.* differ in it"):
        series.points(rows, known)


def test_a_curve_holds_everything_else_fixed():
    rows = points(
        {"train_questions": 250},
        {"train_questions": 1000},
        {"train_questions": 1000, "alpha": 0.1},  # another alpha: on another curve, of one point
    )
    curve = series.along(rows, "train_questions")
    assert set(curve["study"]) == {"s0", "s1"}
    assert set(curve["arm"]) == {"finetune", "tinyllm"}  # no controls


def test_alpha_has_fine_tuning_of_the_same_questions_as_reference():
    alphas = [{"alpha": {"tinyllm": value}, "train_questions": 500} for value in (0.1, 1.0)]
    other = {"alpha": {"tinyllm": 0.5}, "train_questions": 9}
    curve = series.along(points(*alphas, other), "alpha")
    assert curve.loc[curve["arm"] == "tinyllm", "alpha"].tolist() == [0.1, 1.0]
    reference = curve[curve["arm"] == "finetune"]
    assert len(reference) == 1 and reference["alpha"].isna().all()
    assert reference["train_questions"].tolist() == [500]


@pytest.mark.parametrize("x", ["alpha", "train_questions"])
def test_a_point_is_held_against_fine_tuning_with_the_same_questions(x):
    values = (0.1, 1.0) if x == "alpha" else (250, 1000)
    frames, known = [], []
    for index, value in enumerate(values):
        # The curve of weights has one fine-tuning, in the first study.
        arms = ARMS if x == "train_questions" or index == 0 else {"tinyllm": 0.7}
        about = {"alpha": {"tinyllm": value}} if x == "alpha" else {x: value}
        frames.append(predictions(arms, study=f"s{index}", n=60))
        known.append(facts(frames[-1], **about))
    stored = pd.concat(frames)
    rows = series.points(stored, pd.concat(known))
    table = series.gains(stored, series.along(rows, x), x)
    assert table[x].tolist() == list(values) and set(table["arm"]) == {"tinyllm"}
    for index, line in table.iterrows():
        base = 0 if x == "alpha" else index
        plain = stored[(stored["study"] == f"s{base}") & (stored["arm"] == "finetune")]
        mine = stored[(stored["study"] == f"s{index}") & (stored["arm"] == "tinyllm")]
        assert (
            line["difference"]
            == stats.paired(pd.concat([plain, mine]), "tinyllm", "finetune")["difference"]
        )
    assert (table["p_holm"] >= table["p"]).all()
    shown = summary.curve(table)
    assert shown.index.names == ["dataset", "student", "arm", x]
    assert shown["minus finetune, points"].tolist() == [
        summary.difference(r) for _, r in table.iterrows()
    ]


def test_without_fine_tuning_no_point_of_a_curve_is_compared():
    alone = [{"alpha": {"tinyllm": value}} for value in (0.1, 1.0)]
    rows = points(*alone, arms={"tinyllm": 0.6})
    assert series.gains(pd.DataFrame(), series.along(rows, "alpha"), "alpha").empty


def test_students_of_another_precision_are_on_another_curve():
    rows = points(
        {"alpha": {"tinyllm": 1.0}, "precision": "bf16"},
        {"alpha": {"tinyllm": 1.0}},
        {"alpha": {"tinyllm": 0.1}},
    )
    curve = series.along(rows, "alpha")
    assert set(curve["study"]) == {"s1", "s2"}
    assert set(curve.loc[curve["arm"] == "finetune", "precision"]) == {"fp32"}
    assert series.along(rows[rows["study"] != "s2"], "alpha").empty


@pytest.mark.parametrize(
    "other", [{"lr": 2e-4}, {"epochs": 9.0}, {"batch": 64}, {"max_target": 80}], ids=str
)
def test_students_trained_otherwise_are_on_another_curve(other):
    rows = points({"alpha": {"tinyllm": 1.0}}, {"alpha": {"tinyllm": 0.1}, **other})
    assert series.along(rows, "alpha").empty


def test_teachers_join_fine_tuning_single_teachers_and_tinyllm():
    arms = {"finetune": 0.4, "dss:a": 0.5, "tinyllm": 0.6, "tinyllm+lora": 0.6}
    count = {"finetune": 0, "dss:a": 1, "tinyllm": 2, "tinyllm+lora": 2}
    curve = series.along(points({"teachers": count}, arms=arms), "teachers")
    assert sorted(curve["teachers"]) == [0, 1, 2]
    assert set(curve["curve"]) == {"tinyllm"}


def test_sizes_join_different_students():
    rows = points(
        {"student": "small", "parameters": 8e7, "train_flops": 1e15},
        {"student": "large", "parameters": 8e8, "train_flops": 1e16},
    )
    for x in ("parameters", "train_flops"):
        assert set(series.along(rows, x)["student"]) == {"small", "large"}
    asked = stats.teacher_accuracy(teachers(predictions(ARMS, study="s0", n=20), {"t": 0.9}))
    whole = series.with_teachers(series.along(rows, "parameters"), asked)
    assert whole["arm"].tolist()[-1] == "teacher:t, 2-shot"
    assert whole["chance"].notna().all()


def test_what_was_recorded_nowhere_or_does_not_vary_is_on_no_curve():
    rows = points({"train_questions": None}, {"train_questions": None})
    assert all(series.along(rows, x).empty for x in series.VARIED)
    alike = points({}, {})
    assert all(series.along(alike, x).empty for x in ("alpha", "train_questions", "parameters"))
    nothing = facts(predictions(ARMS, n=5)).iloc[:0]
    empty = series.points(predictions(ARMS, n=20), nothing)
    assert series.along(empty, "alpha").empty
    with pytest.raises(ValueError, match="x: 'lr': allowed are alpha"):
        series.along(rows, "lr")
