"""The plan: token counts checked by hand, model sizes, and resource requests."""

import pandas as pd
import pytest
from gguf import GGUFReader
from tiny import write_yaml
from transformers import GPT2Config

from tinyllm import paths
from tinyllm.batch import grid, plan
from tinyllm.data import release
from tinyllm.models import load
from tinyllm.models import micro as models
from tinyllm.models.encode import longest_input
from tinyllm.params import DATASETS, SPLITS, ParameterError, Params

HF = "hf:google/flan-t5-xl"
SERVER = "openai:http://localhost:1/v1#some/model"
T5 = "google/flan-t5-small"


pytestmark = pytest.mark.usefixtures("own_folders")


def released(**changes):
    values = {"study": "s", "dataset": "obqa", "source": "release", "student": "smollm2"}
    values |= {"teachers": [HF], "arms": ["tinyllm"], "max_input": 512, "epochs": 1.0}
    return Params.checked(**values | changes)


def make(tmp_path, *points):
    values = released(student=T5, arms=["finetune", "tinyllm"], seeds=[0])
    write_yaml(tmp_path / "one.yaml", **values.model_dump())
    recipe = {"params": ["one.yaml"], "points": list(points)}
    return grid.load(write_yaml(tmp_path / "grid.yaml", **recipe))


def test_committed_question_counts_match_the_release(release_mirror):
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


def test_training_flops_are_6nd_or_4nd_with_adapters(tmp_path):
    train = plan.splits(released())["train"]
    text, answer = train["text"] / 4 + 3, train["answer"] / 4 + 1
    t5 = released(student=T5, teachers=[], arms=["finetune", "lora"], epochs=2.0)
    full, adapters = plan.student(t5, "finetune"), plan.student(t5, "lora")
    assert full["tokens"] == pytest.approx(2 * 4957 * (text + answer))
    assert full["flops"] == pytest.approx(6 * 77e6 * full["tokens"])
    assert adapters["flops"] == pytest.approx(4 * 77e6 * full["tokens"])
    assert plan.student(t5, "inference")["flops"] == 0
    one = released(student=T5)  # random words are one more rationale
    arms = ("finetune", "tinyllm", "tinyllm:gibberish")
    none, real, random = (plan.student(one, arm)["tokens"] for arm in arms)
    assert random - real == pytest.approx(real - none)

    def reads(**changes):  # tokens per question for one teacher task with targets of 20 tokens
        params = released(max_new_tokens=20, **changes)
        two, one = (plan.student(params, arm)["tokens"] for arm in ("tinyllm", "finetune"))
        return (two - one) / 4957

    # An encoder reads a question once per prefix or once in all, a decoder once per target.
    assert reads(student=T5) == pytest.approx(text + 20)
    assert reads(student=T5, task_prefix="decoder") == pytest.approx(20)
    models.save(models.untrained("llama", 0), "llama", tmp_path / "mine")
    for student in ("smollm2", str(tmp_path / "mine")):
        assert reads(student=student, task_prefix="decoder") == pytest.approx(text + 20)


def test_student_tokens_follow_limits_missing_rationales_and_routing(tmp_path):
    """Covers limits, missing recorded rationales, a routed arm and a user's questions."""
    part = plan.student(released(limit={"train": 100}), "tinyllm")["tokens"]
    assert part == pytest.approx(plan.student(released(), "tinyllm")["tokens"] * 100 / 4957)
    share, tokens = plan.rationales(released(limit={"train": 10}), "release:llama2")
    assert share == pytest.approx(4928 / 4957) and tokens == pytest.approx(297.8 / 4 + 1)
    two = released(teachers=["release:flan-t5", "release:llama2"])
    chosen, *single, every = (
        plan.student(two, arm)["tokens"]
        for arm in ("tinyllm:routed-random", "dss:flan-t5", "dss:llama2", "tinyllm")
    )
    assert min(single) < chosen < every  # one rationale per question
    row = '{{"id": "{0}", "question": "What is {0}?", "options": ["a", "bcd"], "answer": "bcd"}}'
    (tmp_path / "own.jsonl").write_text("\n".join(row.format(i) for i in range(40)))
    splits = plan.splits(released(dataset="own", source=f"file:{tmp_path}/own.jsonl"))
    assert sum(split["questions"] for split in splits.values()) == 40
    assert (splits["train"]["answer"], splits["train"]["options"]) == (3, 2)


def test_recorded_teachers_are_free_and_shared_rationales_are_counted_once(tmp_path):
    assert not plan.teacher(released(), "release:llama2")
    asked = plan.teacher(released(), SERVER)
    assert asked["tokens"] > 0 and asked["seconds"] > 0 and asked["flops"] == 0
    twice, thrice = (
        plan.teacher(released(samples=n, temperature=1.0), SERVER)["tokens"] for n in (2, 3)
    )
    assert thrice - twice == pytest.approx(twice - asked["tokens"])
    other = {"study": "other", "alpha": [0.1]}
    one, two = (plan.table(make(tmp_path, *p), "a100") for p in ([{}], [{}, other]))
    assert two.jobs["prompt"] == 2 and two.tokens["prompt"] == one.tokens["prompt"]
    apart = plan.table(make(tmp_path, {}, other | {"examples": "none"}), "a100")
    assert one.tokens["prompt"] < apart.tokens["prompt"] < 2 * one.tokens["prompt"]


def test_model_size_comes_from_the_user_the_list_or_the_config(tmp_path, monkeypatch):
    for kind in ("t5", "llama"):  # including their untied output layers
        model, folder = models.untrained(kind, 0), str(tmp_path / f"my {kind}")
        models.save(model, kind, folder)
        assert plan.parameters(folder) == model.num_parameters()
    assert plan.parameters("hf:smollm2") == 135e6
    models.save(models.untrained("t5", 0), "t5", tmp_path / "here")
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # models may lie in the repository, too
    assert plan.parameters("here") == plan.parameters(str(tmp_path / "my t5"))
    large = "hf:meta-llama/Llama-2-70b-hf"
    with pytest.raises(ParameterError, match=r"'meta-llama/Llama-2-70b-hf'.* --parameters"):
        plan.parameters(large)
    monkeypatch.setenv("TINYLLM_PARAMETERS", "some/other=7e9 meta-llama/Llama-2-70b-hf=7e10")
    assert plan.parameters(large) == 7e10


def check(params):
    plan.check(grid.Grid((params,), "all", "all"))


def test_known_positions_of_smollm2_are_those_of_its_file(smollm2_file):
    length = GGUFReader(smollm2_file).fields["llama.context_length"].contents()
    assert plan.POSITIONS["smollm2"] == (length, False)


def test_a_student_with_too_few_positions_is_refused_before_any_job(tmp_path, minilm_file):
    saved = {}
    for name in ("minilm-ed", "micro-t5", "micro-llama"):
        model, tokenizer = load.load(name)
        load.save(model, tokenizer, saved.setdefault(name, tmp_path / name))
        limit, together = longest_input(model.config), not model.config.is_encoder_decoder
        for student in (name, str(saved[name])):  # an alias; a folder
            fits = released(student=student, max_input=300, max_target=200)
            check(fits)
            for parameter in ("max_input", "max_target"):
                over = fits.model_copy(update={parameter: 513})
                if limit is None:  # T5's positions are relative
                    check(over)
                    continue
                what = r"max_input \+ max_target: [78]13" if together else f"{parameter}: 513"
                with pytest.raises(ParameterError, match=f"{what}: .* positions for {limit} "):
                    check(over)
    config = tmp_path / "micro-llama" / "config.json"
    config.write_text("{")  # not readable: loading the model gives the reason
    check(released(student=str(config.parent), max_input=513))
    GPT2Config().save_pretrained(tmp_path / "gpt2")  # its name for positions is another
    with pytest.raises(ParameterError, match="positions for 1024 tokens"):
        check(released(student=str(tmp_path / "gpt2"), max_input=1000))


def test_resources_request_gpus_according_to_model_size(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_PARAMETERS", "meta-llama/Llama-2-70b-hf=70e9")
    teachers = [HF, "hf:meta-llama/Llama-2-70b-hf", SERVER]
    wide = make(tmp_path, {"student": "google/flan-t5-large", "nproc": 4, "teachers": teachers})
    needs = {job.name: plan.resources(job) for job in wide.jobs}
    gpus = [(name[:2], asked["gpu"]) for name, asked in needs.items()]
    assert [number for stage, number in gpus if stage == "02"] == [1, 3, 0]
    assert {number for stage, number in gpus if stage == "03"} == {4}
    memory = {asked["mem_mb"] for name, asked in needs.items() if name[:2] == "03"}
    assert min(memory) > wide.studies[0].workers * 20 * 783  # bytes per parameter, in millions
    for asked in needs.values():
        assert all(isinstance(value, int) for value in asked.values())
        gpu = asked["gpu"] > 0
        assert asked["mem_mb"] >= 2000 + 4000 * gpu and asked["runtime"] >= 10 + 20 * gpu
