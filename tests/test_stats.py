"""Each statistic against an independent computation or a case worked by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions
from simulated import answers, predictions, teachers
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from tinyllm import stats
from tinyllm.stats import pairs

ANSWERS = st.integers(2, 25).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=2, max_size=6
    ).filter(lambda rows: len(rows) % 2 == 0)
)


def two_arms(rows: list[list[int]]) -> pd.DataFrame:
    """The first half of the rows as seeds of `tinyllm`, the second as seeds of `finetune`."""
    half = len(rows) // 2
    return answers({"tinyllm": rows[:half], "finetune": rows[half:]})


# --- intervals ---------------------------------------------------------------------------------


def test_wilson_agrees_with_the_formula_worked_by_hand():
    # 7 of 10 at z = 1.96: centre (7 + 1.9208) / 13.8416, half-width by Wilson 1927, equation for p
    z = distributions.norm.ppf(0.975)
    centre = (7 + z**2 / 2) / (10 + z**2)
    half = z / (10 + z**2) * math.sqrt(7 * 3 / 10 + z**2 / 4)
    assert stats.wilson(7, 10) == pytest.approx((centre - half, centre + half))
    assert stats.wilson(7, 10) == pytest.approx((0.3968, 0.8922), abs=5e-5)  # as in textbooks
    scipy = distributions.binomtest(7, 10).proportion_ci(method="wilson")
    assert stats.wilson(7, 10) == pytest.approx((scipy.low, scipy.high))


@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_contains_the_estimate_and_stays_between_0_and_1(n, share):
    low, high = stats.wilson(share * n, n)
    assert 0 <= low <= share * n / n <= high <= 1


def test_accuracy_counts_questions_once_however_many_seeds_answer_them():
    frame = answers({"finetune": [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]})
    row = stats.accuracy(frame).iloc[0]
    assert (row["n"], row["seeds"], row["k"]) == (4, 3, 2)
    assert row["estimate"] == 0.5
    assert (row["low"], row["high"]) == pytest.approx(stats.wilson(2, 4))
    assert (row["seed_low"], row["seed_high"], row["seed_std"]) == (0.25, 0.75, 0.25)


def test_accuracy_pools_datasets_by_question_where_by_leaves_them_out():
    frame = pd.concat(
        [
            answers({"finetune": [[1, 1, 1]]}, dataset="obqa"),
            answers({"finetune": [[0]]}, dataset="arc"),
        ]
    )
    row = stats.accuracy(frame, by=["arm"]).iloc[0]
    assert (row["n"], row["estimate"]) == (4, 0.75)


@pytest.mark.parametrize("column", ["study", "split", "arm", "student"])
def test_accuracy_refuses_to_average_over_different_runs_in_silence(column):
    frame = answers({"finetune": [[1, 0]]})
    both = pd.concat([frame, frame.assign(**{column: "other"})])
    with pytest.raises(ValueError, match=f"column '{column}'.*group by it"):
        stats.accuracy(both, by=["dataset"])


def test_a_seed_that_lacks_a_question_is_an_error_that_names_it():
    frame = answers({"finetune": [[1, 0, 1], [1, 1, 0]]})
    frame = frame[~((frame["seed"] == 1) & (frame["id"] == "q2"))]
    with pytest.raises(ValueError, match=r"'q2' for seed 1"):
        stats.accuracy(frame)


# --- baselines ---------------------------------------------------------------------------------


def test_majority_is_of_texts_where_options_are_shared_and_of_places_otherwise():
    frame = predictions({"finetune": 0.5}, n=4, seeds=[0], options=("yes", "no"))
    turned = [["yes", "no"], ["no", "yes"], ["yes", "no"], ["no", "yes"]]
    shared = frame.assign(options=turned, gold=[0, 1, 0, 0])  # yes, yes, yes, no
    row = stats.chance_and_majority(shared).iloc[0]
    assert (row["chance"], row["majority"], row["label"]) == (0.5, 0.75, "yes")
    own = frame.assign(options=[[f"a{i}", f"b{i}"] for i in range(4)], gold=[1, 1, 1, 0])
    row = stats.chance_and_majority(own).iloc[0]
    assert (row["majority"], row["label"]) == (0.75, "(b)")


def test_chance_is_the_mean_over_questions_with_different_numbers_of_options():
    frame = predictions({"finetune": 0.5}, n=2, seeds=[0, 1])
    frame["options"] = [["a", "b"] if key == "q0" else ["a", "b", "c", "d"] for key in frame["id"]]
    frame["gold"] = 0
    row = stats.chance_and_majority(frame).iloc[0]
    assert row["n"] == 2
    assert row["chance"] == pytest.approx((1 / 2 + 1 / 4) / 2)


# --- groups of questions -----------------------------------------------------------------------


def labels(by_id: dict[str, str], dataset: str = "obqa") -> pd.Series:
    """As `stats.by_group` takes them."""
    return pd.concat({dataset: pd.Series(by_id)}, names=["dataset", "id"])


def test_gains_within_groups_of_several_datasets_are_the_means_of_theirs():
    names = ("obqa", "arc")
    frames = {
        name: predictions({"finetune": 0.4, "tinyllm": 0.6}, name, n=60, rng=i)
        for i, name in enumerate(names)
    }
    sorts = {
        "obqa": labels({f"q{i}": "abc"[i % 3] for i in range(60)}, "obqa"),
        "arc": labels({f"q{i}": "ac"[i % 2] for i in range(60)}, "arc"),  # none in b
    }
    both = stats.by_group(
        pd.concat(frames.values()), pd.concat(sorts.values()), "tinyllm", "finetune"
    ).set_index("group")
    each = [
        stats.by_group(frames[name], sorts[name], "tinyllm", "finetune").set_index("group")
        for name in names
    ]
    for group in ("a", "c", "c minus a"):
        values = [table.loc[group, "difference"] for table in each]
        assert both.loc[group, "difference"] == pytest.approx(sum(values) / 2)
    assert both.loc["b", "difference"] == pytest.approx(each[0].loc["b", "difference"])
    assert both["n"].tolist()[:3] == [20 + 30, 20, 20 + 30]
    part = pd.concat(
        frame[frame["id"].map(sorts[name].loc[name]) == "c"] for name, frame in frames.items()
    )
    alone = stats.paired(part, "tinyllm", "finetune")
    for name in ("difference", "low", "high", "p", "baseline_accuracy"):
        assert both.loc["c", name] == pytest.approx(alone[name])


def test_gains_within_groups_are_those_of_their_questions_alone():
    frame = answers(
        {
            "tinyllm": [[1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]],
            "finetune": [[0, 1, 0, 0, 1, 1], [0, 1, 0, 0, 1, 0]],
        }
    )
    groups = labels({"q0": "a", "q1": "a", "q2": "a", "q3": "b", "q4": "b"})  # q5: none
    table = stats.by_group(frame, groups, "tinyllm", "finetune").set_index("group")
    assert table["n"].tolist()[:2] == [3, 2]
    assert table["difference"].tolist() == pytest.approx([3 / 6, -1 / 4, -1 / 4 - 3 / 6])
    for name in ("a", "b"):
        part = frame[frame["id"].isin(groups.loc["obqa"].index[groups == name])]
        alone = stats.paired(part, "tinyllm", "finetune")
        row = table.loc[name]
        assert row["difference"] == pytest.approx(alone["difference"])
        assert row["baseline_accuracy"] == pytest.approx(alone["baseline_accuracy"])
    assert table[["low", "high", "p"]].isna().all(axis=None)  # of too few questions
    with pytest.raises(ValueError, match="there is no 'kd'"):
        stats.by_group(frame, groups, "kd", "finetune")
    odd = frame[~((frame["arm"] == "tinyllm") & (frame["id"] == "q0"))]
    with pytest.raises(ValueError, match=r"'q0'.* is scored for only one of"):
        stats.by_group(odd, groups, "tinyllm", "finetune")


def test_a_gain_that_all_groups_share_is_no_difference_between_groups():
    frame = predictions({"finetune": 0.4, "tinyllm": 0.7}, n=400, seeds=range(6))
    groups = labels({f"q{i}": "first" if i % 2 else "last" for i in range(400)})
    table = stats.by_group(frame, groups, "tinyllm", "finetune").set_index("group")
    assert (table.loc[["first", "last"], "low"] > 0).all()
    alone = stats.paired(
        frame[frame["id"].map(groups.loc["obqa"]) == "first"], "tinyllm", "finetune"
    )
    ends = table.loc["first", ["low", "high"]].tolist()
    assert ends == pytest.approx([alone["low"], alone["high"]], abs=0.01)
    between = table.loc["last minus first"]
    assert between["low"] < 0 < between["high"] and np.isnan(between["n"])
    frame.loc[
        (frame["arm"] == "tinyllm") & frame["id"].map(groups.loc["obqa"]).eq("last"), "correct"
    ] = True
    between = stats.by_group(frame, groups, "tinyllm", "finetune").iloc[-1]
    assert between["low"] > 0 and between["p"] < 0.05


# --- F1 and calibration ------------------------------------------------------------------------


def test_macro_f1_agrees_with_a_table_worked_by_hand():
    frame = predictions({"finetune": 0.5}, n=6, seeds=[0], options=("yes", "no", "maybe"))
    frame = frame.assign(gold=[0, 0, 0, 1, 1, 2], choice=[0, 0, 1, 1, 0, 1])
    frame = frame.assign(correct=frame["gold"] == frame["choice"])
    # yes: precision 2/3, recall 2/3, F1 2/3; no: precision 1/3, recall 1/2, F1 2/5; maybe: 0
    assert stats.macro_f1(frame)["macro_f1"].iloc[0] == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)


def test_macro_f1_is_empty_where_options_are_no_classes():
    frame = predictions({"finetune": 0.5}, n=3, seeds=[0])
    frame["options"] = [[f"{i}{letter}" for letter in "abcd"] for i in range(3)]
    assert stats.macro_f1(frame)["macro_f1"].isna().all()


def test_ece_agrees_with_bins_worked_by_hand():
    frame = predictions({"finetune": 0.5}, n=4, seeds=[0], options=("yes", "no"))
    shares = [0.95, 0.95, 0.65, 0.65]
    frame["scores"] = [[math.log(p), math.log(1 - p)] for p in shares]
    frame = frame.assign(choice=0, gold=[0, 1, 0, 0], correct=[True, False, True, True])
    # bin (0.9, 1]: accuracy 0.5, confidence 0.95; bin (0.6, 0.7]: accuracy 1, confidence 0.65
    row = stats.ece(frame).iloc[0]
    assert row["ece"] == pytest.approx(0.5 * abs(0.5 - 0.95) + 0.5 * abs(1 - 0.65))
    assert (row["accuracy"], row["confidence"]) == pytest.approx((0.75, 0.8))
    table = stats.reliability(frame)
    assert table["rows"].tolist() == [2, 2]
    assert table["left"].tolist() == pytest.approx([0.6, 0.9])


def test_ece_agrees_with_a_loop_over_questions():
    frame = predictions({"finetune": 0.4}, n=300, seeds=[0, 1])
    bins: dict[int, list[tuple[float, bool]]] = {}
    for scores, choice, right in zip(
        frame["scores"], frame["choice"], frame["correct"], strict=True
    ):
        share = math.exp(scores[choice]) / sum(map(math.exp, scores))
        bins.setdefault(math.ceil(10 * share), []).append((share, right))
    gap = sum(abs(sum(s for s, _ in rows) - sum(r for _, r in rows)) for rows in bins.values())
    assert stats.ece(frame)["ece"].iloc[0] == pytest.approx(gap / len(frame))


def by_hand_f1(gold: list, choice: list, classes: list) -> float:
    """Macro-F1 by sklearn, over the classes that occur."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, choice, average="macro", labels=classes, zero_division=0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40))
def test_macro_f1_and_confusion_agree_with_sklearn(pairs):
    gold, choice = zip(*pairs, strict=True)
    options = ("yes", "no", "maybe")
    frame = predictions({"finetune": 0.5}, n=len(pairs), seeds=[0], options=options)
    frame = frame.assign(gold=gold, choice=choice, correct=np.equal(gold, choice))
    line = stats.macro_f1(frame, resamples=50).iloc[0]
    names = [[options[i] for i in side] for side in (gold, choice)]
    occurring = sorted({*names[0], *names[1]})
    assert line["macro_f1"] == pytest.approx(by_hand_f1(*names, occurring))
    assert 0 <= line["low"] <= line["macro_f1"] <= line["high"] <= 1

    from sklearn.metrics import confusion_matrix

    table = stats.confusion(frame).pivot(index="gold", columns="choice", values="questions")
    expected = confusion_matrix(*names, labels=sorted(options))
    assert (table.loc[sorted(options), sorted(options)].to_numpy() == expected).all()


def test_confusion_is_a_mean_over_seeds_and_its_rows_sum_to_1():
    frame = predictions({"finetune": 0.6}, n=30, seeds=[0, 1], options=("yes", "no"))
    table = stats.confusion(frame)
    assert table.groupby("gold")["share"].sum().tolist() == pytest.approx([1, 1])
    assert table["questions"].sum() == 30
    line = table.iloc[0]
    assert (line["low"], line["high"]) == stats.wilson(line["questions"], line["n"])
    own = frame.assign(options=[[f"{i}a", f"{i}b"] for i in frame["id"]])
    assert stats.confusion(own).empty


def test_intervals_of_ece_and_f1_agree_with_drawing_questions_one_by_one():
    frame = predictions({"finetune": 0.6}, n=120, seeds=[0, 1], options=("yes", "no", "maybe"))
    draw, errors, scores = np.random.default_rng(5), [], []
    parts = {name: rows for name, rows in frame.groupby("id")}
    ids = sorted(parts)
    for _ in range(150):
        rows = [parts[name].assign(id=i) for i, name in enumerate(draw.choice(ids, len(ids)))]
        again = pd.concat(rows, ignore_index=True)
        errors.append(stats.ece(again, resamples=2)["ece"].iloc[0])
        scores.append(stats.macro_f1(again, resamples=2)["macro_f1"].iloc[0])
    error, score = stats.ece(frame).iloc[0], stats.macro_f1(frame).iloc[0]
    for line, drawn in ((error, errors), (score, scores)):
        assert (line["high"] - line["low"]) / (4 * np.std(drawn)) == pytest.approx(0.98, abs=0.2)
    assert error["low"] <= error["ece"] <= error["high"]


def test_the_bins_of_a_reliability_plot_count_a_question_once_for_its_interval():
    frame = predictions({"finetune": 0.5}, n=50, seeds=[0, 1, 2])
    table = stats.reliability(frame)
    assert table["rows"].sum() == 150 and (table["n"] <= 50).all()
    assert ((table["left"] < table["confidence"]) & (table["confidence"] <= table["right"])).all()
    for line in table.itertuples():
        assert (line.low, line.high) == stats.wilson(line.accuracy * line.n, line.n)


# --- teachers, ablations -----------------------------------------------------------------------


def test_teacher_accuracy_counts_each_question_once_a_teacher_and_kind_of_prompt():
    frame = predictions({"finetune": 0.5}, n=40, seeds=[0, 1])
    asked = teachers(frame, {"micro:a": 0.8}, ["none", "random:2"])
    table = stats.teacher_accuracy(asked)
    assert table["arm"].tolist() == ["teacher:micro:a, 0-shot", "teacher:micro:a, 2-shot"]
    assert table["n"].tolist() == [40, 40]
    assert table["k"].tolist() == asked.groupby("shots")["correct"].sum().tolist()
    assert len(stats.results(frame, teachers=asked)) == 3
    with pytest.raises(ValueError, match="'q3' is not answered once by every teacher"):
        stats.teacher_accuracy(asked[~(asked["id"].eq("q3") & asked["shots"].eq("none"))])
    assert stats.teacher_accuracy(asked.iloc[:0]).empty


def test_ablations_are_the_paired_differences_from_tinyllm_of_whole_models():
    arms = {"finetune": 0.5, "dss:a": 0.5, "tinyllm": 0.6, "tinyllm-a": 0.55}
    frame = predictions({**arms, "kd": 0.5, "tinyllm+lora": 0.5, "lora": 0.5}, n=40)
    table = stats.ablations(frame)
    assert set(table["arm"]) == {"finetune", "dss:a", "tinyllm-a"}
    assert set(table["baseline"]) == {"tinyllm"}
    line = stats.paired(frame, "finetune", "tinyllm")
    own = table.set_index("arm").loc["finetune"]
    assert (own["difference"], own["low"]) == (line["difference"], line["low"])
    assert stats.ablations(frame[frame["arm"] != "tinyllm"]).empty


def test_mcnemar_of_a_large_table_is_near_the_chi_square_worked_by_hand():
    # (86 - 150)^2 / (86 + 150) = 17.36
    ours = [1] * 794 + [1] * 150 + [0] * 86 + [0] * 570
    theirs = [1] * 794 + [0] * 150 + [1] * 86 + [0] * 570
    won, lost, p = stats.mcnemar(ours, theirs)
    assert (won, lost) == (150, 86)
    normal = distributions.chi2.sf((86 - 150) ** 2 / (86 + 150), 1)
    assert p == pytest.approx(normal, rel=0.3)
    exact = statsmodels_mcnemar([[794, 150], [86, 570]], exact=True).pvalue
    assert p == pytest.approx(exact)


@settings(max_examples=25, deadline=None)  # statsmodels collects garbage at every call
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
def test_holm_agrees_with_its_definition_and_keeps_the_order(values):
    table = stats.holm(pd.DataFrame({"p": values}))
    order = np.argsort(values, kind="stable")
    steps = [min(1, values[i] * (len(values) - rank)) for rank, i in enumerate(order)]
    expected = np.empty(len(values))
    expected[order] = np.maximum.accumulate(steps)
    assert table["p_holm"].to_numpy() == pytest.approx(expected)
    assert (table["p_holm"] >= table["p"] - 1e-12).all()


# --- paired tests ------------------------------------------------------------------------------


def test_mcnemar_agrees_with_statsmodels_and_with_the_binomial_worked_by_hand():
    ours = [1] * 8 + [0] * 2 + [1] * 5 + [0] * 5
    theirs = [0] * 8 + [1] * 2 + [1] * 5 + [0] * 5
    won, lost, p = stats.mcnemar(ours, theirs)
    assert (won, lost) == (8, 2)
    assert p == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert p == pytest.approx(statsmodels_mcnemar([[5, 8], [2, 5]], exact=True).pvalue)


def test_mcnemar_of_arms_that_never_differ_is_1():
    assert stats.mcnemar([1, 0, 1], [1, 0, 1]) == (0, 0, 1.0)


def test_paired_interval_of_one_seed_agrees_with_scipys_bootstrap():
    frame = predictions({"tinyllm": 0.6, "finetune": 0.5}, n=400, seeds=[0])
    line = stats.paired(frame, "tinyllm", "finetune")
    wide = frame.pivot(index="id", columns="arm", values="correct").astype(float)
    difference = (wide["tinyllm"] - wide["finetune"]).to_numpy()
    assert line["difference"] == pytest.approx(difference.mean())
    other = distributions.bootstrap(
        (difference,), np.mean, n_resamples=10_000, method="percentile", rng=1
    )
    interval = other.confidence_interval
    assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high), abs=0.004)
    assert line["se"] == pytest.approx(difference.std(ddof=1) / math.sqrt(400), rel=0.03)


def test_won_and_lost_are_questions_by_the_majority_of_seeds():
    frame = answers(
        {
            "tinyllm": [[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]],
            "finetune": [[0, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]],
        }
    )
    line = stats.paired(frame, "tinyllm", "finetune")
    assert (line["won"], line["lost"]) == (2, 2)
    line = stats.paired(frame[frame["seed"] == 0], "tinyllm", "finetune")
    assert (line["won"], line["lost"], line["mcnemar_p"]) == (3, 1, pytest.approx(0.625))


def test_spread_between_seeds_widens_the_interval():
    steady = [[1, 0] * 50] * 3
    swings = [[1] * 100, [1, 0] * 50, [0] * 100]
    base = {"finetune": steady}
    calm = stats.paired(answers({**base, "tinyllm": steady}), "tinyllm", "finetune")
    wild = stats.paired(answers({**base, "tinyllm": swings}), "tinyllm", "finetune")
    assert calm["difference"] == wild["difference"] == 0
    # question noise alone is 0 for the calm arm; seeds at 1, 0.5, 0 have a mean with error 0.289
    assert calm["se"] == 0
    assert wild["se"] == pytest.approx(0.5 / math.sqrt(3), rel=0.05)


def told(scores: np.ndarray) -> dict:
    """The interval of mean differences (seeds, questions) as `paired` gives it."""
    frame = pd.DataFrame(scores)
    return pairs._told(pairs._gap(frame, 0 * frame))


def test_the_error_is_that_of_a_two_way_layout_worked_by_hand():
    # Questions 0 and 3 (variance 4.5 / 2), seeds -2, 0, 2 (4 / 3), and a rest of squares 4.
    scores = np.array([[-2.0, 1], [0, 3], [2, 5]])
    rest = np.array([[-1.0, 1], [0, 0], [1, -1]])
    vq, vs, vr = 4.5 / 2, 4 / 3, 4 / 2 / 6
    line = told(scores + rest)
    assert line["difference"] == 1.5
    assert line["se"] == pytest.approx(math.sqrt(vq + vs - vr))
    assert told(scores / 10 + rest)["se"] == pytest.approx(math.sqrt(vq / 100))  # seeds' is rest
    line = told(scores)
    assert line["se"] == pytest.approx(math.sqrt(vq + vs))
    student = distributions.t((vq + vs) ** 2 / (vq**2 / 1 + vs**2 / 2))
    assert line["high"] - 1.5 == pytest.approx(student.ppf(0.975) * line["se"])
    assert line["p"] == pytest.approx(2 * student.sf(1.5 / line["se"]))


def test_interval_of_one_seed_covers_the_true_difference_about_as_often_as_it_says():
    # questions independent: 95% nominal; 300 worlds leave a standard error of 1.3 points
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        mine, other = draw.random((1, 200)) < 0.6, draw.random((1, 200)) < 0.5
        line = told(mine * 1.0 - other)
        inside += line["low"] <= 0.1 <= line["high"]
    assert 0.90 <= inside / 300 <= 0.985


@pytest.mark.parametrize("rest", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seeds", [0.0, 1.0, 20.0])
def test_interval_of_three_seeds_covers_the_true_difference_whatever_makes_the_noise(seeds, rest):
    """seeds, rest: their variance of the mean over that of questions."""
    draw = np.random.default_rng(1)
    size, n, worlds = 3, 100, 600
    inside = 0
    for _ in range(worlds):
        scores = draw.normal(size=(size, 1)) * np.sqrt(seeds * size / n)
        scores = (
            scores + draw.normal(size=(1, n)) + draw.normal(size=(size, n)) * np.sqrt(rest * size)
        )
        line = told(scores)
        inside += line["low"] <= 0 <= line["high"]
    assert 0.90 <= inside / worlds <= 0.985


def test_arms_of_different_seeds_have_the_error_of_both():
    draw, n = np.random.default_rng(0), 4000
    ours = pd.DataFrame(draw.normal(size=(3, 1)) + draw.normal(size=(3, n)))
    theirs = pd.DataFrame(draw.normal(size=(4, 1)) + draw.normal(size=(4, n)), index=[5, 6, 7, 8])
    line = pairs._told(pairs._gap(ours, theirs))
    spread = ours.mean(axis=1).var() / 3 + theirs.mean(axis=1).var() / 4
    assert line["se"] == pytest.approx(math.sqrt(spread), rel=0.01)
    assert line["difference"] == pytest.approx(ours.to_numpy().mean() - theirs.to_numpy().mean())


def test_of_one_question_nothing_is_told_and_of_few_that_agree_the_sign_test_speaks():
    one = stats.paired(two_arms([[1], [0]]), "tinyllm", "finetune")
    assert one["low"] < 0 < one["high"] and one["p"] > 0.3
    six = stats.paired(two_arms([[1] * 6, [0] * 6]), "tinyllm", "finetune")
    assert (six["difference"], six["p"]) == (1, pytest.approx(six["mcnemar_p"]))


def test_p_is_rarely_small_without_a_difference_and_small_with_a_large_one():
    draw = np.random.default_rng(2)
    small = 0
    for _ in range(60):
        rows = (draw.random((2, 150)) < 0.5).astype(int).tolist()
        line = stats.paired(two_arms(rows), "tinyllm", "finetune")
        small += line["p"] < 0.05
    assert small <= 9  # 3 expected; 10 or more of 60 has a chance below 0.1%
    frame = predictions({"tinyllm": 0.8, "finetune": 0.5}, n=300)
    assert stats.paired(frame, "tinyllm", "finetune")["p"] < 1e-4


def test_arms_with_different_seeds_are_drawn_apart():
    frame = answers({"tinyllm": [[1, 0, 1, 1]] * 2, "finetune": [[1, 0, 0, 1]] * 3})
    line = stats.paired(frame, "tinyllm", "finetune")
    assert line["difference"] == pytest.approx(0.25)
    assert line["seeds"] == 2


def test_datasets_with_different_numbers_of_seeds_are_averaged_too():
    frame = pd.concat(
        [
            predictions({"tinyllm": 0.7, "finetune": 0.5}, dataset="obqa", n=60, seeds=[0, 1, 2]),
            predictions({"tinyllm": 0.7, "finetune": 0.5}, dataset="arc", n=40, seeds=[0], rng=1),
        ]
    )
    line = stats.paired(frame, "tinyllm", "finetune")
    alone = [
        stats.paired(frame[frame["dataset"] == name], "tinyllm", "finetune")
        for name in ("obqa", "arc")
    ]
    assert line["difference"] == pytest.approx(np.mean([each["difference"] for each in alone]))
    assert line["se"] == pytest.approx(np.hypot(*(each["se"] for each in alone)) / 2, rel=0.05)
    assert (line["n"], line["seeds"]) == (100, 1)


def test_several_datasets_are_averaged_with_equal_weight():
    frame = pd.concat(
        [
            answers({"tinyllm": [[1] * 10], "finetune": [[0] * 10]}, dataset="obqa"),
            answers({"tinyllm": [[0, 0]], "finetune": [[0, 0]]}, dataset="arc"),
        ]
    )
    line = stats.paired(frame, "tinyllm", "finetune")
    assert (line["n"], line["difference"]) == (12, 0.5)


@settings(max_examples=40, deadline=None)
@given(ANSWERS)
def test_paired_interval_contains_the_difference(rows):
    line = stats.paired(two_arms(rows), "tinyllm", "finetune")
    assert line["low"] - 1e-6 <= line["difference"] <= line["high"] + 1e-6
    assert 0 < line["p"] <= 1


@settings(max_examples=25, deadline=None)
@given(ANSWERS)
def test_an_arm_against_itself_gives_no_difference_and_p_1(rows):
    line = stats.paired(two_arms(rows), "tinyllm", "tinyllm")
    assert (line["difference"], line["low"], line["high"]) == (0, 0, 0)
    assert (line["p"], line["mcnemar_p"], line["won"], line["lost"]) == (1, 1, 0, 0)


@settings(max_examples=25, deadline=None)
@given(ANSWERS)
def test_swapping_the_arms_turns_the_sign_and_keeps_p(rows):
    frame = two_arms(rows)
    one = stats.paired(frame, "tinyllm", "finetune")
    two = stats.paired(frame, "finetune", "tinyllm")
    assert one["difference"] == pytest.approx(-two["difference"])
    assert (one["low"], one["high"]) == pytest.approx((-two["high"], -two["low"]), abs=1e-6)
    assert (one["p"], one["won"]) == (two["p"], two["lost"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_rows_changes_nothing(seed):
    frame = predictions({"tinyllm": 0.6, "finetune": 0.5}, n=30)
    mixed = frame.sample(frac=1, random_state=seed)
    keys = ["dataset", "arm"]
    for function in (stats.accuracy, stats.ece, stats.macro_f1, stats.chance_and_majority):
        one, two = (function(x) for x in (frame, mixed))
        sort = [key for key in keys if key in one]
        pd.testing.assert_frame_equal(
            one.sort_values(sort, ignore_index=True), two.sort_values(sort, ignore_index=True)
        )
    assert stats.paired(frame, "tinyllm", "finetune") == stats.paired(mixed, "tinyllm", "finetune")


def test_a_comparison_of_500_questions_and_3_seeds_takes_under_a_fifth_of_a_second():
    frame = predictions({"tinyllm": 0.6, "finetune": 0.5}, n=500)
    start = time.process_time()
    stats.paired(frame, "tinyllm", "finetune")
    assert time.process_time() - start < 0.2


# --- families ----------------------------------------------------------------------------------


def test_holm_agrees_with_the_procedure_worked_by_hand():
    table = stats.holm(pd.DataFrame({"p": [0.01, 0.04, 0.03, 0.005]}))
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then no smaller than the one before
    assert table["p_holm"].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert table["significant"].tolist() == [True, False, False, True]


def test_compare_corrects_over_every_row_that_it_returns():
    arms = {"finetune": 0.5, "tinyllm": 0.62, "tinyllm:shuffled": 0.5}
    frame = pd.concat(
        [predictions(arms, dataset=name, n=150, rng=i) for i, name in enumerate(["obqa", "arc"])]
    )
    table = stats.compare(frame)
    assert len(table) == 4
    pd.testing.assert_series_equal(table["p_holm"], stats.holm(table)["p_holm"])
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(min(1, 4 * table["p"].min()))


def test_compare_names_the_missing_baseline():
    frame = predictions({"tinyllm": 0.5, "tinyllm:shuffled": 0.5}, n=5)
    with pytest.raises(ValueError, match="no 'finetune'; there are tinyllm, tinyllm:shuffled"):
        stats.compare(frame)


# --- power -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_smallest_difference_is_told_as_often_as_it_says(seeds):
    n, worlds, draw = 100, 600, np.random.default_rng(3)

    def world(true: float) -> dict:
        by_seed = draw.normal(size=(seeds, 1)) * (seeds > 1)
        return told(true + by_seed + draw.normal(size=(1, n)))

    free = 99 if seeds == 1 else 2.07  # Satterthwaite's, of the true variances
    se = math.sqrt(1 / n + (seeds > 1) / 3)
    smallest = se * distributions.t(free).ppf([0.975, 0.8]).sum()
    assert np.median([world(0)["smallest"] for _ in range(worlds)]) == pytest.approx(
        smallest, rel=0.25
    )
    assert np.mean([world(smallest)["p"] < 0.05 for _ in range(worlds)]) == pytest.approx(
        0.8, abs=0.08
    )


def test_more_questions_and_steadier_seeds_tell_smaller_differences():
    def smallest(n: int, seeds: list[int], rng: int = 0) -> float:
        frame = predictions({"tinyllm": 0.6, "finetune": 0.5}, n=n, seeds=seeds, rng=rng)
        return stats.paired(frame, "tinyllm", "finetune")["smallest"]

    assert smallest(1600, [0]) == pytest.approx(smallest(400, [0]) / 2, rel=0.15)
    swings = answers({"tinyllm": [[1] * 40, [0] * 40], "finetune": [[1, 0] * 20] * 2})
    assert stats.paired(swings, "tinyllm", "finetune")["smallest"] > 1


# --- broken input ------------------------------------------------------------------------------


@pytest.fixture
def whole() -> pd.DataFrame:
    return predictions({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0, 1])


def test_whole_predictions_pass_unchanged(whole):
    assert stats.check(whole, "a.parquet") is whole


def test_predictions_pass_after_a_trip_through_parquet(whole, tmp_path):
    whole.to_parquet(tmp_path / "predictions.parquet")
    read = pd.read_parquet(tmp_path / "predictions.parquet")
    stats.check(read, "predictions.parquet")
    pd.testing.assert_frame_equal(stats.results(read), stats.results(whole))


@pytest.mark.parametrize("column", stats.SCHEMA)
def test_a_missing_column_is_named_with_its_file(whole, column):
    with pytest.raises(ValueError, match=rf"a\.parquet: column '{column}': is missing"):
        stats.check(whole.drop(columns=column), "a.parquet")


def test_no_rows_are_an_error(whole):
    with pytest.raises(ValueError, match=r"a\.parquet: column 'id': there are no rows"):
        stats.check(whole.iloc[:0], "a.parquet")


def broken(frame: pd.DataFrame, row: int, column: str, value) -> pd.DataFrame:
    frame = frame.astype({column: object})
    frame.at[frame.index[row], column] = value
    return frame


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("scores", [0.0, math.nan, 0.0, 0.0], "needs a finite number"),
        ("logprobs", [0.0, -math.inf, 0.0, 0.0], "needs a finite number"),
        ("scores", [0.0, 1.0], "2 numbers for 4 options"),
        ("gold", 4, "index of none of its 4 options"),
        ("choice", -1, "index of none of its 4 options"),
        ("tokens", [1, 1, 1], "3 numbers for 4 options"),
        ("scores", None, "every option needs a number"),
        ("options", ["x"], "1 options; 2 or more are needed"),
        ("exact", None, "is empty"),
        ("options", None, "is empty"),
        ("extracted", None, "is empty"),
        ("named", 4, "index of none of its 4 options"),
        ("named", -2, "index of none of its 4 options"),
    ],
)
def test_a_broken_cell_is_named_with_file_column_and_row(whole, column, value, problem):
    with pytest.raises(ValueError, match=problem) as error:
        stats.check(broken(whole, 7, column, value), "a.parquet")
    assert str(error.value).startswith(f"a.parquet: row 7 (id 'q2'), column '{column}': ")
    assert str(error.value).endswith("run notebooks 03 and 04 again.")  # the remedy


def test_files_from_before_the_named_option_was_looked_for_pass(whole):
    old = whole.drop(columns=["named", "extracted"])
    assert stats.check(old, "a.parquet") is old


def test_extracted_that_contradicts_the_named_option_is_an_error(whole):
    flipped = whole.assign(extracted=whole["extracted"] ^ (whole.index == 3))
    with pytest.raises(ValueError, match=r"row 3 \(id 'q3'\), column 'extracted'.*named equals"):
        stats.check(flipped, "a.parquet")


def test_arms_with_different_options_are_named(whole):
    changed = whole.copy()
    changed.at[12, "options"] = ["w", "x", "y", "other"]
    with pytest.raises(ValueError, match=r"row 12 \(id 'q2'\), column 'options'.*differ"):
        stats.check(changed, "a.parquet")


def test_correct_that_contradicts_the_choice_is_named(whole):
    flipped = whole.assign(correct=whole["correct"] ^ (whole.index == 3))
    with pytest.raises(ValueError, match=r"a\.parquet: row 3 \(id 'q3'\), column 'correct'"):
        stats.check(flipped, "a.parquet")


def test_a_question_that_stands_twice_in_a_run_is_named(whole):
    twice = pd.concat([whole, whole.iloc[[6]]], ignore_index=True)
    with pytest.raises(ValueError, match=r"a\.parquet: row 20 \(id 'q1'\).*stands twice in .*/ 1"):
        stats.check(twice, "a.parquet")


@pytest.mark.parametrize("lost", [3, 17])  # a row of the first run, and of the last
def test_arms_scored_on_different_questions_are_named(whole, lost):
    with pytest.raises(ValueError, match="was not scored on it") as error:
        stats.check(whole.drop(index=lost), "a.parquet")
    key = whole["id"].iloc[lost]
    message = str(error.value)
    assert message.startswith("a.parquet: row ") and f"(id '{key}'), column 'id'" in message
    assert "finetune" in message and "(1 such)" in message
    assert message.endswith("the same `limit` and `data_seed`.")


def test_arms_with_different_gold_answers_are_named(whole):
    gold = whole["gold"].where(whole.index != 12, (whole["gold"] + 1) % 4)
    right = gold == whole["choice"]
    changed = whole.assign(gold=gold, correct=right, extracted=right)
    with pytest.raises(ValueError, match=r"row 12 \(id 'q2'\), column 'gold'.*differ"):
        stats.check(changed, "a.parquet")


def test_paired_refuses_arms_with_different_questions():
    frame = predictions({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0])
    with pytest.raises(ValueError, match=r"'q4'.*only one of"):
        stats.paired(frame.iloc[:-1], "tinyllm", "finetune")


def test_statistics_published_numbers_figures_and_tables_need_no_torch():
    code = (
        "import sys; from tinyllm import figures, paper, stats, tables; "
        "figures.published_gains(paper.gains()); tables.published(); "
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
