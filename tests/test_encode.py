"""Student inputs: only context is ever truncated, and limits are checked before training."""

import re
from dataclasses import replace

import pytest
from tiny import KINDS, make, questions
from transformers import AutoTokenizer

from tinyllm import paths, prompts
from tinyllm.data import release
from tinyllm.data.question import Question
from tinyllm.models import load
from tinyllm.models.encode import Encoding
from tinyllm.params import DATASETS, SPLITS, ParameterError, Params

PREFIXES = ["predict: ", "rationale: "]


@pytest.fixture(scope="module")
def minilm(minilm_file):
    """minilm-ed and its tokenizer, which replaces FLAN-T5's (available only from a hub)."""
    return load.load("minilm-ed")


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_truncation_cuts_only_the_context(kind, task_prefix):
    _, tokenizer, encoding = make(kind, task_prefix)
    row = questions()[0]
    bare = encoding.source(row, "predict: ")
    long = replace(row, context="robin " * 250 + "heron " * 250)
    cut = encoding.source(long, "predict: ")
    assert len(cut) == encoding.max_input and encoding.cut_inputs == {(row.id, long.key())}
    shown = tokenizer.decode(cut)
    assert tokenizer.decode(encoding.tokens(prompts.student_question(row))) in shown
    robin, heron = encoding.tokens("robin heron")
    assert heron not in cut
    assert [i for i in cut if i != robin] == [i for i in bare if i != robin]


def test_cut_inputs_with_equal_ids_in_two_splits_are_counted_apart():
    _, _, encoding = make("t5")
    for row in questions()[:2]:
        encoding.source(replace(row, id="row-1", context="robin " * 500), "predict: ")
    assert len(encoding.cut_inputs) == 2


@pytest.mark.slow
def test_byte_level_inputs_keep_spaces_between_context_question_and_target(smollm2_file):
    folder, name = smollm2_file.parent, smollm2_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)  # takes 20 s
    row = Question("q", "It was given for two weeks.", "Is the drug safe?", ["yes", "no"], 0)
    for task_prefix in ("encoder", "decoder"):
        encoding = Encoding(tokenizer, False, None, task_prefix, 200, 20)
        source = encoding.source(row, "predict: ")
        text = tokenizer.decode(source + encoding.tokens(row.gold))
        assert re.search(r"weeks\.\s+Is the drug safe\?", text) and "predict: " in text
        assert re.search(r"no\s+(predict: )?yes$", text)


def test_overlong_inputs_and_targets_are_counted_and_the_advice_works():
    _, tokenizer, encoding = make("t5", max_target=4)
    need = max(len(encoding.source(row, "rationale: ")) for row in questions())
    encoding.max_input = need - 1
    with pytest.raises(ParameterError, match=rf"max_input: {need - 1}: .*of 24 .* {need}$"):
        encoding.check(questions(), PREFIXES)
    encoding.max_input = need
    assert encoding.check(questions(), PREFIXES) == {"questions": 24, "unknown": 0, "tied": 0}
    assert encoding.target("It is a", "q")[-1] == tokenizer.eos_token_id
    assert not encoding.cut_targets
    for text in ("It is a bird", "It is a bird ."):  # cut: no end token
        assert encoding.target(text, "q") == encoding.tokens(text)[:4]
    assert encoding.cut_targets == {"q"}


@pytest.mark.parametrize("name", ["max_input", "max_target"])
def test_limits_beyond_the_model_positions_are_rejected_with_working_advice(minilm, name):
    row = replace(questions()[0], question="robin " * 300 + "?")
    values = {"task_prefix": "decoder", "max_input": 400, "max_target": 60, name: 700}
    with pytest.raises(ParameterError, match=rf"{name}: 700: .* 512 tokens") as error:
        Encoding.of(*minilm, Params.checked(**values)).check([row], PREFIXES)
    values[name] = int(re.search(rf"{name} may be at most (\d+)", str(error.value))[1])
    Encoding.of(*minilm, Params.checked(**values)).check([row], PREFIXES)


def test_an_option_too_long_for_a_decoder_only_student_is_rejected():
    """Options are scored whole, so they need positions as targets do."""
    _, _, encoding = make("llama", max_input=300)
    row = replace(questions()[0], options=["red", "blue " * 300])
    with pytest.raises(ParameterError, match=r"max_input . the longest option: 6"):
        encoding.check([row], PREFIXES)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_paper_settings_fit_every_question_of_the_release(dataset, minilm, release_mirror):
    params = Params.from_yaml(paths.ROOT / "params" / "paper" / f"{dataset}.yaml")
    encoding = Encoding(minilm[1], True, 0, "encoder", params.max_input, params.max_target)
    for split in SPLITS:
        encoding.check(release.questions(dataset, split), PREFIXES)
