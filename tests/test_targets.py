"""Training targets of each arm: tasks, texts and distributions, and the control arms."""

import math
from collections import Counter

import pytest
from tiny import questions, rationales

from tinyllm import arms
from tinyllm.data import load as data
from tinyllm.data.micro import ABSTAINS
from tinyllm.params import Params
from tinyllm.students import targets
from tinyllm.teachers import ask, choose

A, B = TEACHERS = ["micro:a", "micro:b"]
ROWS = questions()
TEXTS = rationales(ROWS)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Records the parameters and teachers for which rationales are read."""
    calls = []

    def stored(params, uri, sample=0):
        calls.append((params.examples, params.teacher_forcing, tuple(params.cleaning), uri))
        return TEXTS[uri]

    monkeypatch.setattr(ask, "rationales", stored)
    return calls


def texts(name, seed=0, sample=0):
    return targets.arm_texts(Params(), arms.resolve(name, TEACHERS), ROWS, seed, sample)


def written(given):
    return {name: text.split() for name, text in given.items() if text.strip()}


@pytest.mark.parametrize("control", ["shuffled", "scrambled", "gibberish"])
def test_control_texts_depend_on_the_seed(control):
    name = f"tinyllm:{control}"
    assert texts(name) == texts(name) != texts(name, seed=1)


def test_shuffled_rationales_are_permuted_among_the_questions_that_have_one():
    for teacher, moved in texts("tinyllm:shuffled").items():
        original = {name: text for name, text in TEXTS[teacher].items() if text.strip()}
        assert sorted(moved.values()) == sorted(original.values())
        assert moved.keys() == original.keys() and moved != original


def test_scrambled_rationales_keep_words_and_lengths_but_no_statement():
    for teacher, moved in texts("tinyllm:scrambled").items():
        original, scrambled = written(TEXTS[teacher]), written(moved)
        assert {k: len(v) for k, v in scrambled.items()} == {k: len(v) for k, v in original.items()}
        sides = (scrambled.values(), original.values())
        words = [Counter(word for text in texts for word in text) for texts in sides]
        assert words[0] == words[1]
        assert sum(scrambled[name] == original[name] for name in original) <= len(original) // 4


def test_gibberish_has_the_lengths_of_rationales_and_words_from_questions():
    random_words = texts("tinyllm:gibberish")[arms.GIBBERISH]
    assert random_words.keys() == {row.id for row in ROWS}
    vocabulary = {w for row in ROWS for text in (row.question, *row.options) for w in text.split()}
    lengths = {len(text.split()) for texts in TEXTS.values() for text in texts.values()}
    for text in random_words.values():
        assert set(text.split()) <= vocabulary and len(text.split()) in lengths


@pytest.mark.parametrize(("name", "teachers", "how"), [
    ("tinyllm", TEACHERS, ("random:2", True, ())),
    ("tinyllm:no-examples", TEACHERS, ("none", True, ())),
    ("tinyllm:no-forcing", TEACHERS, ("random:2", False, ())),
    ("tinyllm:repaired", TEACHERS, ("random:2", True, ("repair",))),
    ("kd", [], ()),
])  # fmt: skip
def test_arms_read_the_rationales_generated_with_their_own_settings(asked, name, teachers, how):
    assert texts(name) == {uri: TEXTS[uri] for uri in teachers}
    assert asked == [(*how, uri) for uri in teachers]


@pytest.fixture
def both(monkeypatch, tmp_path):
    """Rationales of two teachers for every question; tests may change them."""
    kept = {A: dict(TEXTS[A]), B: {row.id: f"It is {row.gold}." for row in ROWS}}

    def taken(params, uri, sample=0):
        return {name: (text, text.endswith("cut.")) for name, text in kept[uri].items()}

    def stored(params, uri, sample=0):
        return {name: text for name, text in kept[uri].items() if text != ABSTAINS}

    monkeypatch.setattr(ask, "taken", taken)
    monkeypatch.setattr(ask, "rationales", stored)
    monkeypatch.setattr(data, "read", lambda params: {"train": ROWS})
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    return kept


def test_random_routing_gives_each_question_one_teacher_text_by_seed(both):
    one, two, three = (row.id for row in ROWS[:3])
    del both[A][one], both[B][two]  # the other teacher is chosen
    both[B][three] = ABSTAINS  # may be chosen, but gives no text
    drawn = [choose.choices(Params(), TEACHERS, "random", seed) for seed in range(8)]
    assert choose.choices(Params(), TEACHERS, "random", 0) == drawn[0] != drawn[1]
    for seed, chosen in enumerate(drawn):
        assert chosen.keys() == {row.id for row in ROWS}
        assert (chosen[one], chosen[two]) == (B, A)
        learned = {name: both[uri][name] for name, uri in chosen.items()}
        if chosen[three] == B:
            del learned[three]
        assert texts("tinyllm:routed-random", seed) == {targets.ROUTED: learned}
    assert {chosen[three] for chosen in drawn} == {A, B}


def test_quality_routing_prefers_whole_texts_that_name_only_the_gold_option(both):
    for row in ROWS:
        wrong = next(o for o in row.options if o != row.gold)
        both[A][row.id] = f"It is {wrong}, since"
    assert set(choose.choices(Params(), TEACHERS, "quality", 0).values()) == {B}
    both[A] = {row.id: f"It is {row.gold}. It was cut." for row in ROWS}  # by max_new_tokens
    assert set(choose.choices(Params(), TEACHERS, "quality", 0).values()) == {B}
    both[B] = dict.fromkeys(both[B], ABSTAINS)
    assert set(choose.choices(Params(), TEACHERS, "quality", 0).values()) == {A}


def test_similarity_routing_picks_the_closest_text(both, minilm_file):
    both[A] = {row.id: f"{row.question} That is why it is {row.gold}." for row in ROWS}
    both[B] = dict.fromkeys(both[B], "The stock market closed higher on Friday.")
    chosen = choose.choices(Params(), TEACHERS, "similar", 0)
    assert set(chosen.values()) == {A}
    assert choose.choices(Params(), TEACHERS, "similar", 1) == chosen


def test_teachers_keep_their_prefix_and_alpha_in_every_arm():
    params = Params.checked(alpha=[0.5, 3.0])

    def learned(name):
        tasks = targets.tasks(arms.resolve(name, TEACHERS), params)
        return {task.name: (task.prefix, task.weight) for task in tasks}

    answer, b = ("predict: ", 1.0), ("rationale: ", 3.0)
    assert learned("tinyllm") == {"answer": answer, A: ("explain: ", 0.5), B: b}
    assert learned("tinyllm-a") == learned("dss:b") == {"answer": answer, B: b}
    assert learned("kd:2") == {"answer": answer, "options": ("predict: ", 4.0)}
    assert learned("tinyllm:gibberish")["gibberish"] == ("rationale 3: ", 1.75)
    assert learned("inference") == {}
    assert learned("tinyllm:routed-similar") == {"answer": answer, "routed": ("explain: ", 1.75)}


def test_kd_targets_are_the_mean_of_the_teacher_distributions(monkeypatch):
    nine = 2 * math.log(9)  # odds of 81 to 1, which become 9 to 1 at temperature 2
    known = {A: {"q": [nine, 0.0], "r": [0.0, 0.0]}, B: {"q": [0.0, 0.0]}}
    monkeypatch.setattr(ask, "option_scores", lambda params, uri: known[uri])
    means = targets.arm_options(Params(), arms.resolve("kd:2", TEACHERS))
    assert means["q"] == pytest.approx([0.7, 0.3]) and means["r"] == [0.5, 0.5]
