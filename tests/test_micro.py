"""The micro world: nothing to be had but through the kinds, and the same from the same seed."""

import itertools
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm import micro, prompts

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module", params=[0, 1])
def rows(request):
    return request.param, micro.questions(request.param)


def test_no_pair_of_entity_and_attribute_stands_in_two_splits(rows):
    pairs = {split: {micro.pair(row) for row in rows[1][split]} for split in SPLITS}
    assert not pairs["train"] & pairs["test"]
    assert not pairs["train"] & pairs["valid"]
    assert not pairs["valid"] & pairs["test"]
    entities = {split: {entity for entity, _ in pairs[split]} for split in SPLITS}
    assert entities["test"] <= entities["train"]


def test_there_are_enough_questions_none_twice(rows):
    for split, least in zip(SPLITS, (1000, 150, 500), strict=True):
        here = rows[1][split]
        assert len(here) >= least
        assert len({(row.question, *row.options) for row in here}) == len(here)
        assert len({row.id for row in here}) == len(here)


def test_exactly_one_option_is_right(rows):
    seed, splits = rows
    world = micro.world(seed)
    for row in itertools.chain(*splits.values()):
        assert [i for i, o in enumerate(row.options) if o == world.of(*micro.pair(row))] == [
            row.answer
        ]
        assert len(set(row.options)) == micro.OPTIONS


def test_gold_letters_are_balanced(rows):
    for split in SPLITS:
        counts = Counter(row.answer for row in rows[1][split])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_answers_of_train_do_not_give_the_answers_of_test(rows):
    """Per attribute, the commonest value in train is right on test no oftener than by a margin."""
    splits = rows[1]
    commonest = {}
    for attribute in micro.ATTRIBUTES:
        golds = [r.options[r.answer] for r in splits["train"] if micro.pair(r)[1] == attribute]
        commonest[attribute] = Counter(golds)
    right = [
        max(row.options, key=lambda o, row=row: commonest[micro.pair(row)[1]][o])
        == row.options[row.answer]
        for row in splits["test"]
    ]
    assert sum(right) / len(right) < 0.5


def test_the_same_seed_gives_the_same_world_and_another_another():
    assert micro.questions(0) == micro.questions(0)
    assert micro.questions(0)["train"] != micro.questions(1)["train"]


def test_every_prompt_and_text_is_in_the_vocabulary_and_comes_back(rows):
    seed, splits = rows
    words = micro.tokenizer()
    train = splits["train"]
    for row in itertools.chain(*(here[:60] for here in splits.values())):
        texts = [
            prompts.ANSWER_PREFIX + prompts.student_question(row),
            prompts.teacher_prompt(row, train[1:3], forcing=True),
            prompts.answer_prompt(row, train[1:3]),
            *(prompts.rationale_prefix(i) for i in range(5)),
            micro.reference_rationale(row, seed),
            *row.options,
        ]
        for text in texts:
            ids = words(text).input_ids
            assert words.unk_token_id not in ids, text
            assert words.decode(ids, skip_special_tokens=True) == " ".join(text.split())


def test_rationales_name_the_kind_and_never_the_entity(rows):
    seed, splits = rows
    for row in splits["train"][:100]:
        entity, _ = micro.pair(row)
        text = micro.reference_rationale(row, seed)
        assert micro.world(seed).kind[entity][0] in text
        assert entity not in text.split()
        assert row.options[row.answer] in text


def test_teachers_know_parts_that_make_a_whole():
    a, b = micro.known("a"), micro.known("b")
    every = set(micro.world(0).kind)
    assert a | b == every and a & b and a - b and b - a
    with pytest.raises(ValueError, match="micro:c is no teacher"):
        micro.known("c")


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_teacher_reads_only_of_its_entities_and_never_a_test_question(letter):
    test = {(row.question, *sorted(row.options)) for row in micro.questions(0)["test"]}
    unknown = set(micro.world(0).kind) - micro.known(letter)
    corpus = micro.teacher_corpus(letter, 0, 16, alone=5)
    for step in range(30):
        for prompt, text in next(corpus):
            words = prompt.replace("?", " ").split()
            assert not unknown & set(words)
            assert prompt.count("Question:") == 1 or step >= 5
            answers = prompt.endswith("Answer:")
            assert f") {text}\n" in prompt if answers else text.startswith("It is")
            last = prompt[prompt.rindex("Question: ") + 10 :].split("\n")
            options = [line.split(" ", 1)[1] for line in last[2:6]]
            assert (last[0], *sorted(options)) not in test


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_teacher_learns_saves_and_writes(tmp_path, letter):
    losses = []
    micro.train_teacher(
        letter, tmp_path, 0, steps=12, progress=lambda step, loss: losses.append(loss)
    )
    assert len(losses) == 12 and losses[-1] < losses[0]
    auto = AutoModelForSeq2SeqLM if letter == "a" else AutoModelForCausalLM
    model, words = auto.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([words("Question: Which", add_special_tokens=False).input_ids])
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 1
