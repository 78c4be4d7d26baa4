"""Arms: every name means what the module's table says, and what cannot be is refused by name."""

import pytest

from tinyllm import arms
from tinyllm.arms import Arm
from tinyllm.params import ParameterError, Params

A, B = "micro:a", "micro:b"


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
        ("tinyllm", {"teachers": (A, B)}),
        ("tinyllm-a", {"teachers": (B,)}),
        ("tinyllm-micro:b", {"teachers": (A,)}),
        ("tinyllm:no-examples", {"teachers": (A, B), "asked": {"examples": "none"}}),
        ("tinyllm:no-forcing", {"teachers": (A, B), "asked": {"teacher_forcing": False}}),
        ("tinyllm:shuffled", {"teachers": (A, B), "moved": "rationales"}),
        ("tinyllm:scrambled", {"teachers": (A, B), "moved": "words"}),
        ("tinyllm:gibberish", {"teachers": (A, B), "gibberish": True}),
        ("tinyllm+lora:2", {"teachers": (A, B), "lora": 2}),
        ("tinyllm-a+lora", {"teachers": (B,), "lora": 8}),
    ],
)
def test_a_name_is_a_few_fields_of_data(name, expected):
    arm = arms.resolve(name, [A, B])
    assert arm == Arm(name, **expected)
    assert arm.settings() == expected


def test_names_with_a_hyphen_are_teachers_too():
    arm = arms.resolve("tinyllm-flan-t5", ["release:flan-t5", "release:llama2"])
    assert arm.teachers == ("release:llama2",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fintune", ["'fintune' is unknown", "tinyllm-TEACHER", "tinyllm:gibberish"]),
        ("finetune:2", ["'finetune:2' is unknown", "finetune:xN"]),
        ("finetune:x0", ["'finetune:x0' is unknown"]),
        ("tinyllm:random", ["'tinyllm:random' is unknown", "tinyllm:shuffled"]),
        ("tinyllm:", ["is unknown"]),
        ("kd-a", ["is unknown"]),
        ("kd:", ["is unknown"]),
        ("kd:hot", ["'kd:hot'", "'hot' is no temperature"]),
        ("kd:0", ["'kd:0'", "above 0"]),
        ("lora:0", ["'lora:0'", "whole number from 1"]),
        ("tinyllm+lora:x", ["'tinyllm+lora:x'", "+lora:RANK"]),
        ("inference+lora", ["'inference+lora'", "trains nothing"]),
        ("dss:gpt", ["'dss:gpt'", "'gpt' names 0 of the teachers micro:a, micro:b"]),
        ("tinyllm-gpt", ["'tinyllm-gpt'", "names 0 of"]),
    ],
)
def test_what_is_no_arm_is_named_with_what_is_allowed(name, words):
    with pytest.raises(ParameterError) as caught:
        Params.checked(arms=[name])
    assert str(caught.value).startswith("arms: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["tinyllm:no-examples", "tinyllm:no-forcing", "kd", "kd:2+lora"])
def test_recorded_teachers_can_be_neither_asked_anew_nor_scored(name):
    recorded = {"source": "release", "dataset": "obqa", "teachers": ["release:llama2"]}
    with pytest.raises(ParameterError, match=rf"arms: '{name.replace('+', '.')}': .*hf:MODEL"):
        Params.checked(**recorded, arms=["finetune", name])
    assert Params.checked(**recorded, arms=["finetune", "tinyllm", "tinyllm:gibberish+lora"])


def test_no_teacher_is_left_where_the_only_one_is_left_out():
    with pytest.raises(ParameterError, match="that is the arm finetune"):
        Params.checked(teachers=[A], arms=["tinyllm-a"])


@pytest.mark.parametrize("name", ["kd", "tinyllm:shuffled"])
def test_what_learns_from_teachers_needs_one(name):
    with pytest.raises(ParameterError, match="at least one teacher"):
        Params.checked(teachers=[], arms=[name])


def test_variants_are_the_stores_that_a_study_needs_each_once():
    plain = Params.checked(arms=["finetune", "tinyllm", "tinyllm:shuffled", "kd"])
    assert arms.variants(plain) == [plain]
    more = ["tinyllm:no-examples", "tinyllm:no-examples+lora", "tinyllm:no-forcing", "tinyllm"]
    study = Params.checked(arms=more)
    asked = [(each.examples, each.teacher_forcing) for each in arms.variants(study)]
    assert asked == [("random:2", True), ("none", True), ("random:2", False)]
    same = Params.checked(arms=["tinyllm:no-examples"], examples="none")
    assert arms.variants(same) == [same]


def test_scored_teachers_are_asked_for_where_an_arm_learns_from_them():
    assert arms.scored(Params.checked(arms=["finetune", "tinyllm"])) == []
    assert arms.scored(Params.checked(arms=["finetune", "kd:2"])) == [A, B]
