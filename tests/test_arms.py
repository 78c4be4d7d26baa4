"""Arms: every name means what the module's table says, and what cannot be is refused by name."""

import pytest

from tinyllm import arms
from tinyllm.arms import Arm
from tinyllm.params import ParameterError, Params

A, B = "micro:a", "micro:b"
BOTH = {"teachers": (A, B)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inference", {"trained": False}),
        ("finetune", {}),
        ("finetune:x4", {"passes": 4}),
        ("lora", {"lora": 8}),
        ("lora:16", {"lora": 16}),
        ("finetune+lora:4", {"lora": 4}),
        ("kd", {"scorers": (A, B)}),
        ("kd:2.5", {"scorers": (A, B), "temperature": 2.5}),
        ("kd:2+lora", {"scorers": (A, B), "temperature": 2.0, "lora": 8}),
        ("dss:a", {"teachers": (A,)}),
        ("dss:micro:b", {"teachers": (B,)}),
        ("tinyllm", BOTH),
        ("tinyllm-a", {"teachers": (B,)}),
        ("tinyllm-micro:b", {"teachers": (A,)}),
        ("tinyllm:no-examples", BOTH | {"asked": {"examples": "none"}}),
        ("tinyllm:no-forcing", BOTH | {"asked": {"teacher_forcing": False}}),
        ("tinyllm:repaired", BOTH | {"cleaning": ("repair",)}),
        ("tinyllm:shuffled", BOTH | {"moved": "rationales"}),
        ("tinyllm:scrambled", BOTH | {"moved": "words"}),
        ("tinyllm:gibberish", BOTH | {"gibberish": True}),
        ("tinyllm+lora:2", BOTH | {"lora": 2}),
        ("tinyllm-a+lora", {"teachers": (B,), "lora": 8}),
    ],
)
def test_a_name_is_a_few_fields_of_data(name, expected):
    arm = arms.resolve(name, [A, B])
    assert arm == Arm(name, **expected)
    assert arm.settings() == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fintune", ["'fintune'", "tinyllm-TEACHER", "tinyllm:", "gibberish"]),
        ("finetune:2", ["'finetune:2'", "finetune:xN"]),
        ("finetune:x0", ["unknown"]),
        ("tinyllm:random", ["'tinyllm:random'", "shuffled"]),
        ("tinyllm:", ["unknown"]),
        ("kd-a", ["unknown"]),
        ("kd:", ["unknown"]),
        ("kd:hot", ["'kd:hot'", "temperature"]),
        ("kd:0", ["'kd:0'", "above 0"]),
        ("lora:0", ["'lora:0'", "from 1"]),
        ("tinyllm+lora:x", ["'tinyllm+lora:x'", "+lora:RANK"]),
        ("inference+lora", ["'inference+lora'", "trains nothing"]),
        ("dss:gpt", ["'dss:gpt'", "'gpt' names 0 of", "micro:a, micro:b"]),
        ("tinyllm-gpt", ["'tinyllm-gpt'", "names 0 of"]),
    ],
)
def test_what_is_no_arm_is_named_with_what_is_allowed(name, words):
    with pytest.raises(ParameterError) as caught:
        Params.checked(arms=[name])
    assert str(caught.value).startswith("arms: ")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("name", ["tinyllm:no-examples", "tinyllm:no-forcing", "kd", "kd:2+lora"])
def test_recorded_teachers_can_be_neither_asked_anew_nor_scored(name):
    recorded = {"source": "release", "dataset": "obqa", "teachers": ["release:llama2"]}
    with pytest.raises(ParameterError, match=r"recorded .*hf:MODEL"):
        Params.checked(**recorded, arms=["finetune", name])
    Params.checked(**recorded, arms=["finetune", "tinyllm", "tinyllm:gibberish+lora"])


@pytest.mark.parametrize(
    ("teachers", "name"), [([A], "tinyllm-a"), ([], "kd"), ([], "tinyllm:shuffled")]
)
def test_an_arm_of_teachers_needs_one(teachers, name):
    with pytest.raises(ParameterError, match=r"finetune|at least one teacher"):
        Params.checked(teachers=teachers, arms=[name])


def test_all_is_every_arm_that_the_teachers_allow():
    assert Params.checked(teachers=[A, B], arms=["all"]).arms == [
        "inference", "finetune", "lora", "kd", "dss:a", "dss:b", "tinyllm", "tinyllm:no-examples",
        "tinyllm:no-forcing", "tinyllm:shuffled", "tinyllm:scrambled", "tinyllm:gibberish",
    ]  # fmt: skip
    recorded = arms.everything(["release:flan-t5", "release:llama2"])
    assert "dss:flan-t5" in recorded and "tinyllm:shuffled" in recorded
    assert "kd" not in recorded and "tinyllm:no-examples" not in recorded
    assert "tinyllm-m2" in arms.everything(["hf:m1", "hf:m2", "hf:m3"])
    assert arms.everything([]) == ["inference", "finetune", "lora"]


def test_all_keeps_the_dss_arms_of_teachers_of_equal_names():
    names = arms.everything(["hf:llama2", "release:llama2", "hf:other"])
    assert {"dss:hf:llama2", "dss:release:llama2", "dss:other"} <= set(names)
    assert {"tinyllm-hf:llama2", "tinyllm-release:llama2"} <= set(names)


def test_variants_are_the_stores_that_a_study_needs_each_once():
    plain = Params.checked(arms=["finetune", "tinyllm", "tinyllm:shuffled", "kd"])
    assert arms.variants(plain) == [plain]
    more = ["tinyllm:no-examples", "tinyllm:no-examples+lora", "tinyllm:no-forcing", "tinyllm"]
    ways = arms.variants(Params.checked(arms=more))
    asked = [(way.examples, way.teacher_forcing) for way in ways]
    assert asked == [("random:2", True), ("none", True), ("random:2", False)]
    assert len(arms.variants(Params.checked(arms=["tinyllm:no-examples"], examples="none"))) == 1


def test_teachers_are_scored_where_an_arm_learns_from_their_distributions():
    assert arms.scored(Params.checked(arms=["finetune", "tinyllm"])) == []
    assert arms.scored(Params.checked(arms=["finetune", "kd:2"])) == [A, B]
