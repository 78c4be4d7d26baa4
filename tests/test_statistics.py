"""Each statistic is compared with an independent computation or a manual calculation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as distributions
from simulated import answers, notebook, predictions
from statsmodels.stats.multitest import multipletests

from tinyllm.evaluation import accuracy, paired, results, summary

PAIRS = st.tuples(st.integers(1, 3), st.integers(2, 25)).flatmap(
    lambda size: arrays(int, (2, *size), elements=st.integers(0, 1))
)


def two_arms(ours, theirs) -> pd.DataFrame:
    """Correct (1) and wrong (0) answers of two arms: seeds -> questions."""
    return answers({"tinyllm": ours, "finetune": theirs})


def line_of(scores: np.ndarray) -> dict:
    """The mean of scores of shape (seeds, questions), with its interval."""
    one = paired.estimate(pd.DataFrame(scores))
    return {"difference": one.value, "n": one.n, **paired.interval(one)}


def test_wilson_interval_matches_a_manual_calculation():
    # 7 of 10 at z = 1.96: centre (7 + 1.9208) / 13.8416, half-width from Wilson (1927)
    z = distributions.norm.ppf(0.975)
    centre = (7 + z**2 / 2) / (10 + z**2)
    half = z / (10 + z**2) * math.sqrt(7 * 3 / 10 + z**2 / 4)
    assert accuracy.wilson(7, 10) == pytest.approx((centre - half, centre + half))
    sure = paired.mean_interval(answers({"tinyllm": [[1] * 10] * 2}))  # without variance
    assert (sure["low"], sure["high"]) == accuracy.wilson(10, 10)


def test_the_bayesian_interval_is_normal_for_many_questions_and_has_width():
    draw = np.random.default_rng(1)
    gap = draw.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=(1, 2000))
    half = 1.96 * gap.std() / 2000**0.5
    assert accuracy.bayesian(gap) == pytest.approx((gap.mean() - half, gap.mean() + half), abs=2e-3)
    low, high = accuracy.bayesian(np.ones((3, 12)))  # a normal interval would have no width
    assert 0.4 < low < high < 1


def test_tied_best_scores_get_chance_credit():
    frame = answers({"finetune": [[1, 0, 0, 1]]}).assign(ties=[2, 2, 2, 1])
    gold = frame["gold"].tolist()
    other = [(g + 1) % 4 for g in gold]
    third = [(g + 2) % 4 for g in gold]
    places = [(gold[0], other[0]), (gold[1], other[1]), (other[2], third[2]), (gold[3],)]
    frame["scores"] = [[-1.0 if i in place else -2.0 for i in range(4)] for place in places]
    # gold tied and chosen, gold tied but not chosen, gold not among the tied, no tie
    assert accuracy.credit(frame).tolist() == [0.5, 0.5, 0, 1]
    assert accuracy.credit(frame, "exact").tolist() == [1, 0, 0, 1]


def test_averaging_over_different_runs_or_questions_raises_an_error():
    frame = answers({"finetune": [[1, 0, 1], [1, 1, 0]]})
    for column in ("study", "split", "arm", "student"):
        both = pd.concat([frame, frame.assign(**{column: "other"})])
        with pytest.raises(ValueError, match=f"column '{column}'.*group by it"):
            paired.mean_interval(both)
    lacking = frame[~((frame["seed"] == 1) & (frame["id"] == "q2"))]
    with pytest.raises(ValueError, match=r"no answer to 'q2'"):
        paired.mean_interval(lacking)
    two = predictions({"finetune": 0.5, "tinyllm": 0.6}, n=5, seeds=[0])
    with pytest.raises(ValueError, match=r"'q4' is scored for only one"):
        paired.paired(two.iloc[:-1], "tinyllm", "finetune")
    with pytest.raises(ValueError, match=r"both arms are needed .*'kd': \[\]"):
        paired.paired(two, "kd", "finetune")


def test_calibration_matches_manually_computed_bins():
    frame = predictions({"finetune": 0.5}, n=4, seeds=[0], options=("yes", "no"))
    frame["scores"] = [[math.log(p), math.log(1 - p)] for p in [0.95, 0.95, 0.65, 0.65]]
    frame = frame.assign(choice=0, gold=[0, 1, 0, 0], correct=[True, False, True, True])
    confidence, ece = notebook("04")["calibration"](frame)
    # bin (0.6, 0.7]: accuracy 1, confidence 0.65; bin (0.9, 1]: accuracy 0.5, confidence 0.95
    assert confidence == pytest.approx(0.8)
    assert ece == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)


def test_holm_correction_matches_a_manual_calculation():
    rows = {"difference": 1, "se": 1, "df": 1, "n": 9, "seeds": 2, "p": [0.01, 0.04, 0.03, 0.005]}
    table = paired.holm(pd.DataFrame(rows))
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then made non-decreasing
    assert table["p_holm"].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert table["verdict"].tolist() == ["better", "inconclusive", "inconclusive", "better"]
    for p in np.random.default_rng(0).random((3, 7)) ** 4:
        ours = paired.holm(pd.DataFrame(rows | {"p": p}))["p_holm"]
        assert ours.tolist() == multipletests(p, method="holm")[1].tolist()


def test_one_seed_gives_the_paired_t_test():
    draw = np.random.default_rng(0)
    ours, theirs = draw.random((2, 80)) < 0.5
    frame = two_arms([ours.astype(int)], [theirs.astype(int)])
    line = paired.paired(frame, "tinyllm", "finetune")
    test = distributions.ttest_rel(ours.astype(float), theirs.astype(float))
    assert line["p"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval()
    assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high))
    assert line["df"] == pytest.approx(79)


def test_the_variance_matches_a_manual_two_way_calculation():
    # In hundredths: question effects 0 and 3 (variance 4.5, of the mean 4.5 / 2), seed effects
    # -2, 0, 2 (variance 4, of the mean 4 / 3), and residuals with a sum of squares of 4.
    scores = np.array([[-2.0, 1], [0, 3], [2, 5]]) / 100
    rest = np.array([[-1.0, 1], [0, 0], [1, -1]]) / 100
    vq, vs, vr = 4.5e-4 / 2, 4e-4 / 3, 4e-4 / 2 / 6
    line = line_of(scores + rest)
    assert line["difference"] == pytest.approx(0.015)
    assert line["se"] == pytest.approx(math.sqrt(vq + vs - vr))
    assert line_of(scores / 10 + rest)["se"] == pytest.approx(math.sqrt(vq / 100))  # no seed part
    line = line_of(scores)
    assert line["se"] == pytest.approx(math.sqrt(vq + vs))
    student = distributions.t((vq + vs) ** 2 / (vq**2 / 1 + vs**2 / 2))
    assert line["df"] == pytest.approx(student.args[0])
    assert line["high"] - 0.015 == pytest.approx(student.ppf(0.975) * line["se"])
    assert line["p"] == pytest.approx(2 * student.sf(0.015 / line["se"]))
    # The smallest true difference that is detected at the 5% level with 80% power.
    assert line["smallest"] == pytest.approx(student.ppf([0.975, 0.8]).sum() * line["se"])


@pytest.mark.parametrize(("seeds", "rest"), [(0.0, 0.0), (1.0, 0.0), (20.0, 0.0), (1.0, 3.0)])
def test_interval_coverage_holds_for_question_seed_and_residual_noise(seeds, rest):
    """seeds, rest: variance of the mean relative to that of questions. Nominal level 95%."""
    draw, inside = np.random.default_rng(1), 0
    size, n, worlds = 3, 100, 600
    for _ in range(worlds):
        scores = draw.normal(size=(size, 1)) * np.sqrt(seeds * size / n)
        scores = scores + draw.normal(size=(1, n))
        line = line_of(scores + draw.normal(size=(size, n)) * np.sqrt(rest * size))
        inside += line["low"] <= 0 <= line["high"]
    assert 0.90 <= inside / worlds <= 0.985


def test_arms_with_different_seeds_add_their_seed_variances():
    draw, n = np.random.default_rng(0), 4000
    ours = pd.DataFrame(draw.normal(size=(3, 1)) + draw.normal(size=(3, n)))
    theirs = pd.DataFrame(draw.normal(size=(4, 1)) + draw.normal(size=(4, n)), index=[5, 6, 7, 8])
    one = paired.estimate(ours, -theirs)
    spread = ours.mean(axis=1).var() / 3 + theirs.mean(axis=1).var() / 4
    assert one.variance == pytest.approx(spread, rel=0.02)
    assert one.value == pytest.approx(ours.to_numpy().mean() - theirs.to_numpy().mean())


def test_several_datasets_are_averaged_with_equal_weight():
    arms = {"tinyllm": 0.7, "finetune": 0.5}
    frames = [predictions(arms, dataset="obqa", n=60, seeds=[0, 1, 2])]
    frames.append(predictions(arms, dataset="arc", n=40, seeds=[0], rng=1))
    line = paired.paired(pd.concat(frames), "tinyllm", "finetune")
    alone = [paired.paired(frame, "tinyllm", "finetune") for frame in frames]
    assert line["difference"] == pytest.approx(np.mean([one["difference"] for one in alone]))
    assert line["se"] == pytest.approx(np.hypot(*(one["se"] for one in alone)) / 2)
    assert (line["n"], line["seeds"], line["by_seed"]) == (100, 1, [])


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_paired_differences_are_antisymmetric_bounded_and_zero_for_equal_arms(pair):
    frame = two_arms(*pair)
    one = paired.paired(frame, "tinyllm", "finetune")
    two = paired.paired(frame, "finetune", "tinyllm")
    assert one["low"] - 1e-6 <= one["difference"] <= one["high"] + 1e-6 and 0 < one["p"] <= 1
    assert one["difference"] == pytest.approx(-two["difference"])
    assert (one["low"], one["high"]) == pytest.approx((-two["high"], -two["low"]), abs=1e-6)
    assert one["p"] == two["p"] and one["low"] >= -1 and one["high"] <= 1
    assert one["difference"] == pytest.approx(np.mean(one["by_seed"]))
    same = paired.paired(frame, "tinyllm", "tinyllm")
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_equivalence_means_the_90_percent_interval_is_within_the_margin():
    draw = np.random.default_rng(4)
    for scale in (0.05, 0.1, 0.13, 0.2, 0.5):
        row = line_of(draw.normal(scale=scale, size=(3, 400)) + draw.normal(0.005, 0.004, (3, 1)))
        half = row["se"] * distributions.t(row["df"]).ppf(0.95)
        within = max(abs(row["difference"] - half), abs(row["difference"] + half)) < paired.MARGIN
        assert (paired.equivalence(row) < 0.05) == within


def test_unanimous_results_on_few_questions_are_weak_evidence():
    for n, verdict in ((50, "inconclusive"), (200, "equivalent")):
        line = paired.paired(two_arms([[1] * n] * 2, [[1] * n] * 2), "tinyllm", "finetune")
        assert paired.verdict(line) == verdict
    six = paired.paired(two_arms([[1] * 6], [[0] * 6]), "tinyllm", "finetune")
    assert (six["difference"], six["p"]) == (1, pytest.approx(2 / 2**6))  # the sign test


def test_the_interval_equals_the_one_computed_by_hand_in_notebook_04():
    draw = np.random.default_rng(3).integers(0, 2, (2, 3, 40))
    frame = two_arms(*draw.tolist())
    arms = (frame[frame["arm"] == arm] for arm in ("tinyllm", "finetune"))
    ours, theirs = map(accuracy.matrix, arms)
    line = paired.paired(frame, "tinyllm", "finetune")
    by_hand = notebook("04")["by_hand"]((ours - theirs).to_numpy())
    assert by_hand == pytest.approx((line["low"], line["high"]))


def test_verdicts_follow_from_difference_error_p_value_and_seeds():
    row = {"difference": 0.1, "se": 0.02, "df": 20.0, "n": 500, "seeds": 3, "p": 0.001}
    near = {"p": 0.5, "difference": 0.001}
    for changes, verdict in (
        ({}, "better"),
        ({"difference": -0.1}, "worse"),
        ({"p_holm": 0.2}, "inconclusive"),
        (near | {"se": 0.005}, "equivalent"),
        (near, "inconclusive"),
        ({"seeds": 1}, "inconclusive"),
        ({"p": math.nan}, "not tested"),
    ):
        assert paired.verdict(row | changes) == verdict


def test_the_holm_family_is_all_comparisons_of_one_dataset_or_the_mean():
    arms = {"finetune": 0.5, "dss:a": 0.55, "tinyllm": 0.65, "tinyllm:shuffled": 0.5}
    names = ["obqa", "arc", "piqa"]
    frame = pd.concat([predictions(arms, name, n=150, rng=i) for i, name in enumerate(names)])
    frame = frame[~(frame["dataset"].eq("piqa") & frame["arm"].eq("finetune"))]  # no baseline
    table = paired.compare(frame)
    counts = table.groupby("dataset").size().to_dict()
    assert counts == {"obqa": 5, "arc": 5, "piqa": 2, "mean": 5}
    for _, part in table.groupby("dataset"):
        holm = multipletests(part["p"], method="holm")[1]
        assert part["p_holm"].tolist() == pytest.approx(holm)
    one = table[(table["arm"] == "tinyllm") & (table["baseline"] == "finetune")]
    assert one.set_index("dataset")["datasets"].to_dict() == {"obqa": 1, "arc": 1, "mean": 2}


def test_without_results_tables_are_empty_with_their_columns():
    none = two_arms([[1, 0]], [[0, 1]])[:0]
    assert paired.compare(none).empty and "study" in paired.compare(none)
    assert paired.accuracies(none).empty and "dataset" in paired.accuracies(none)


def test_a_choice_is_compared_with_the_random_choice_at_equal_epochs():
    names = ["tinyllm:routed-random:x2", "tinyllm:routed-similar", "tinyllm:routed-quality:x2"]
    pairs = paired.comparisons([*names, "dss:a", "dss:a:x2", "tinyllm"])
    assert ("tinyllm:routed-quality:x2", "tinyllm:routed-random:x2") in pairs
    assert ("tinyllm:routed-similar", "tinyllm:routed-random:x2") not in pairs
    assert "dss:a:x2" not in {baseline for _, baseline in pairs}


def test_a_sole_teacher_replaces_tinyllm_in_comparisons():
    pairs = paired.comparisons(["inference", "finetune", "dss:a", "tinyllm:shuffled"])
    assert pairs[-1] == ("dss:a", "tinyllm:shuffled") and len(pairs) == len(set(pairs)) == 4
    two = paired.comparisons(["finetune", "dss:a", "dss:b", "tinyllm:shuffled"])
    assert ("dss:a", "tinyllm:shuffled") not in two


def test_the_best_single_teacher_is_chosen_on_valid(monkeypatch):
    """It is the mean over the datasets with a fine-tuned student and all single-teacher arms."""
    keys = ["dataset", "arm", "valid_accuracy"]
    rows = [("obqa", "dss:a", 0.3), ("obqa", "dss:b", 0.6), ("arc", "dss:a", 0.3)]
    rows += [("arc", "dss:b", 0.6), ("piqa", "dss:a", 9.0)]  # piqa has no dss:b
    rows += [(dataset, "finetune", 0.5) for dataset in ("obqa", "arc", "piqa")]
    ours = pd.DataFrame(rows, columns=keys).assign(student="minilm-ed")
    other = ours.assign(student="other", valid_accuracy=-2 * ours["valid_accuracy"])
    monkeypatch.setattr(results, "facts", lambda study: pd.concat([ours, other]))
    best = [summary.best_single("simulated", name) for name in ("minilm-ed", "other", "none", None)]
    assert best == ["dss:b", "dss:a", None, "dss:a"]


def test_above_floor_requires_fine_tuning_to_beat_chance_and_majority(monkeypatch):
    """The whole interval must lie above; other arms do not matter."""
    arms = {"finetune": 0.6, "tinyllm": 0.9}
    frame = pd.concat([predictions(arms, name) for name in ("obqa", "arc", "pubmedqa")])
    low = paired.mean_interval(predictions({"finetune": 0.6}))["low"]
    known = pd.DataFrame({"dataset": ["obqa", "arc", "pubmedqa"], "split": "test"})
    known = known.assign(chance=[low - 0.01, low + 0.01, 0.25], majority=[0.1, 0.1, low + 0.01])
    monkeypatch.setattr(results, "stored", lambda study: frame)
    monkeypatch.setattr(results, "baselines", lambda study: known)
    assert summary.above_floor("simulated", "minilm-ed") == ["obqa"]
    assert summary.above_floor("simulated", "other") == []
