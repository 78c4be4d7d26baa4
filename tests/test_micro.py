"""The micro world: answers follow only from an entity's kind; the seed determines everything."""

from collections import Counter
from itertools import chain

import pytest

from tinyllm import prompts
from tinyllm.data import micro
from tinyllm.models import micro as models
from tinyllm.teachers import micro as teachers


@pytest.fixture(scope="module", params=[0, 1])
def seed(request):
    return request.param


@pytest.fixture(scope="module")
def splits(seed):
    return micro.questions(seed)


def test_test_pairs_are_unseen_and_majority_answers_score_below_half(splits):
    pairs = {split: {micro.pair(row) for row in rows} for split, rows in splits.items()}
    assert len(set().union(*pairs.values())) == sum(map(len, pairs.values()))
    assert {entity for entity, _ in pairs["test"]} <= {entity for entity, _ in pairs["train"]}
    golds = Counter((micro.pair(row)[1], row.gold) for row in splits["train"])
    right = 0  # using the most frequent training answer for each property
    for row in splits["test"]:
        about = micro.pair(row)[1]
        right += row.gold == max(row.options, key=lambda option: golds[about, option])
    assert right / len(splits["test"]) < 0.5


def test_questions_have_one_correct_option_balanced_letters_and_no_repeats(seed, splits):
    world = micro.world(seed)
    for split, rows in splits.items():
        assert len(rows) == micro.ROWS[split] == len({row.id for row in rows})
        assert len({(row.question, *row.options) for row in rows}) == len(rows)
        for row in rows:
            entity, attribute = micro.pair(row)
            true = world[micro.KIND[entity]][attribute]
            right = [i for i, option in enumerate(row.options) if option == true]
            assert right == [row.answer] and len(set(row.options)) == micro.OPTIONS
        counts = Counter(row.answer for row in rows).values()
        assert max(counts) - min(counts) <= 1


def test_prompts_and_texts_survive_tokenization_without_unknown_tokens(splits):
    words, train = models.tokenizer(), splits["train"]
    for row in chain(*(rows[:40] for rows in splits.values())):
        texts = [prompts.ANSWER_PREFIX + prompts.student_question(row), *row.options]
        texts += [prompts.teacher_prompt(row, train[1:3], forcing=True)]
        texts += [prompts.answer_prompt(row, train[1:3])]
        texts += [prompts.rationale_prefix(i) for i in range(5)]
        for text in [*texts, micro.reference_rationale(row), micro.ABSTAINS]:
            ids = words(text).input_ids
            assert words.unk_token_id not in ids, text
            assert words.decode(ids, skip_special_tokens=True) == " ".join(text.split())


def test_teachers_know_disjoint_halves_and_abstain_on_the_other_half():
    a, b = micro.known("a"), micro.known("b")
    assert a | b == set(micro.KIND) and not a & b
    for row in micro.questions(0)["train"][:100]:
        entity, _ = micro.pair(row)
        rationale = micro.reference_rationale(row)
        words = rationale.strip(".").split()
        assert micro.KIND[entity] in words
        assert entity not in words and row.gold not in words
        written = {micro.teacher_rationale(letter, row) for letter in "ab"}
        assert written == {rationale, micro.ABSTAINS}


@pytest.mark.parametrize("letter", ["a", "b"])
def test_teacher_training_uses_only_known_facts_and_no_test_questions(letter):
    test = {(row.question, *sorted(row.options)) for row in micro.questions(0)["test"]}
    corpus = teachers.teacher_corpus(letter, 0, 16, alone=5)
    for prompt, text in chain(*(next(corpus) for _ in range(20))):
        last = prompt[prompt.rindex("Question: ") + 10 :].split("\n")
        options = [line.split(" ", 1)[1] for line in last[2:6]]
        assert (last[0], *sorted(options)) not in test
        known = last[0].split()[4] in micro.known(letter)
        if prompt.endswith("Answer:"):
            assert known and text in options
        else:
            assert text.startswith("It is") if known else text == micro.ABSTAINS
