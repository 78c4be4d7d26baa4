"""Errors by question: counts add up, and what cannot be compared is refused."""

from __future__ import annotations

import pandas as pd
import pytest
from simulated import answers, facts, predictions, teachers

from tinyllm import errors, stats, summary

RIGHT = {  # three seeds where the majority decides
    "finetune": [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]],
    "tinyllm": [[1, 0, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]],
}


@pytest.fixture
def frame() -> pd.DataFrame:
    return answers(RIGHT)


def test_a_question_is_right_where_the_majority_of_seeds_is(frame):
    table = errors.right(frame)
    assert table["finetune"].tolist() == [True, True, False, False]
    assert table["tinyllm"].tolist() == [True, False, True, False]


def test_every_question_is_counted_once_by_how_many_arms_know_it(frame):
    table = errors.by_question(frame)
    assert table["arms right"].tolist() == ["2 of 2", "1 of 2", "0 of 2"]
    assert table["questions"].tolist() == [1, 2, 1]
    low, high = stats.wilson(2, 4)
    assert table["% of 4"][1] == f"50.0 [{100 * low:.1f}, {100 * high:.1f}]"


def test_arms_that_answered_different_questions_are_refused(frame):
    with pytest.raises(ValueError, match=r"'q3'\) was not scored for every arm"):
        errors.right(frame[~(frame["id"].eq("q3") & frame["arm"].eq("tinyllm"))])


def test_two_arms_are_told_apart_by_the_questions_of_only_one(frame):
    line = errors.pairs(frame).iloc[0]
    assert line[["both", "only one", "only two", "neither"]].tolist() == [1, 1, 1, 1]
    assert (line["one"], line["two"], line["mcnemar_p"]) == ("finetune", "tinyllm", "1")


def test_all_pairs_stand_in_the_order_of_their_disagreement():
    frame = predictions({"finetune": 0.3, "dss:a": 0.6, "tinyllm": 0.9}, n=80)
    table = errors.pairs(frame)
    assert len(table) == 3
    shares = [float(text.split()[0]) for text in table["disagree %"]]
    assert shares == sorted(shares, reverse=True)
    assert (table[["both", "only one", "only two", "neither"]].sum(axis=1) == 80).all()


def test_questions_are_split_by_which_teachers_know_them():
    frame = predictions({"finetune": 0.4, "tinyllm": 0.6}, n=60)
    asked = teachers(frame, {"micro:a": 0.7, "micro:b": 0.5}, ["none", "random:2"])
    table = errors.by_teachers(frame, asked)
    assert table["questions"].sum() == 60
    assert table["right teachers"].tolist() == ["micro:a and micro:b", "micro:a", "micro:b", "none"]
    few = asked[asked["shots"] == "random:2"].pivot(index="id", columns="teacher", values="correct")
    assert table["questions"].iloc[0] == few.all(axis=1).sum()
    both = frame[frame["id"].isin(few.index[few.all(axis=1)])]
    shown = errors.percent(*stats.accuracy(both).set_index("arm").loc["tinyllm", ["k", "n"]])
    assert table["tinyllm"].iloc[0] == shown  # the mean over seeds, as everywhere
    assert errors.by_teachers(frame, asked.iloc[:0]).empty
    with pytest.raises(ValueError, match="'q7' was answered by only one of students and teachers"):
        errors.by_teachers(frame, asked[asked["id"] != "q7"])


def test_examples_are_right_with_every_seed_and_wrong_with_every_seed():
    rows = {"finetune": [[0, 1, 0], [0, 1, 1]], "tinyllm": [[1, 0, 1], [1, 0, 1]]}
    table = errors.examples(answers(rows))
    assert table["id"].tolist() == ["q0", "q1"]
    assert table["right"].tolist() == ["tinyllm", "finetune"]
    assert (table["gold"] != table["chosen instead"]).all()
    assert errors.examples(answers({"finetune": [[1]]})).empty


def test_every_metric_has_its_interval_and_the_named_option_needs_its_column(frame):
    table = summary.metrics(frame)
    assert list(table) == ["likeliest option", "option named", "exact match", "macro-F1"]
    row = stats.accuracy(frame).set_index("arm").loc["tinyllm"]
    wanted = f"{100 * row.estimate:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
    assert table.loc["tinyllm", "likeliest option"] == wanted
    assert "option named" not in summary.metrics(frame.drop(columns=["named", "extracted"]))


def test_the_table_of_differences_says_what_the_comparison_holds():
    comparison = stats.compare(predictions({"finetune": 0.4, "tinyllm": 0.7}, n=80))
    row, shown = comparison.iloc[0], summary.paired(comparison).loc["tinyllm"]
    low, high = 100 * row["low"], 100 * row["high"]
    assert shown["difference, points"] == f"{100 * row['difference']:+.1f} [{low:.1f}, {high:.1f}]"
    assert (shown["only arm"], shown["only baseline"]) == (row["won"], row["lost"])
    assert float(shown["p (Holm)"]) == pytest.approx(row["p_holm"], rel=0.05)
    assert float(shown["smallest, points"]) == pytest.approx(100 * row["smallest"], abs=0.05)


def test_accuracy_without_overlap_leaves_those_questions_out_and_says_n(frame):
    marked = frame.assign(in_train=frame["id"].eq("q0"))
    table = summary.by_overlap(marked)
    assert table.loc["n"].tolist() == ["4", "3"]
    row = stats.accuracy(frame[frame["id"] != "q0"]).set_index("arm").loc["finetune"]
    assert table.loc["finetune", "not in train"].startswith(f"{100 * row.estimate:.1f} [")


def test_only_studies_with_overlap_are_scored_without_it(frame):
    marked = frame.assign(in_train=frame["id"].eq("q0"))
    table = summary.overlaps(pd.concat([frame.assign(study="clean"), marked]))
    assert table.index.get_level_values("study").unique().tolist() == [frame["study"].iloc[0]]
    assert summary.overlaps(frame).empty


def test_the_budget_says_what_an_arm_trained_for_and_how_much_was_cut():
    known = facts(predictions({"inference": 0.3, "tinyllm": 0.5}, n=5))
    known = known.assign(steps=known["arm"].map({"inference": 0, "tinyllm": 465}))
    known = known.assign(train_tokens=2.5e6, train_seconds=90.0, cut_targets=[0, 0, 0, 20, 25, 30])
    table = summary.budget(known.assign(train_questions=100))
    assert table.index.get_level_values("arm").tolist() == ["tinyllm"]
    line = table.iloc[0]
    assert (line["steps"], line["million tokens"], line["minutes"]) == (465, 2.5, 1.5)
    assert (line["targets cut, %"], line["at tokens"]) == (25.0, 40)
