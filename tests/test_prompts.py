"""The teacher's prompt: every piece is known, the budget cuts what may be cut and counts it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm import data, micro, prompts, teachers
from tinyllm.data import Example
from tinyllm.params import ParameterError, Params

TRAIN = [
    Example("t0", "", "Which bird swims best in cold water?", ["penguin", "robin"], 0),
    Example("t1", "", "Which metal is liquid at room temperature?", ["iron", "mercury"], 1),
    Example(
        "t2", "", "Which bird cannot fly but swims?", ["penguin", "eagle"], 0, "Penguins swim."
    ),
    Example("t3", "", "Which planet is largest?", ["Jupiter", "Mars"], 0),
]
LONG = Example("q", "one two three four five six seven eight", "Is it so?", ["yes", "no"], 0)


def words(text):
    return len(text.split())


def test_the_paper_s_prompt_to_the_letter():
    prompt = prompts.teacher_prompt(TRAIN[0], [TRAIN[1], TRAIN[2]], forcing=True)
    assert prompt == (
        "Question: Which metal is liquid at room temperature?\nOptions:\n(a) iron\n(b) mercury\n"
        "Answer: (b)\n\n"
        "Question: Which bird cannot fly but swims?\nOptions:\n(a) penguin\n(b) eagle\n"
        "Answer: (a)\nRationale: Let's think step by step. Penguins swim.\n\n"
        "Question: Which bird swims best in cold water?\nOptions:\n(a) penguin\n(b) robin\n"
        "Answer: (a)\nRationale: Let's think step by step."
    )


def test_the_answer_prompt_shows_answers_of_examples_only():
    prompt = prompts.answer_prompt(TRAIN[0], [TRAIN[1]])
    assert prompt == (
        "Question: Which metal is liquid at room temperature?\nOptions:\n(a) iron\n(b) mercury\n"
        "Answer: mercury\n\n"
        "Question: Which bird swims best in cold water?\nOptions:\n(a) penguin\n(b) robin\nAnswer:"
    )


@pytest.mark.parametrize("forcing", [True, False])
def test_the_pieces_make_up_the_prompt_and_name_their_sources(forcing):
    pieces = prompts.teacher_pieces(LONG, TRAIN[:2], forcing=forcing)
    assert prompts.joined(pieces) == prompts.teacher_prompt(LONG, TRAIN[:2], forcing=forcing)
    assert {p.source for p in pieces} == {"template", "q", "t0", "t1"}
    own = [p.part for p in pieces if p.block == "question" and p.source != "template"]
    assert own == ["context", "question", "options"] + ["gold answer"] * forcing
    table = prompts.explained(pieces)
    assert len(table) == len(pieces) and "\n" not in "".join(table.text)


def test_similar_takes_the_nearest_last_and_never_the_question():
    nearest = prompts.InContext(TRAIN, "similar:2", seed=0)(TRAIN[0])
    assert nearest[-1].id == "t2" and len(nearest) == 2 and TRAIN[0] not in nearest
    same_words = Example("other", "", TRAIN[0].question.upper() + "!", ["x", "y"], 0)
    assert TRAIN[0] not in prompts.InContext(TRAIN, "similar:3", seed=0)(same_words)


def fit(budget, example=LONG, shots=TRAIN[:2]):
    def render(example, shots):
        return prompts.teacher_pieces(example, shots, forcing=True)

    return prompts.fitted(example, shots, render, words, budget)


def test_a_prompt_that_fits_is_left_as_it_is():
    assert fit(1000) == prompts.Fitted(
        prompts.teacher_prompt(LONG, TRAIN[:2], forcing=True), ("t0", "t1"), (0, 0)
    )


def test_context_goes_first_then_examples_and_both_are_counted():
    whole = words(prompts.teacher_prompt(LONG, TRAIN[:2], forcing=True))
    short = fit(whole - 3)
    assert short.cut == (3, 0) and short.shots == ("t0", "t1")
    assert "one two three four five\nIs it so?" in short.text
    none = fit(whole - 9)
    assert none.cut[1] == 1 and none.shots == ("t0",)
    assert none.cut[0] == 0, "an example less leaves room for the context again"
    with pytest.raises(ParameterError, match=r"max_prompt: 5: question 'q' .* needs 17 tokens"):
        fit(5)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(0, 30), st.integers(0, 30))
def test_within_the_budget_questions_and_options_are_whole(budget, own, other):
    example = Example("q", "word " * own, "Is it so, after all?", ["quite so", "not so"], 1)
    shot = Example("s", "fact " * other, "Was it?", ["it was", "it was not"], 0)
    try:
        fitted = fit(budget, example, [shot])
    except ParameterError:
        assert words(prompts.teacher_prompt(Example(**vars(example) | {"context": ""}), [],
                                            forcing=True)) > budget  # fmt: skip
        return
    assert words(fitted.text) <= budget
    assert "Is it so, after all?\nOptions:\n(a) quite so\n(b) not so\nAnswer: (b)" in fitted.text
    assert ("Was it?\nOptions:\n(a) it was\n(b) it was not" in fitted.text) == ("s" in fitted.shots)
    left = len(re.findall("word", fitted.text)), len(re.findall("fact", fitted.text))
    given_words = own + (other if fitted.shots else 0)
    assert sum(left) == given_words - fitted.cut[0]
    assert fitted.cut[1] == 1 - len(fitted.shots)


def test_real_long_contexts_are_cut_to_the_teacher_s_own_tokens(release_mirror, tmp_path):
    params = Params.checked(
        study="t", dataset="pubmedqa", source="release", teachers=["release:llama2"],
        arms=["finetune"], limit={"train": 30, "valid": 1, "test": 1},
    )  # fmt: skip
    train = data.examples(data.load(params)["train"])
    folder = micro.student("llama", tmp_path / "m", 0)
    asked = teachers.HFTeacher(
        str(folder), max_new_tokens=8, batch=4, dtype=teachers.models.precision("fp32")
    )
    in_context = prompts.InContext(train, "random:2", 0)
    cut = 0
    for example in train:
        fitted = prompts.fitted(
            example, in_context(example), prompts.answer_pieces, asked.tokens, 300
        )
        assert asked.tokens(fitted.text) <= 300
        assert prompts.student_question(example).split("\n")[0] in fitted.text
        assert prompts.lettered(example.options) in fitted.text
        cut += fitted.cut != (0, 0)
    assert cut > 25
