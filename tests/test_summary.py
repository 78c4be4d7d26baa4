"""The README's block: one table and one verdict a study, also over several datasets."""

import re

import pandas as pd
import pytest
from simulated import predictions

from tinyllm import stats, summary

ARMS = {"inference": 0.25, "finetune": 0.4, "tinyllm": 0.6}


@pytest.fixture(scope="module")
def several() -> pd.DataFrame:
    """Three datasets, of which one has no tinyllm and an arm of its own."""
    return pd.concat(
        [
            predictions({"finetune": 0.4, "finetune:x2": 0.5}, "piqa", n=60, rng=3),
            predictions(ARMS, "arc", n=90, rng=1),
            predictions(ARMS, "obqa", n=150, rng=2),
        ],
        ignore_index=True,
    )


def test_a_difference_over_several_datasets_is_the_mean_of_theirs(several):
    both = several[several["dataset"] != "piqa"]
    row = pd.Series(stats.paired(both, "tinyllm", "finetune"))
    each = [
        stats.paired(both[both["dataset"] == name], "tinyllm", "finetune")["difference"]
        for name in ("obqa", "arc")
    ]
    assert row["difference"] == pytest.approx(sum(each) / 2)
    line = summary.verdict(several).splitlines()[0]
    assert f"**{summary.difference(row)} points**" in line
    assert [100 * x for x in each] == pytest.approx(
        [float(x) for x in re.findall(r"(?:obqa|arc) \*?\*?([+-][\d.]+)", line)], abs=0.05
    )
    assert "piqa" not in line  # it has no tinyllm
    assert f"n = {150 + 90}, 3 seed(s): it is better." in line


def test_a_dataset_is_bold_where_its_own_interval_is_on_one_side_of_zero():
    apart = predictions({"finetune": 0.3, "tinyllm": 0.7}, "obqa", n=300)
    alike = predictions({"finetune": 0.5, "tinyllm": 0.5}, "arc", n=300, rng=5)
    line = summary.verdict(pd.concat([apart, alike])).splitlines()[0]
    assert re.search(r"\(obqa \*\*\+[\d.]+\*\*, arc [+-][\d.]+\)", line)


def test_the_table_over_datasets_has_every_arm_and_a_gap_where_a_dataset_lacks_it(several):
    table = summary.across(several).set_index("arm")
    assert list(table)[:3] == ["obqa (n = 150)", "arc (n = 90)", "piqa (n = 60)"]
    rows = stats.results(several[several["dataset"] == "arc"]).set_index("arm")
    row = rows.loc["tinyllm"]
    wanted = f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert table.loc["`tinyllm`", "arc (n = 90)"] == wanted
    assert table.loc["`tinyllm`", "piqa (n = 60)"] == ""
    assert table.loc["`finetune:x2`", "obqa (n = 150)"] == ""
    assert set(table.index) == {f"`{arm}`" for arm in several["arm"]} | {"*chance; majority*"}
    means = stats.compare_means(several)
    mean = summary.difference(means.loc["tinyllm"])
    assert table.loc["`tinyllm`"].iloc[-1] == f"{mean} (2 of 3)"
    assert table.loc["`finetune`"].iloc[-1] == ""
    only = several[several["dataset"] == "piqa"]
    own = stats.paired(only, "finetune:x2", "finetune")["difference"]
    assert means.loc["finetune:x2", "difference"] == own


def test_one_dataset_is_judged_as_its_own_table_has_it():
    frame = predictions(ARMS, n=80)
    table = stats.compare(frame).set_index("arm")
    ours = stats.compare_means(frame)
    assert ours["p_holm"].to_dict() == pytest.approx(table["p_holm"].to_dict())
    assert "(" not in summary.verdict(frame).partition("points**")[2].partition(", p =")[0]


def test_without_a_dataset_that_has_both_arms_nothing_is_compared():
    apart = pd.concat(
        [predictions({"finetune": 0.4}, "obqa"), predictions({"tinyllm": 0.6}, "arc")]
    )
    assert "does not answer the question" in summary.verdict(apart)
    assert stats.compare_means(apart).empty
    assert "mean minus finetune, points" not in summary.across(apart)


def test_the_report_has_a_block_a_study_and_student(several):
    one = predictions(ARMS, "micro", study="micro", student="micro-t5", n=50)
    block = summary.report(pd.concat([several, one]))
    titles = re.findall(r"^\*\*(.+?)\*\*", block, flags=re.M)
    assert titles == ["micro, micro", "simulated"]
    assert block.count("| arm |") == 2
