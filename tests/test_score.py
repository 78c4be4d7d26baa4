"""Scoring: batches, caches and shared passes give the same scores as one option at a time."""

from unittest.mock import Mock

import pytest
import torch
from conftest import weights_of
from tiny import KINDS, make

from tinyllm import prompts
from tinyllm.data import micro
from tinyllm.data.question import Question
from tinyllm.models import load, score
from tinyllm.models.encode import Encoding
from tinyllm.params import Params
from tinyllm.students import predictions

LABELS = {"study": "s", "dataset": "d", "arm": "a", "student": "m", "seed": 0, "split": "test"}


@pytest.fixture(scope="module")
def rows():
    """Questions with 2 to 5 options of different lengths, some with a context."""
    asked = micro.questions(0)["test"][:9]
    words = [word for row in asked for word in row.options]
    questions = []
    for i, row in enumerate(asked):
        options = [" ".join(words[j + i : j + i + 1 + j % 3]) for j in range(2 + i % 4)]
        questions.append(Question(f"q{i}", "A an ." * (i % 2), row.question, options, i % 2))
    return questions


def a_student(kind, task_prefix):
    """A tiny model, or minilm-ed."""
    if kind != "minilm-ed":
        model, _, encoding = make(kind, task_prefix)
        return model.eval(), encoding
    weights_of(kind)
    model, tokenizer = load.load(kind)
    return model.eval(), Encoding.of(model, tokenizer, Params.checked(task_prefix=task_prefix))


@torch.no_grad()
def logits_after(model, encoding, source, written):
    """Next-token logits at each position of `written` after a source, without cache or padding."""
    if encoding.seq2seq:
        first = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
        ids = torch.tensor([first + written])
        out = model(input_ids=torch.tensor([source]), decoder_input_ids=ids)
        return out.logits[0, len(first) - 1 :]
    return model(input_ids=torch.tensor([source + written])).logits[0, len(source) - 1 :]


@pytest.mark.parametrize(
    ("kind", "task_prefix"), [*KINDS, ("minilm-ed", "encoder"), ("minilm-ed", "decoder")]
)
def test_option_scores_equal_scores_computed_one_option_at_a_time(
    kind, task_prefix, rows, monkeypatch
):
    monkeypatch.setattr(score, "BATCH", 5)  # options per forward pass
    model, encoding = a_student(kind, task_prefix)
    end = encoding.tokenizer.eos_token_id
    for scored, row in zip(score.score_options(model, encoding, rows), rows, strict=True):
        source = encoding.source(row, prompts.ANSWER_PREFIX)
        for i, option in enumerate(row.options):
            target = [*encoding.tokens(option), end]
            logits = logits_after(model, encoding, source, target[:-1])
            alone = logits.log_softmax(-1)[range(len(target)), target].sum().item()
            assert scored["scores"][i] == pytest.approx(alone / len(target), abs=1e-4)
            assert scored["tokens"][i] == len(target)
        assert scored["scores"][scored["choice"]] == max(scored["scores"])
        assert (scored["id"], scored["gold"]) == (row.id, row.answer)


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_generated_texts_are_greedy_and_do_not_depend_on_the_batch(kind, task_prefix, rows):
    model, encoding = a_student(kind, task_prefix)
    wanted = {"prefix": prompts.ANSWER_PREFIX, "max_new_tokens": 5}
    together = score.generate(model, encoding, rows, **wanted)
    assert together == [score.generate(model, encoding, [row], **wanted)[0] for row in rows]
    source, written = encoding.source(rows[0], prompts.ANSWER_PREFIX), []
    while len(written) < 5 and written[-1:] != [encoding.tokenizer.eos_token_id]:
        written.append(int(logits_after(model, encoding, source, written)[-1].argmax()))
    assert together[0] == encoding.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_student_writes_no_more_than_its_positions_allow(rows):
    for kind in ("llama", "minilm-ed"):  # both have 512
        model, encoding = a_student(kind, "encoder")
        encoding.tokenizer.eos_token = None  # never stop before the limit
        (text,) = score.generate(model, encoding, rows[:1], "predict: ", max_new_tokens=2000)
        assert 100 < len(encoding.tokens(text)) <= 513


def test_tied_options_are_counted_and_scored_as_chance(rows):
    model, encoding = a_student("t5", "encoder")
    tied = Question("q", "", "Which is it?", ["red", "red", "blue"], 0)
    (scored,) = score.score_options(model, encoding, [tied])
    assert scored["ties"] == (2 if scored["scores"][0] > scored["scores"][2] else 1)
    made = [{"scores": [-1.0, -1.0, -1.0, -2.0], "gold": g, "ties": 3} for g in (0, 2, 3)]
    assert score.accuracy(made) == pytest.approx(2 / 9)


def test_an_empty_output_is_never_an_exact_match(monkeypatch):
    """minilm-ed does not know emoji: such an option is normalized to an empty text."""
    model, encoding = a_student("minilm-ed", "encoder")
    faces = [Question("q", "", "Which face is glad?", ["😀", "😡"], 0)]
    assert encoding.normal("😀") == encoding.normal("") == ""
    monkeypatch.setattr(score, "generate", lambda *_, **__: [""])
    frame = score.predict(model, encoding, faces, max_new_tokens=4)
    assert not frame.exact.any() and frame.ties.tolist() == [2]
    assert score.accuracy(frame.to_dict("records")) == 0.5


def test_prediction_rows_hold_the_chosen_generated_and_named_options(rows, monkeypatch):
    model, encoding = a_student("t5", "encoder")
    gold = [row.gold for row in rows]
    wrong = rows[2].options[(rows[2].answer + 1) % len(rows[2].options)]
    letter = "abcde"[rows[0].answer]
    texts = [f"The answer is ({letter}).", f"  {gold[1].upper()} ", wrong, "none such", *gold[4:]]
    generate = Mock(return_value=texts)
    monkeypatch.setattr(score, "generate", generate)
    frame = score.predict(model, encoding, rows, max_new_tokens=4, in_train={"q3"})
    assert generate.call_args.args[3] == "predict: "
    assert generate.call_args.kwargs == {"max_new_tokens": 4}
    golds = [row.answer for row in rows]
    assert frame.correct.tolist() == [a == b for a, b in zip(frame.choice, golds, strict=True)]
    named = [rows[0].answer, rows[1].answer, rows[2].options.index(wrong), -1]
    assert frame.named.tolist()[:4] == named
    assert frame.extracted.tolist()[:4] == [True, True, False, False]
    assert not frame.exact[0] and frame.exact[4:].all()  # only exact match depends on the format
    assert frame.id[frame.in_train].tolist() == ["q3"]
    assert set(predictions.SCHEMA) <= {*frame, *LABELS}
