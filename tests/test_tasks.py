"""Tasks of an arm: their texts and distributions, and what the controls keep of them."""

from collections import Counter

import pytest
import torch
from tiny import questions
from tiny import rationales as written

from tinyllm import arms, rationales, tasks
from tinyllm.params import Params


@pytest.fixture(scope="module")
def examples():
    return questions()


@pytest.fixture(scope="module")
def texts(examples):
    return written(examples)


def test_shuffled_rationales_keep_their_texts_and_lose_their_questions(
    monkeypatch, examples, texts
):
    monkeypatch.setattr(rationales, "texts", lambda params, teacher: texts[teacher])
    arm = arms.resolve("tinyllm:shuffled", ["micro:a", "micro:b"])
    moved = tasks.arm_texts(Params(), arm, examples, seed=0)
    again = tasks.arm_texts(Params(), arm, examples, seed=0)
    other = tasks.arm_texts(Params(), arm, examples, seed=1)
    for teacher, have in texts.items():
        have = {k: v for k, v in have.items() if v.strip()}
        assert sorted(moved[teacher].values()) == sorted(have.values())
        assert moved[teacher].keys() == have.keys()
        assert moved[teacher] != have
        assert moved[teacher] == again[teacher]
        assert moved[teacher] != other[teacher]


def test_scrambled_rationales_keep_words_and_lengths_and_no_statement(monkeypatch, examples, texts):
    monkeypatch.setattr(rationales, "texts", lambda params, teacher: texts[teacher])
    arm = arms.resolve("tinyllm:scrambled", ["micro:a", "micro:b"])
    moved = tasks.arm_texts(Params(), arm, examples, seed=0)
    assert moved == tasks.arm_texts(Params(), arm, examples, seed=0)
    for teacher, have in texts.items():
        have = {k: v.split() for k, v in have.items() if v.strip()}
        now = {k: v.split() for k, v in moved[teacher].items()}
        assert {k: len(v) for k, v in now.items()} == {k: len(v) for k, v in have.items()}
        for place in range(4):
            assert Counter(v[place] for v in now.values()) == Counter(
                v[place] for v in have.values()
            )
        same = sum(now[k] == have[k] for k in have)
        assert same <= len(have) // 4


def test_gibberish_has_the_lengths_of_rationales_and_the_words_of_questions(
    monkeypatch, examples, texts
):
    monkeypatch.setattr(rationales, "texts", lambda params, teacher: texts[teacher])
    arm = arms.resolve("tinyllm:gibberish", ["micro:a", "micro:b"])
    have = tasks.arm_texts(Params(), arm, examples, seed=0)
    assert have["micro:a"] == texts["micro:a"]
    random_words = have["gibberish"]
    assert random_words == tasks.arm_texts(Params(), arm, examples, seed=0)["gibberish"]
    assert random_words != tasks.arm_texts(Params(), arm, examples, seed=1)["gibberish"]
    assert random_words.keys() == {e.id for e in examples}
    vocabulary = {w for e in examples for text in (e.question, *e.options) for w in text.split()}
    lengths = {len(t.split()) for each in texts.values() for t in each.values()}
    for text in random_words.values():
        assert set(text.split()) <= vocabulary and len(text.split()) in lengths
    assert len(set(random_words.values())) == len(examples)


def test_an_ablation_learns_from_the_rationales_that_were_asked_for_it(
    monkeypatch, examples, texts
):
    asked = []

    def store(params, teacher):
        asked.append((params.examples, params.teacher_forcing, teacher))
        return texts[teacher]

    monkeypatch.setattr(rationales, "texts", store)
    for name in ("tinyllm", "tinyllm:no-examples", "tinyllm:no-forcing", "tinyllm-a"):
        arm = arms.resolve(name, ["micro:a", "micro:b"])
        assert tasks.arm_texts(Params(), arm, examples, seed=0).keys() == set(arm.teachers)
    assert asked == [
        ("random:2", True, "micro:a"),
        ("random:2", True, "micro:b"),
        ("none", True, "micro:a"),
        ("none", True, "micro:b"),
        ("random:2", False, "micro:a"),
        ("random:2", False, "micro:b"),
        ("random:2", True, "micro:b"),
    ]


def test_a_teacher_keeps_prefix_and_alpha_in_every_arm():
    params = Params.checked(alpha=[0.5, 3.0])
    by_arm = {
        name: {
            task.name: (task.prefix, task.weight)
            for task in tasks.tasks(arms.resolve(name, params.teachers), params)
        }
        for name in ("tinyllm", "tinyllm-a", "dss:b", "kd:2", "tinyllm:gibberish", "inference")
    }
    answer = ("predict: ", 1.0)
    b = ("rationale: ", 3.0)
    assert by_arm["tinyllm"] == {"answer": answer, "micro:a": ("explain: ", 0.5), "micro:b": b}
    assert by_arm["tinyllm-a"] == by_arm["dss:b"] == {"answer": answer, "micro:b": b}
    assert by_arm["kd:2"] == {"answer": answer, "options": ("predict: ", 4.0)}
    assert by_arm["tinyllm:gibberish"]["gibberish"] == ("rationale 3: ", 1.75)
    assert by_arm["inference"] == {}


def test_temperature_flattens_and_teachers_are_averaged():
    scores = [-1.0, -2.0, -4.0]
    assert tasks.distribution(scores, 2.0) == pytest.approx(
        torch.softmax(torch.tensor(scores) / 2.0, 0).tolist()
    )
    assert tasks.distribution([0.0, float("-inf")], 3.0) == [1.0, 0.0]
    first, second = {"q": [0.0, float("-inf")], "r": [0.0, 0.0]}, {"q": [0.0, 0.0]}
    assert tasks.mean_distribution([first, second], 1.0) == {"q": [0.75, 0.25], "r": [0.5, 0.5]}


def test_the_plan_has_a_row_for_every_task_of_every_arm():
    names = ["inference", "lora", "kd:2", "tinyllm:no-examples"]
    table = tasks.plan(Params.checked(arms=names))
    assert list(dict.fromkeys(table.index.get_level_values("arm"))) == names
    assert table["trained weights"]["inference"].tolist() == ["none"]
    assert table["trained weights"]["lora"].tolist() == ["LoRA, rank 8"]
    assert table.loc[("kd:2", "options"), "aims at"].endswith("distribution, T = 2")
    assert table.loc[("tinyllm:no-examples", "micro:b"), "aims at"].endswith("examples: none")
