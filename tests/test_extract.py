"""Which option a text names: by its text, by its letter, by a unique mention, or none."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllm.models.extract import answer_named

CLOTH = ["cotton", "felt", "wool felt", "an iron bar"]
ANSWERS = [  # options, and for each text the index of the option that it names
    (CLOTH, {  # by a letter, alone or in a sentence
        "(b)": 1, "b": 1, "B.": 1, "**B**": 1, "(b) felt": 1, "[b] felt": 1, "option d": 3,
        "(b) is correct": 1, "b. It is warm.": 1, "Answer: C": 2, "**Answer:** B": 1,
        "The answer is **B**.": 1, 'The answer is "B".': 1, "The answer is: \nb. felt": 1,
        "the answer is d because it is": 3, "The answer would be (c).": 2,
        "B\n\nExplanation: cotton burns.": 1, "\\boxed{B}": 1, "<answer>B</answer>": 1,
        "(x)": None, "a is a letter": None,
    }),
    (CLOTH, {  # by an option's text
        "Felt.": 1, "the felt": 1, "“felt”": 1, "an\niron  bar": 3, "feltham": None, "": None,
        "Felt\n\nBecause cotton burns.": 1, "The answer is an\niron bar": 3,
        "The answer is wool felt, since cotton burns.": 2,
    }),
    (CLOTH, {  # several claims or mentions, and negations
        "The answer is cotton. No: the answer is felt.": 1,
        "Cotton is weak and felt burns. So the answer is (d).": 3,
        "The answer to the question is (a).": 0, "Not felt but cotton.": 0,
        "The correct answer is (a). So the answer is not (b) felt.": 0,
        "(a) felt": None, "(a) or (b)": None, "(A), (B)": None, "cotton and felt": None,
        "The answer is (a) or (b).": None, "(a) cotton or (b) felt": None,
        "(a) cotton\n(b) felt\n(c) wool felt": None, "A. cotton, B. felt": None, "(b), (c)": None,
        "(a) cotton: Incorrect. It burns.\n(b) felt: Correct.": None, "(a) cannot be right.": None,
        "(b) felt\n\n(a) is wrong.": 1, "The answer is B, C.": None,
        "The answer is (a) cotton, (b) is too thin.": 0, "The answer is B; A is thin, so no.": 1,
        "The answer is (a), (b) is wrong.": 0, "Wrong answer choice: (a). Right: (b)": None,
        "The answer is B, as I said.": 1, "The answer is (a), (b), and (c).": None,
        "Is it [a] or [b]?": None, "Not (a).": None, "The best option is not felt.": None,
        "The answer is not b) felt": None, "The answer is not (a) or (b).": None,
        "It is not (a), (b) or (c). So it is (d).": 3, "Answer: felt\n\nWrong answer: cotton": 1,
        "Let us check each answer choice:\n(a) cotton burns.\n(b) felt is safe.": None,
    }),
    # Exact matches come first; numbers and signs are not split.
    (["A+", "A-", "B+", "0+"], {"A-": 1, "a-": 1, "It is A-.": 1, "A": 0, "AB-": None}),
    (["C", "C++", "Java", "Go"], {
        "JavaScript": None, "It is written in C++.": 1, "C": 0, "C.": 0, "(c)": 2, "c++": 1,
        "C#": None,
    }),
    (["1", "2", "10", "1.5"], {
        "1.5 metres": 3, "1 metre": 0, "10.": 2, "-2": None, "about 1.25 metres": None,
        "at 1:30": None,
    }),
    (["1", "1:30"], {"1:30": 1}), (["1", "1,000"], {"1,000 people": 1, "1, or so": 0}),
    (["10", "1000"], {"10^3": None}), (["can", "cannot"], {"It can't.": None, "can": 0}),
    (["cafe", "caf\u00e9"], {"cafe\u0301": 1}),
    (["5", "-5"], {"−5": 1}), (["1", "2", "1/2"], {"1/2": 2}), (["5%", "50%"], {"50 %": 1}),
    (["b", "a"], {"b": 0, "(b)": 1}), (["Co", "CO"], {"It is CO.": 1}),
    (["E. coli", "C. elegans", "yeast"], {"C. elegans is a worm": 1}),
    (["metal"], {"non-metal": None}), (["a wren", "a wren", "a stone"], {"wren": None}),
    (["salt", "salt, pepper"], {"salt, pepper": 1}), (["狗", "猫", "大猫"], {"答案是猫。": 1}),
    (["كلب", "قطة"], {"الجواب هو قطة": 1}), (["😀", "😢"], {"😀": 0}),
    (["*", "+"], {"": None, "-": None}), (["<a>", "<b>"], {"<b>": 1}),
    # Common words name an option only where they are given as the answer.
    (["yes", "no", "maybe"], {
        "No.": 1, "Yes, it does.": 0, "The answer is no.": 1, "So, the answer is: maybe": 2,
        "**Yes**, because": 0, "No - it does not": 1, "Yes\n\nNo doubt.": 0,
        "No effect was seen.": None, "There was no effect.": None, "yes or no": None,
    }),
]  # fmt: skip
CASES = [(text, options, place) for options, texts in ANSWERS for text, place in texts.items()]


@pytest.mark.parametrize(("text", "options", "place"), CASES)
def test_answer_named_finds_an_option_by_text_or_letter_or_returns_none(text, options, place):
    assert answer_named(text, options) == place


@pytest.mark.parametrize(("text", "place"), [
    ("Let us look at the options.\n\n**(b) felt**: This option", None),
    ("Consider felt. It is known that felt has", None), ("(b) felt, because it", 1), ("felt", 1),
    ("B\n\nFelt is", 1), ("Cotton burns, so the answer is felt. It", 1),
])  # fmt: skip
def test_a_mere_mention_in_a_text_that_was_cut_off_names_no_option(text, place):
    assert answer_named(text, CLOTH, cut=True) == place
    assert answer_named(text, CLOTH) == 1


@pytest.mark.parametrize(
    "loop", ["The answer is ", "answer: ", "felt ", "not felt ", "Answer: B\n"]
)
def test_a_long_text_in_a_loop_is_read_within_seconds(loop):
    begun = time.process_time()
    assert answer_named(loop * (20_000 // len(loop)), CLOTH) in (None, 1)
    assert time.process_time() - begun < 10


WORDS = st.text("ab cC.1+-(,)é猫\n", min_size=1, max_size=8)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(WORDS, min_size=2, max_size=5), st.data())
def test_option_text_names_its_option_and_any_text_gives_a_valid_result(options, data):
    spaced = [" ".join(option.split()) for option in options]
    chosen = data.draw(st.integers(0, len(options) - 1))
    if spaced[chosen] and spaced.count(spaced[chosen]) == 1:
        assert answer_named(f" {options[chosen]}\n", options) == chosen
    text = data.draw(st.text("ab cC.1:+-(,)*é猫 not the answer is", max_size=30))
    assert answer_named(text, options) in (None, *range(len(options)))
