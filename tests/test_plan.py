"""The plan: token counts by hand, sizes of models, what a cluster is asked for."""

import subprocess
import sys

import pandas as pd
import pytest
import yaml

from tinyllm import paths
from tinyllm.batch import grid, plan
from tinyllm.data import release
from tinyllm.params import DATASETS, SPLITS, ParameterError, Params

HF = "hf:google/flan-t5-xl"
SERVER = "openai:http://localhost:1/v1#some/model"


@pytest.fixture(autouse=True)
def _empty_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("TINYLLM_DEVICE", raising=False)
    monkeypatch.delenv("TINYLLM_PARAMETERS", raising=False)


def released(**changes):
    values = {"study": "s", "dataset": "obqa", "source": "release", "student": "smollm2"}
    return Params.checked(**values | {"teachers": [HF], "arms": ["tinyllm"]} | changes)


def make(tmp_path, *points):
    values = released(student="google/flan-t5-small", arms=["finetune", "tinyllm"], seeds=[0])
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(values.model_dump()), encoding="utf-8")
    recipe = {"params": ["one.yaml"], "points": list(points)}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return grid.load(tmp_path / "grid.yaml")


def test_the_committed_questions_are_those_of_the_release(release_mirror):
    rows = []
    for dataset in DATASETS:
        for split in SPLITS:
            counted = plan.lengths(release.questions(dataset, split))
            texts = zip(*release.rationales(dataset, split), strict=True)
            for name, written in zip(release.TEACHERS, texts, strict=True):
                sizes = [len(text) for text in written if text]
                counted[f"{name} rationales"] = len(sizes)
                counted[f"{name} letters"] = sum(sizes) / max(1, len(sizes))
            rows.append({"dataset": dataset, "split": split, **counted})
    committed = pd.read_csv(paths.ROOT / "tinyllm" / "batch" / "questions.csv")
    counted = pd.DataFrame(rows)[committed.columns].round(1)
    pd.testing.assert_frame_equal(counted, committed, check_dtype=False, atol=0.11)


def test_a_plan_needs_neither_torch_nor_runs():
    code = (
        "import sys; from tinyllm.batch import grid, plan; paper = grid.load('paper'); "
        "print(plan.report(paper)); plan.resources(paper.jobs[8]); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(rule in done.stdout for rule in (*grid.RULES, "total", "a100"))


@pytest.mark.parametrize("name", sorted(f.stem for f in (grid.FOLDER / "grid").glob("*.yaml")))
def test_every_shipped_grid_can_be_planned(name):
    table = plan.table(grid.load(name), "a100")
    assert table.flops["distill"] > 0 and table.left["total"] == pytest.approx(table.hours["total"])


def test_flops_are_six_per_parameter_and_token_and_four_with_adapters():
    rows = plan.splits(released())
    text, answer = rows["train"]["text"] / 4 + 3, rows["train"]["answer"] / 4 + 1
    room = {"max_input": 512, "max_target": 64, "epochs": 2.0}
    t5 = released(student="google/flan-t5-small", teachers=[], arms=["finetune", "lora"], **room)
    full, adapters = plan.student(t5, "finetune"), plan.student(t5, "lora")
    assert full["trained"] == pytest.approx(2 * 4957 * (text + answer))
    assert full["flops"] == pytest.approx(6 * 77e6 * full["trained"])
    assert adapters["flops"] == pytest.approx(4 * 77e6 * full["trained"])
    assert plan.student(t5, "inference")["flops"] == 0


def test_who_reads_the_question_once_and_who_for_every_target():
    room = {"max_input": 512, "max_target": 64, "max_new_tokens": 20, "epochs": 1.0}

    def reads(**changes):
        params = released(**room, **changes)
        two, one = (plan.student(params, arm)["trained"] for arm in ("tinyllm", "finetune"))
        return (two - one) / 4957  # of a teacher's task of 20 tokens

    text = plan.splits(released())["train"]["text"] / 4 + 3
    t5 = "google/flan-t5-small"
    assert reads(student=t5) == pytest.approx(text + 20)
    assert reads(student=t5, task_prefix="decoder") == pytest.approx(20)
    assert reads(student="smollm2", task_prefix="decoder") == pytest.approx(text + 20)


def test_limits_bound_what_is_trained_on_and_recorded_rationales_what_is_read():
    whole, part = (
        plan.student(released(limit=limit), "tinyllm")["trained"] for limit in ({}, {"train": 100})
    )
    assert part == pytest.approx(whole * 100 / 4957)
    share, tokens = plan.rationales(released(limit={"train": 10}), "release:llama2")
    assert share == pytest.approx(4928 / 4957) and tokens == pytest.approx(297.8 / 4 + 1)


def test_weights_cost_disk_only_where_they_are_kept():
    kept, gone = (
        plan.student(released(keep_weights=keep), "tinyllm")["disk"] for keep in (True, False)
    )
    assert kept - gone == pytest.approx(4 * 135e6)
    assert plan.table(grid.load("paper"), "a100").disk["total"] < 1e9


def test_recorded_teachers_cost_no_tokens_and_servers_no_hours():
    recorded, asked = plan.teacher(released(), "release:llama2"), plan.teacher(released(), SERVER)
    assert (recorded["read"], recorded["flops"]) == (0, 0) and recorded["disk"] > 0
    assert asked["read"] > 0 and asked["generated"] > 0 and asked["flops"] == 0


def test_rationales_are_asked_for_once_by_all_studies_that_ask_the_same(tmp_path):
    other = {"study": "other", "alpha": [0.1]}
    one, two = (plan.table(make(tmp_path, *p), "a100") for p in ([{}], [{}, other]))
    assert two.jobs["prompt"] == 2 and two.generated["prompt"] == one.generated["prompt"]
    apart = plan.table(make(tmp_path, {}, other | {"examples": "none"}), "a100")
    assert apart.generated["prompt"] == 2 * one.generated["prompt"]


def test_own_questions_are_counted(tmp_path):
    file = tmp_path / "own.jsonl"
    row = '{{"id": "{0}", "question": "What is {0}?", "options": ["a", "bcd"], "answer": "bcd"}}'
    file.write_text("\n".join(row.format(i) for i in range(40)), encoding="utf-8")
    own = released(dataset="own", source=f"file:{file}", teachers=[], arms=["finetune"])
    rows = plan.splits(own)
    assert sum(row["questions"] for row in rows.values()) == 40
    assert (rows["train"]["answer"], rows["train"]["options"]) == (3, 2)


def test_the_size_of_a_model_is_given_listed_or_counted_from_its_config(tmp_path, monkeypatch):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, vocab_size=1000,
                num_attention_heads=4).save_pretrained(tmp_path / "my model")  # fmt: skip
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert plan.parameters(str(tmp_path / "my model")) == 1000 * 64 + 2 * layer + 64
    assert plan.parameters("hf:smollm2") == 135e6
    with pytest.raises(ParameterError, match=r"'meta-llama/Llama-2-70b-hf'.* --parameters meta-ll"):
        plan.parameters("hf:meta-llama/Llama-2-70b-hf")
    monkeypatch.setenv("TINYLLM_PARAMETERS", "some/other=7e9 meta-llama/Llama-2-70b-hf=7e10")
    assert plan.parameters("hf:meta-llama/Llama-2-70b-hf") == 7e10
    monkeypatch.setenv("TINYLLM_PARAMETERS", "m=many")
    with pytest.raises(ParameterError, match="'m=many': expected MODEL=NUMBER"):
        plan.parameters("m")


@pytest.mark.parametrize("name", ["micro-t5", "micro-llama"])
def test_listed_sizes_of_micro_models_are_about_right(name):
    from tinyllm.models import micro

    counted = micro.untrained(name.removeprefix("micro-"), 0).num_parameters()
    assert 0.5 < plan.MODELS[name] / counted < 2


def test_devices_are_matched_by_their_whole_name():
    assert plan.device("l40s").memory == 48 and plan.device("l4").memory == 24
    with pytest.raises(ParameterError, match="device: 'tpu': allowed are a100,"):
        plan.device("tpu")


def test_resources_ask_for_gpus_where_models_need_them(tmp_path, monkeypatch):
    large, huge = "google/flan-t5-large", "hf:meta-llama/Llama-2-70b-hf"
    wide = make(tmp_path, {"student": large, "nproc": 4, "teachers": [HF, huge, SERVER]})
    with pytest.raises(ParameterError, match="--parameters"):
        [plan.resources(job) for job in wide.jobs]
    monkeypatch.setenv("TINYLLM_PARAMETERS", "meta-llama/Llama-2-70b-hf=70e9")
    gpus = {job.name: plan.resources(job)["gpu"] for job in wide.jobs}
    assert [number for name, number in gpus.items() if name.startswith("02")] == [1, 3, 0]
    assert {number for name, number in gpus.items() if name.startswith("03")} == {4}
    for job in wide.jobs:
        asked = plan.resources(job)
        assert all(isinstance(value, int) for value in asked.values())
        assert asked["mem_mb"] >= 2000 and asked["runtime"] >= 10
    assert all(plan.resources(job)["gpu"] == 0 for job in grid.load("params/micro.yaml").jobs)
    monkeypatch.setenv("TINYLLM_DEVICE", "cpu")
    assert all(plan.resources(job)["gpu"] == 0 for job in wide.jobs)


def test_resources_are_there_for_questions_that_are_not(tmp_path):
    own = {"dataset": "own", "source": f"file:{tmp_path}/none.jsonl", "teachers": [HF]}
    for job in make(tmp_path, own).jobs:
        assert plan.resources(job)["runtime"] >= 10
