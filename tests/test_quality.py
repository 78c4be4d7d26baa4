"""What is counted about rationales, and how they are cleaned."""

from typing import get_args

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.data import release
from tinyllm.data.question import Question
from tinyllm.params import Cleaning
from tinyllm.teachers import quality, store
from tinyllm.teachers.store import Record

RULES = get_args(Cleaning)
BIRD = Question("q", "", "Which of these flies?", ["a stone", "a wren"], 1)


@pytest.mark.parametrize(("text", "cut"), [
    ("It is a bird.", False), ("Really? (Yes!)", False), ("He said “yes.”", False),
    ("He said “yes”", False), ("And so on…", False), ("**It flies.**", False),
    ("它是鸟。", False), ("هل تطير؟", False), ("यह पक्षी है।", False),
    ("Sun warms. Thus, the answer is (d) plants", False), ("The answer is 3.", False),
    ("Birds fly. So", True), ("It weighs 3.5", True), ("A list: (a)", True),
    ("Sun warms and. So Thus, the answer is (d) plants", True), ("", False),
])  # fmt: skip
def test_cut_off_means_mid_sentence(text, cut):
    assert quality.cut_off(text) is cut


@pytest.mark.parametrize(("text", "more"), [
    ("A wren flies.\nQuestion:\nWhat swims?", True), ("A wren flies.\n\n### Q3. What swims?", True),
    ("A wren flies.\n#\nQuestion\nWhat", True), ("The question: what flies? A wren.", False),
    ("Let Q: x be true.", False), ("Quails fly.\nQuestionable, but so.", False),
])  # fmt: skip
def test_an_invented_question_begins_a_line(text, more):
    assert bool(quality.INVENTED.search(text)) is more


@pytest.mark.parametrize(("text", "twice"), [
    ("A wren flies. Birds do. A wren flies!", True), ("A wren flies.\na  wren flies", True),
    ("It is, it is, it is, it is what it is.", True), ("6 6 6 6 6", True),
    ("Yes. Yes. A wren flies.", False), ("A wren flies. A wren flies high.", False),
    ("A wren flies. Thus, the answer is (b) A wren flies.", False),
    ("A wren flies.\nQuestion: A wren flies. A wren flies.", False),
])  # fmt: skip
def test_a_sentence_said_twice_or_a_loop_is_a_repetition(text, twice):
    assert quality.repeated(text) is twice


@pytest.mark.parametrize(("text", "names"), [
    ("A wren has wings.", "gold"), ("Stone is heavy, a wren is light.", "none"),
    ("A stone falls.", "other"), ("It has wings.", "none"), ("(b) is right.", "none"),
    ("A stone falls. Thus, the answer is (b) a wren", "other"),
    ("It has wings. Thus, the answer is (b) a wren", "none"),
    ("A wren has wings.\nQuestion: Does a stone swim?", "gold"),
])  # fmt: skip
def test_a_rationale_names_the_option_that_it_alone_mentions(text, names):
    assert quality.names(text, BIRD) == names


@pytest.mark.parametrize(("text", "refused", "outcome"), [
    (None, None, "missing"), (None, "filter", "refused"), ("I do not know.", None, "abstained"),
    ("Let's think step by step.", None, "empty"), ("Thus, the answer is (b) a wren", None, "empty"),
])  # fmt: skip
def test_what_is_not_written_has_an_outcome_and_nothing_else(text, refused, outcome):
    facts = quality.facts(Record("", "q", "t", "", text, refused=refused), BIRD)
    assert facts.pop("outcome") == outcome and not any(facts.values())


def test_a_text_that_ends_at_the_token_limit_is_cut_off():
    plain, cut = (
        quality.facts(Record("", "q", "t", "", "A wren flies.", finish), BIRD)
        for finish in ("stop", "length")
    )
    assert plain["whole"] and (plain["words"], plain["names"]) == (3, "gold")
    assert cut["cut_off"] and not cut["whole"]
    assert [quality.holds("A wren flies.", BIRD, cut) for cut in (False, True)] == [4, 3]


STORY = "Birds fly. Fish do not.\nSo (a) is right.\nQuestion:\nWhat swims?\nOptions:\n(a) a fi"


@pytest.mark.parametrize(("cleaning", "text", "left"), [
    ([], STORY, STORY), (["repair"], STORY, "Birds fly. Fish do not.\nSo (a) is right."),
    (["repair"], "no whole sentence", "no whole sentence"),
    (["repair"], "It flies. Thus, the answer is (a) x", "It flies. Thus, the answer is (a) x"),
    (["repair"], "It flies. He said “yes”", "It flies. He said “yes”"),
    (["repair"], "The “big” bird. The “small” one", "The “big” bird."),
    (["repair", "drop-cut"], "Birds fly. So", "Birds fly."), (["drop-cut"], "Birds fly. So", ""),
    (["drop-empty"], "Let's think step by step.", ""), (["drop-wrong"], "The stone flies.", ""),
    (["drop-repeated"], "It can fly. It can fly.", ""),
    ([*RULES], "It flies.", "It flies."), ([*RULES], "A wren flies.", "A wren flies."),
])  # fmt: skip
def test_cleaning_repairs_or_drops(cleaning, text, left):
    assert quality.cleaned(text, BIRD, cleaning) == left


@given(st.text("ab .!?…”)Q:\n", max_size=40), st.lists(st.sampled_from(RULES), max_size=3))
def test_cleaning_is_idempotent_and_only_takes_away(text, cleaning):
    once = quality.cleaned(text, BIRD, cleaning)
    assert once in text
    assert quality.cleaned(once, BIRD, cleaning) == once


def test_counts_of_the_release_agree_with_what_is_known_of_it(release_mirror):
    """PAPER.md, careful reader 3 and 4."""
    questions = release.questions("riddle", "train")
    flan, llama = (
        pd.DataFrame(map(quality.facts, store.recorded("riddle", "train", teacher), questions))
        for teacher in ("flan-t5", "llama2")
    )
    assert [(frame["outcome"] == "missing").sum() for frame in (flan, llama)] == [12, 21]
    assert 0.67 < llama["cut_off"].mean() < 0.935 and flan["cut_off"].mean() < 0.03
    assert not flan["invented"].any() and llama["invented"].any()
    assert (llama["outcome"] == "empty").any() and 16 <= flan["words"].median() <= 23
