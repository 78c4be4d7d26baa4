"""The teacher's prompt: the paper's wording, truncation to a token budget, in-context examples."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm import prompts
from tinyllm.data import micro
from tinyllm.data.question import Question
from tinyllm.params import ParameterError

BIRDS = ["penguin", "eagle"]
TRAIN = [
    Question("t0", "", "Which bird swims best in cold water?", ["penguin", "robin"], 0),
    Question("t1", "", "Which metal is liquid at room temperature?", ["iron", "mercury"], 1),
    Question("t2", "", "Which bird cannot fly but swims?", BIRDS, 0, "Penguins swim."),
    Question("t3", "", "Which planet is largest?", ["Jupiter", "Mars"], 0),
]
LONG = Question("q", "one two three four five six seven eight", "Is it so?", ["yes", "no"], 0)


def words(text):
    return len(text.split())


def rationale(question, shots):
    return prompts.teacher_prompt(question, shots, forcing=True)


def test_prompts_match_the_paper_and_show_gold_only_with_teacher_forcing():
    given = (
        "Question: Which metal is liquid at room temperature?\nOptions:\n(a) iron\n(b) mercury\n"
        "Answer: (b)\n\n"
        "Question: Which bird cannot fly but swims?\nOptions:\n(a) penguin\n(b) eagle\n"
        "Answer: (a)\nRationale: Let's think step by step. Penguins swim.\n\n"
        "Question: Which bird swims best in cold water?\nOptions:\n(a) penguin\n(b) robin\n"
    )
    cue = "Rationale: Let's think step by step."
    shots = [TRAIN[1], TRAIN[2]]
    assert rationale(TRAIN[0], shots) == f"{given}Answer: (a)\n{cue}"
    assert prompts.teacher_prompt(TRAIN[0], shots, forcing=False) == given + cue
    asked = prompts.answer_prompt(TRAIN[0], [TRAIN[1]])
    assert "Answer: mercury\n" in asked and asked.endswith("\nAnswer:")


def test_truncation_cuts_context_before_examples_and_counts_both():
    whole = words(rationale(LONG, TRAIN[:2]))
    short = prompts.fitted(LONG, TRAIN[:2], rationale, words, whole - 3)
    assert short.cut == (3, 0) and short.shots == ("t0", "t1")
    assert "one two three four five\nIs it so?" in short.text
    none = prompts.fitted(LONG, TRAIN[:2], rationale, words, whole - 9)
    assert none.cut == (0, 1) and none.shots == ("t0",)  # then the context fits again
    with pytest.raises(ParameterError, match=r"max_prompt: 5: question 'q' .* 17 tokens"):
        prompts.fitted(LONG, TRAIN[:2], rationale, words, 5)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 90), st.integers(0, 30), st.integers(0, 30))
def test_prompts_fit_the_budget_with_complete_questions_and_options(budget, context, example):
    row = Question("q", "word " * context, "Is it so, after all?", ["quite so", "not so"], 1)
    shot = Question("s", "fact " * example, "Was it?", ["it was", "it was not"], 0)
    try:
        fitted = prompts.fitted(row, [shot], rationale, words, budget)
    except ParameterError:
        assert words(rationale(Question("q", "", row.question, row.options, 1), [])) > budget
        return
    assert words(fitted.text) <= budget
    assert "Is it so, after all?\nOptions:\n(a) quite so\n(b) not so\nAnswer: (b)" in fitted.text
    assert ("Was it?\nOptions:\n(a) it was\n(b) it was not" in fitted.text) == ("s" in fitted.shots)
    left = len(re.findall("word", fitted.text)) + len(re.findall("fact", fitted.text))
    assert left == context + (example if fitted.shots else 0) - fitted.cut[0]
    assert fitted.cut[1] == 1 - len(fitted.shots)


def test_examples_never_include_the_question_or_one_with_the_same_wording():
    pool = micro.questions(0)["train"][:40]
    twins = [Question(f"twin{row.id}", "", row.question.upper(), ["x", "y"], 0) for row in pool]
    for row in pool:
        shots = prompts.in_context(row, [*pool, *twins], "random:3", seed=0)
        assert len({shot.id for shot in shots}) == 3
        assert row.key() not in {shot.key() for shot in shots}
    assert prompts.in_context(pool[0], pool[:1], "random:3", seed=0) == []
    assert prompts.in_context(pool[0], pool, "none", seed=0) == []


def test_random_examples_depend_only_on_seed_and_question():
    pool = micro.questions(0)["train"][:40]
    drawn, other = (
        [prompts.in_context(q, pool, "random:2", seed) for q in pool] for seed in (5, 6)
    )
    again = [prompts.in_context(q, pool, "random:2", 5) for q in pool[::-1]]
    assert drawn == again[::-1] and drawn != other
