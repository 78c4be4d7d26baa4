"""The published numbers: as printed, as counts on the release's test sets, and their claims."""

import math

import nbformat
import pandas as pd
import pytest
from simulated import notebook, predictions

from tinyllm import arms, paths
from tinyllm.evaluation import paired
from tinyllm.params import DATASETS, ParameterError

NOTEBOOK = notebook("05")
read, table_1, row = map(NOTEBOOK.get, ("read_published", "published_cells", "published_row"))
OURS, BASELINE = "TinyLLM", "Full fine-tuning"
SIZES = ("80M", "250M", "780M")


def gains(size: str, method=OURS, baseline_size=None, baseline=BASELINE) -> pd.DataFrame:
    rows = row(size, method), row(baseline_size or size, baseline)
    return NOTEBOOK["gain"](*rows).eval("z = gain / se")


def mean_gain(*rows: str):
    return NOTEBOOK["mean_gain"](gains(*rows))


def test_table_1_cells_match_release_counts_and_means_match_the_cells():
    table = table_1()
    assert len(table) == 14 * 6 and set(table["dataset"]) == set(DATASETS)
    assert not table.duplicated(["size", "method", "dataset"]).any()
    sizes = read("datasets").set_index("dataset")["test"].astype(int)
    for line in table.itertuples():
        near = [k for k in range(line.n + 1) if round(100 * k / line.n, 2) == line.printed]
        if line.size in SIZES:
            assert (line.n, near) == (sizes[line.dataset], [line.k]), line  # unique count
    odd = table[table["k"].isna()]
    assert set(odd["size"]) == {"7B"} and odd["dataset"].tolist() == ["arc", "piqa", "bioasq"]
    printed = read("table1").set_index(["size", "method"])
    means = printed.loc[printed["dataset"] == "mean", "accuracy"].astype(float)
    cells = table.groupby(["size", "method"])["printed"].mean()
    assert len(means) == 14 and (means - cells).abs().max() <= 0.0051  # rounded to 0.01


def test_an_unknown_size_of_the_paper_is_rejected():
    file = paths.ROOT / "notebooks" / "05_paper_figures.ipynb"
    cells = [cell.source for cell in nbformat.read(file, as_version=4).cells]
    (check,) = (cell for cell in cells if "paper_size not in" in cell)
    with pytest.raises(ParameterError, match=r"'90M': allowed are 80M, 250M, 780M"):
        exec(check, {"paper_size": "90M", "ParameterError": ParameterError})


def test_z_scores_of_the_780m_gains_match_a_manual_calculation():
    table = gains("780M")
    z = {"obqa": 1.14, "arc": 0.69, "piqa": 4.23, "riddle": 0.75, "pubmedqa": 0.86, "bioasq": 0.69}
    assert table["z"].round(2).to_dict() == z
    p, q = 624 / 919, 537 / 919  # 87 more correct answers
    by_hand = (p - q) / math.sqrt((p * (1 - p) + q * (1 - q)) / 919)
    assert table.loc["piqa", "z"] == pytest.approx(by_hand)
    mean = mean_gain("780M")  # mean of six independent gains
    by_hand = table["gain"].mean(), (table["se"] ** 2).sum() / 36
    assert (mean.value, mean.variance) == pytest.approx(by_hand)


def outcome(claim: dict) -> str:
    """The verdict on a claim, recomputed from Table 1."""
    stated = float(claim["stated"] or "nan")
    if claim["kind"] in ("not_known", "worse"):
        return "not tested"
    if claim["kind"] == "size_ratio":
        small, large = (
            float(claim[name].replace("B", "000").rstrip("M")) for name in ("size", "baseline_size")
        )
        return "holds" if abs(100 * small / large - stated) <= 0.0501 else "contradicted"
    rows = claim["size"], claim["method"], claim["baseline_size"], claim["baseline"]
    if claim["kind"] == "every_dataset":
        return "holds" if (gains(*rows)["z"] > 1.96).all() else "inconclusive"
    line, base = mean_gain(*rows), row(*rows[2:])["accuracy"].mean()
    if abs(100 * line.value / base - stated) > 0.011:  # means are printed with two decimals
        return "contradicted"
    return "holds" if line.value > 1.96 * line.variance**0.5 else "inconclusive"


def test_published_claim_verdicts_follow_from_table_1():
    table = read("claims")
    for claim in table.to_dict("records"):
        assert claim["published"] == outcome(claim), claim["claim"]
        for name in filter(None, [claim["arm"], claim["baseline_arm"].replace("*", "micro:a")]):
            arms.resolve(name, ["micro:a", "micro:b"])  # raises if there is no such arm
    assert table.set_index("claim")["published"]["teacher-7B-250M"] == "contradicted"  # an error


def judged(chances: dict, datasets=DATASETS, student="google/flan-t5-small") -> dict:
    """The verdict of notebook 05 on each claim, for simulated runs."""
    frames = [
        predictions(chances, dataset=name, n=100, student=student, rng=i)
        for i, name in enumerate(datasets)
    ]
    compared, judge = paired.compare(pd.concat(frames)), NOTEBOOK["judge"]
    return {c["claim"]: judge(c, compared) for c in read("claims").to_dict("records")}


@pytest.mark.parametrize(
    ("ours", "others", "expected", "worse"),
    [(0.85, 0.4, "holds", "contradicted"), (0.4, 0.85, "contradicted", "holds")],
)
def test_claims_are_judged_by_the_paired_verdicts_of_the_runs(ours, others, expected, worse):
    outcomes = judged({"tinyllm": ours, "finetune": others})
    assert {outcomes[name] for name in ("gain-80M", "every-80M", "gain-any")} == {expected}
    assert outcomes["gain-780M"] == "not tested"  # there is no such student
    outcomes = judged({"tinyllm": ours, "dss:a": 0.62, "tinyllm:routed-similar": 0.62})
    assert outcomes["more-teachers"] == outcomes["choosing"] == worse  # the claim says it is worse
    assert outcomes["choice-itself"] == "not tested"  # there is no such arm
    assert outcomes["both-teachers"] == "not tested"  # it needs an arm for each teacher


@pytest.mark.parametrize(
    ("flan", "llama", "expected"),
    [(0.4, 0.3, "holds"), (0.3, 0.6, "inconclusive"), (0.4, 0.85, "contradicted")],
)
def test_the_multi_teacher_claim_requires_beating_every_single_teacher(flan, llama, expected):
    chances = {"tinyllm": 0.6, "dss:flan-t5": flan, "dss:llama2": llama, "dss:llama2+lora": 0.9}
    outcomes = judged(chances, DATASETS[:2], "minilm-ed")
    assert outcomes["gain-over-one-teacher"] == expected


def test_a_claim_about_six_datasets_is_inconclusive_until_all_are_measured():
    two = ("obqa", "arc")
    assert judged({"tinyllm": 0.8, "finetune": 0.5}, two)["gain-80M"] == "inconclusive"
    worse = judged({"tinyllm": 0.4, "finetune": 0.8}, two)
    assert worse["gain-80M"] == "inconclusive"  # the claim is about the mean of six
    assert worse["every-80M"] == "contradicted"  # one dataset is enough
