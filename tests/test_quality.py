"""Quality statistics of rationales, and the cleaning rules."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import notebook

from tinyllm.data.question import Question
from tinyllm.params import Cleaning
from tinyllm.teachers import quality
from tinyllm.teachers.store import Record

RULES = get_args(Cleaning)
findings = notebook("02")["findings"]
BIRD = Question("q", "", "Which of these flies?", ["a stone", "a wren"], 1)


TEXTS = {
    "no fault": [
        "It is a bird.", "Really? (Yes!)", "He said “yes”", "And so on…", "**It flies.**",
        "它是鸟。", "هل تطير؟", "यह पक्षी है।", "Sun warms. Thus, the answer is (d) plants",
        "The answer is 3.", "The question: what flies? A wren.", "Let Q: x be true.",
        "It flies. It flies. A wren does.", "A wren flies. A wren flies high.",
        "A wren flies. Thus, the answer is (b) A wren flies.",
    ],
    "cut off": [
        "Birds fly. So", "It weighs 3.5", "A list: (a)",
        "Sun warms and. So Thus, the answer is (d) plants",
    ],
    "invents": [
        "A wren flies.\nQuestion:\nWhat swims?", "A wren flies.\n\n### Q3. What swims?",
        "A wren flies.\n#\nQuestion\nWhat?", "It is.\nQuestion: A wren flies. A wren flies.",
    ],
    "repeats": [
        "A wren flies. Birds do. A wren flies!", "A wren flies.\na  wren flies.",
        "It is, it is, it is, it is what it is.", "6 6 6 6 6.",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in TEXTS.items() for t in texts])
def test_texts_are_classified_as_whole_cut_off_invented_or_repeated(kind, text):
    facts = findings(Record("", "q", "t", "", text, "stop"), BIRD)
    assert [name for name in TEXTS if facts[name]] == [kind]


@pytest.mark.parametrize(("text", "names"), [
    ("A wren has wings.", "gold"), ("Stone is heavy, a wren is light.", "none"),
    ("A stone falls.", "other"), ("It has wings.", "none"), ("(b) is right.", "none"),
    ("A stone falls. Thus, the answer is (b) a wren", "other"),
    ("It has wings. Thus, the answer is (b) a wren", "none"),
    ("A wren has wings.\nQuestion: Does a stone swim?", "gold"),
])  # fmt: skip
def test_a_rationale_names_an_option_only_if_it_mentions_no_other(text, names):
    assert quality.names(text, BIRD) == names


@pytest.mark.parametrize(("text", "refused", "outcome"), [
    (None, None, "missing"), (None, "filter", "refused"), ("I do not know.", None, "abstained"),
    ("Let's think step by step.", None, "empty"), ("Thus, the answer is (b) a wren", None, "empty"),
])  # fmt: skip
def test_missing_refused_abstained_and_empty_texts_have_only_an_outcome(text, refused, outcome):
    facts = findings(Record("", "q", "t", "", text, refused=refused), BIRD)
    assert facts.pop(outcome) and not any(facts.values())


def test_texts_that_reach_the_token_limit_count_as_cut_off():
    plain, cut = (
        findings(Record("", "q", "t", "", "A wren flies.", finish), BIRD)
        for finish in ("stop", "length")
    )
    assert plain["no fault"] and plain["names gold"] and plain["words"] == 3
    assert cut["cut off"] and not cut["no fault"]
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
def test_cleaning_rules_repair_or_drop_texts(cleaning, text, left):
    assert quality.cleaned(text, BIRD, cleaning) == left


@given(st.text("ab .!?…”)Q:\n", max_size=40), st.lists(st.sampled_from(RULES), max_size=3))
def test_cleaning_is_idempotent_and_only_removes_text(text, cleaning):
    once = quality.cleaned(text, BIRD, cleaning)
    assert once in text
    assert quality.cleaned(once, BIRD, cleaning) == once
