"""Which option a text names: by text, by letter, by unique mention, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.models.extract import answer_named, mentioned

CLOTH = ["cotton", "felt", "wool felt", "an iron bar"]
YES = ["yes", "no", "maybe"]
BLOOD = ["A+", "A-", "B+", "0+"]
CODE = ["C", "C++", "Java", "Go"]
METRES = ["1", "2", "10", "1.5"]


@pytest.mark.parametrize(("text", "named"), [
    ("(b)", 1), ("b", 1), ("B.", 1), ("(b) felt", 1), ("B: felt", 1), ("**B. felt**", 1),
    ("**B**", 1), ("**B:** felt", 1), ("**Answer:** B", 1), ("The answer is **B**.", 1),
    ("option d", 3), ("Answer: C", 2), ("The answer is (b) felt", 1), ("b. It is warm.", 1),
    ("The answer is: \nb. felt", 1), ("the answer is d because it is", 3), ("(b) is correct", 1),
    ("Felt.", 1), ("the felt", 1), ("“felt”", 1), ("iron bar", 3), ("an\niron  bar", 3),
    ("The answer is wool felt, since cotton burns.", 2), ("I think it's (c).", 2),
    ("The answer to the question is (a).", 0), ("Not felt but cotton.", 0),
    ("Cotton is weak and felt burns. So the answer is (d).", 3),
    ("The answer is cotton. No: the answer is felt.", 1),
    ("(a) felt", None), ("B. cotton", None), ("(a) or (b)", None), ("Not (a).", None),
    ("The answer is (a) or (b).", None), ("The answer is not felt", None), ("(x)", None),
    ("", None), ("cotton and felt", None), ("feltham", None), ("a is a letter", None),
])  # fmt: skip
def test_an_answer_names_an_option_by_text_or_letter_or_none(text, named):
    assert answer_named(text, CLOTH) == named


@pytest.mark.parametrize(("text", "options", "named"), [
    ("A-", BLOOD, 1), ("a-", BLOOD, 1), ("It is A-.", BLOOD, 1), ("A", BLOOD, 0),
    ("AB-", BLOOD, None), ("JavaScript", CODE, None), ("It is written in C++.", CODE, 1),
    ("C", CODE, 0), ("C.", CODE, 0), ("(c)", CODE, 2), ("c++", CODE, 1), ("C#", CODE, None),
    ("1.5 metres", METRES, 3), ("1 metre", METRES, 0), ("10.", METRES, 2), ("-2", METRES, None),
    ("about 1.25 metres", METRES, None), ("at 1:30", METRES, None), ("1:30", ["1", "1:30"], 1),
    ("1,000 people", ["1", "1,000"], 1), ("1, or so", ["1", "1,000"], 0),
    ("−5", ["5", "-5"], 1), ("1/2", ["1", "2", "1/2"], 2), ("50 %", ["5%", "50%"], 1),
    ("b", ["b", "a"], 0), ("(b)", ["b", "a"], 1), ("It is CO.", ["Co", "CO"], 1),
    ("C. elegans is a worm", ["E. coli", "C. elegans", "yeast"], 1), ("non-metal", ["metal"], None),
    ("wren", ["a wren", "a wren", "a stone"], None), ("salt, pepper", ["salt", "salt, pepper"], 1),
    ("答案是猫。", ["狗", "猫", "大猫"], 1), ("الجواب هو قطة", ["كلب", "قطة"], 1),
    ("😀", ["😀", "😢"], 0), ("", ["*", "+"], None), ("-", ["*", "+"], None),
    ("<b>", ["<a>", "<b>"], 1),
])  # fmt: skip
def test_exact_text_comes_first_and_numbers_and_signs_stay_whole(text, options, named):
    assert answer_named(text, options) == named


@pytest.mark.parametrize(("text", "named"), [
    ("No.", 1), ("Yes, it does.", 0), ("The answer is no.", 1), ("So, the answer is: maybe", 2),
    ("No effect was seen.", None), ("There was no effect.", None), ("yes or no", None),
])  # fmt: skip
def test_words_of_any_prose_name_an_option_only_as_an_answer(text, named):
    assert answer_named(text, YES) == named


@pytest.mark.parametrize(("text", "named"), [
    ("A wool felt is warm.", 2), ("Cotton is weak; felt burns.", None), ("(b) is right", None),
    ("It is not felt. Cotton it is.", 0), ("", None),
])  # fmt: skip
def test_a_mention_is_unique_and_letters_do_not_count_in_a_rationale(text, named):
    assert mentioned(text, CLOTH) == named


WORDS = st.text("ab cC.1+-(,)é猫\n", min_size=1, max_size=8)


@given(st.lists(WORDS, min_size=2, max_size=5), st.data())
def test_an_options_own_text_names_it_and_any_text_names_an_option_or_none(options, data):
    spaced = [" ".join(option.split()) for option in options]
    chosen = data.draw(st.integers(0, len(options) - 1))
    if spaced[chosen] and spaced.count(spaced[chosen]) == 1:
        assert answer_named(f" {options[chosen]}\n", options) == chosen
    text = data.draw(st.text("ab cC.1:+-(,)*é猫 not the answer is", max_size=30))
    assert answer_named(text, options) in (None, *range(len(options)))
