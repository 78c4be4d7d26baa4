"""Which option a text names: explicit rules, and None where they do not decide."""

import pytest

from tinyllm.extract import answer_named, argued_for, normal, own, without_closing

CLOTH = ["cotton", "felt", "wool felt", "an iron bar"]
YES = ["yes", "no", "maybe"]


@pytest.mark.parametrize(("text", "named"), [
    ("(b)", 1), ("b", 1), ("B.", 1), ("b)", 1), ("(b) felt", 1), ("B: felt", 1), ("b felt", 1),
    ("option d", 3), ("Answer: C", 2), ("The answer is (b) felt", 1),
    ("The answer is: \nb. felt", 1),
    ("felt", 1), ("Felt.", 1), ("the felt", 1), ("The answer is felt.", 1), ("iron bar", 3),
    ("wool felt", 2), ("The answer is wool felt, since it burns.", 2), ("It is the iron bar", 3),
    ("I think it's (c).", 2), ("The answer to the question is (a).", 0), ("(b) is correct", 1),
    ("(b)\n\nQuestion: What burns?\nAnswer: (a)", 1),
    ("(a) felt", None), ("(a) or (b)", None), ("The answer is (a) or (b).", None),
    ("Not (a).", None),
    ("(x)", None), ("z", None), ("", None), ("cotton and felt", None), ("It is warm.", None),
    ("a hat", None), ("feltham", None), ("The answer is not (a)", None), ("a is a letter", None),
])  # fmt: skip
def test_an_answer_names_the_option_by_letter_or_text_or_none(text, named):
    assert answer_named(text, CLOTH) == named


@pytest.mark.parametrize(("text", "named"), [
    ("yes", 0), ("No.", 1), ("Maybe", 2), ("Yes, it does.", 0), ("(b) no", 1),
    ("The answer is no.", 1),
    ("So, the answer is: maybe", 2), ("No effect was seen.", None), ("There was no effect.", None),
    ("yes or no", None), ("It may, or maybe not", None),
])  # fmt: skip
def test_function_words_name_an_option_only_as_a_conclusion(text, named):
    assert answer_named(text, YES) == named
    if "(" not in text:
        assert argued_for(text, YES) == named


def test_an_option_of_one_letter_is_read_as_text_before_it_is_read_as_a_letter():
    assert answer_named("b", ["b", "a"]) == 0
    assert answer_named("(b)", ["b", "a"]) == 1


def test_options_of_the_same_text_are_told_apart_by_their_letters_only():
    twice = ["a wren", "A wren.", "a stone"]
    assert answer_named("a wren", twice) is None
    assert answer_named("(b)", twice) == 1
    assert argued_for("It flies like a wren.", twice) is None
    assert argued_for("The stone falls.", twice) == 2


ASKED = "Which of these would keep the soup warm for a traveller?"
MEANS = ["a metal cup", "a flask with a vacuum", "a paper bag", "a wide plate"]
# Hand-labelled, written for this test after the forms that the release's rationales have.
SAID = [
    ("A flask with a vacuum loses little heat. Soup stays warm in it.", 1),
    ("Metal cups conduct heat.", 0),
    ("A paper bag does not leak.", None),  # for it, or against it?
    ("A paper bag is not warm, a flask with a vacuum is.", 1),
    ("A traveller needs something light. A paper bag is light.", 2),
    ("(a) A metal cup.\nThis is incorrect, as metal conducts heat.\n(b) A flask with a vacuum.\n"
     "This is correct because a vacuum conducts none.", 1),
    ("(a) is not right. (c) and (d) are wrong. So the answer is (b).", 1),
    ("Metal conducts heat.\nSo option c is correct.\n\n### Question:\nWhat is hot?\n(a) ice", 2),
    ("The paper bag burns.\nTherefore, (d) a wide plate is the best answer.", 3),
    ("The answer is (a). No, wait: a metal cup gets cold. The answer is (d).", 3),
    ("Soup cools. Thus, the answer is a metal cup.", 0),
    ("The metal cup and the paper bag are both cheap.", None),
    ("(a) a metal cup\n(b) a flask with a vacuum\n(c) a paper bag\n(d) a wide", None),
    ("(c) a paper bag is", None),
    ("The answer is (a) or (d).", None),
    ("Heat flows from hot to cold.", None),
    ("The first option is a metal cup. The second option is a flask with a vacuum.", None),
    ("It cannot be a paper bag.", None),
    ("Answer:\nb\nRationale: cups are", 1),
    ("The options are:\n(a) a metal cup\n(b) a flask with a vac", None),
    ("The flask is a vacuum vessel.", 1),  # by words that only this option has
    ("The vacuum is not needed.", None),
    ("The soup is warm.\nComment: I think that the answer is (c).", None),
    ("", None),
]  # fmt: skip
# Labelled in the same way, but beyond the rules: no verdict is given, rather than a wrong one.
HARD = [
    ("Metal cups conduct heat. A flask with a vacuum does not.", 1),
    ("Plates lose heat fast, bags leak, cups burn the hand. One is left.", 1),
    ("Vacuum is the best insulator.", 1),
]


@pytest.mark.parametrize(("text", "label"), SAID)
def test_a_rationale_argues_for_the_option_that_a_reader_would_say(text, label):
    assert argued_for(text, MEANS, ASKED) == label


@pytest.mark.parametrize(("text", "label"), HARD)
def test_what_is_beyond_the_rules_gets_no_verdict(text, label):
    assert label is not None and argued_for(text, MEANS, ASKED) is None


def test_what_the_question_itself_names_is_no_argument():
    options, asked = ["the sun", "the moon"], "Why does the moon shine?"
    assert argued_for("The moon shines at night.", options, asked) is None
    assert argued_for("The moon shines at night.", options) == 1
    assert argued_for("It reflects the light of the sun.", options, asked) == 0
    assert argued_for("The moon shines at night. The answer is the moon.", options, asked) == 1


@pytest.mark.parametrize("asked", ["Which does NOT fly?", "All fly except", "Which isn't a bird?"])
def test_a_mention_decides_nothing_where_the_question_asks_for_what_is_false(asked):
    assert argued_for("A wren is a bird.", ["a wren", "a stone"], asked) is None
    assert argued_for("A wren flies. So the answer is (b).", ["a wren", "a stone"], asked) == 1


def test_the_appended_answer_is_left_out_only_where_it_is_the_gold_one():
    text = "Felt is warm. Thus, the answer is (a) cotton"
    assert without_closing(text, CLOTH, 0) == "Felt is warm."
    assert without_closing(text, CLOTH, 1) == text
    assert argued_for(without_closing(text, CLOTH, 0), CLOTH) == 1
    assert argued_for(text, CLOTH) == 0
    assert without_closing("It is (a). Thus, the answer is (a).", CLOTH, 0).endswith("(a).")


def test_a_teachers_own_words_end_where_it_invents_a_question_or_a_comment():
    said = "Let's think step by step.\nBirds fly.\n"
    for goes_on in ("Question:\nWhat swims?", "\n### Q2. What?", "Question 7\nWhat?", "Frage: Was?",
                    "**Question:** What?", "Comment: Nice!", "# Question\nWhat?"):  # fmt: skip
        assert own(said + goes_on) == "Birds fly."
    for whole in ("The question is: what flies?", "Questions are hard.", "Quite so: it flies."):
        assert own(whole) == whole


def test_the_normal_form_keeps_numbers_apart_and_ends_clauses():
    assert normal("“The 2.5 m’s: (A) isn't\nB) 1,000!”") == "the 2.5 m's : (a) isn't . (b) 1,000 ."
