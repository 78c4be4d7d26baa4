"""Gains by what the rationales argue for: of the right questions, teachers and arms."""

from __future__ import annotations

import pandas as pd
import pytest
from simulated import answers, predictions

from tinyllm import worth

FACTS = pd.DataFrame(
    {
        "study": "simulated",
        "dataset": "obqa",
        "student": "minilm-ed",
        "arm": ["finetune", "dss:llama2", "tinyllm", "tinyllm:shuffled"],
        "sources": [
            "",
            "release:llama2",
            "release:flan-t5 release:llama2",
            "release:flan-t5 release:llama2",
        ],
    }
)


def verdicts(**written: list[str]) -> pd.DataFrame:
    """A verdict a question (q0, q1, ...) for each teacher."""
    return pd.DataFrame(
        [
            {"dataset": "obqa", "id": f"q{i}", "teacher": teacher.replace("_", "-"), "verdict": v}
            for teacher, all_of in written.items()
            for i, v in enumerate(all_of)
        ]
    )


def rows() -> pd.DataFrame:
    frame = answers(
        {
            "finetune": [[0, 1, 0, 0]],
            "dss:llama2": [[1, 0, 0, 0]],
            "tinyllm": [[1, 1, 1, 0]],
            "tinyllm:shuffled": [[0, 0, 0, 0]],
        }
    )
    return frame.assign(study="simulated", student="minilm-ed")


def test_questions_are_sorted_by_how_many_of_the_arms_own_teachers_argue_for_gold():
    said = verdicts(flan_t5=["gold", "gold", "other", "none"], llama2=["gold", "untold"] * 2)
    table = worth.gains(rows(), said, FACTS)
    assert set(table["arm"]) == {"dss:llama2", "tinyllm"}  # whose rationales are their questions'
    both = table[table["arm"] == "tinyllm"].set_index("group")
    assert both["n"].tolist()[:3] == [1, 2, 1]  # q3; q1 and q2; q0
    assert both["difference"].tolist() == pytest.approx([0, 0.5, 1, 1])
    one = table[table["arm"] == "dss:llama2"].set_index("group")
    assert one["n"].tolist()[:2] == [2, 2]  # q1 and q3; q0 and q2
    assert one["difference"].tolist() == pytest.approx([-0.5, 0.5, 1])


def test_datasets_are_taken_together_too_and_corrected_apart():
    names, n = ("obqa", "arc"), 80
    draws = {"finetune": 0.4, "dss:llama2": 0.5, "tinyllm": 0.6}
    frame = pd.concat(predictions(draws, name, n=n, rng=i) for i, name in enumerate(names))
    said = verdicts(
        flan_t5=["gold", "other"] * (n // 2), llama2=["gold", "gold", "untold", "none"] * (n // 4)
    )
    said = pd.concat(said.assign(dataset=name) for name in names)
    known = pd.concat(FACTS.assign(dataset=name) for name in names)
    table = worth.gains(frame, said, known)
    assert set(table["dataset"]) == {*names, worth.TOGETHER}
    wide = table.pivot(index=["arm", "group"], columns="dataset", values="difference")
    assert wide[worth.TOGETHER].tolist() == pytest.approx(wide[list(names)].mean(axis=1).tolist())
    contrasts = table[table["n"].isna()]
    together = contrasts["dataset"].eq(worth.TOGETHER)
    for part, arms_ in ((contrasts[together], 2), (contrasts[~together], 4)):
        assert len(part) == arms_
        smallest = part.loc[part["p"].idxmin()]
        assert smallest["p_holm"] == pytest.approx(min(1, arms_ * smallest["p"]))
    one = worth.gains(frame[frame["dataset"] == "obqa"], said, known)
    assert set(one["dataset"]) == {"obqa"}  # nothing to take together


def test_students_of_other_teachers_than_the_recorded_ones_are_left_out():
    said = verdicts(flan_t5=["gold"] * 4, llama2=["gold"] * 4)
    other = FACTS.assign(sources=["", "release:llama2", "hf:a hf:b", ""])
    assert set(worth.gains(rows(), said, other)["arm"]) == {"dss:llama2"}
    assert worth.gains(rows().assign(dataset="own"), said, FACTS).empty
    assert worth.gains(rows(), said.iloc[:0], FACTS).empty


def test_stored_verdicts_cover_the_stored_test_questions_of_the_release(committed_results):
    from tinyllm import results

    said, stored = results.stored_verdicts(), results.stored("laptop")
    assert len(stored) and len(said)
    for dataset, part in stored.groupby("dataset"):
        assert set(part["id"]) <= set(said.loc[said["dataset"] == dataset, "id"])
    assert set(said["verdict"]) == {"gold", "other", "untold", "none"}
