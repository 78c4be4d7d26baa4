"""Teachers that run here: batches change nothing, chat templates are used, answers are scored."""

import pytest
import torch

from tinyllm import answers, data, micro, models, paths, prompts, teachers
from tinyllm.params import ParameterError, Params


@pytest.fixture(scope="module", params=["a", "b"], ids=["t5", "llama"])
def folder(request, tmp_path_factory):
    """A micro teacher after a few steps, T5-like and Llama-like."""
    return micro.train_teacher(request.param, tmp_path_factory.mktemp("t") / "m", 0, steps=40)


def teacher(folder, batch=8, **changes):
    return teachers.HFTeacher(
        str(folder), max_new_tokens=12, batch=batch, dtype=torch.float32, **changes
    )


@pytest.fixture(scope="module")
def asked():
    train = data.examples(data.load(Params.checked(limit={"train": 30}))["train"])
    shots = [prompts.InContext(train, f"random:{1 + i % 2}", 0)(e) for i, e in enumerate(train)]
    return train, shots


def test_batches_sorted_by_length_write_what_one_prompt_at_a_time_writes(folder, asked):
    texts = [prompts.teacher_prompt(e, s, forcing=True) for e, s in zip(*asked, strict=True)]
    together, alone = teacher(folder), teacher(folder, batch=1)
    said = dict(together.write(texts))
    assert said == {i: next(alone.write([text]))[1] for i, text in enumerate(texts)}
    assert len({each.text for each in said.values()}) >= 3


def test_a_resumed_run_forms_the_batches_that_were_still_to_come(folder):
    one = teacher(folder, batch=4)
    rows = [[1] * (3 + i % 7) + [i] for i in range(30)]
    whole = [[rows[i] for i in at] for at in one._batches(rows)]
    assert [len(batch) for batch in whole] == [2] + [4] * 7
    assert [len(r) for b in whole for r in b] == sorted(map(len, rows), reverse=True)
    left = [row for batch in whole[3:] for row in batch]
    assert [[left[i] for i in at] for at in one._batches(left)] == whole[3:]


def test_answers_are_the_options_log_probabilities_each_computed_by_itself(folder, asked):
    one = teacher(folder)
    train, shots = asked
    texts = [prompts.answer_prompt(e, s) for e, s in zip(train, shots, strict=True)][:6]
    said = dict(one.answer(texts, [e.options for e in train[:6]]))
    tokenizer = one.tokenizer
    for i, example in enumerate(train[:6]):
        for option, score in zip(example.options, said[i].scores, strict=True):
            target = tokenizer(option, add_special_tokens=False).input_ids
            if one.seq2seq:
                ids = torch.tensor([tokenizer(texts[i]).input_ids])
                out = one.model(input_ids=ids, labels=torch.tensor([target]))
                expected = -out.loss.item()
            else:
                read = tokenizer(texts[i]).input_ids
                logits = one.model(torch.tensor([read + target])).logits[0, len(read) - 1 : -1]
                each = torch.log_softmax(logits, -1)[range(len(target)), target]
                expected = each.mean().item()
            assert score == pytest.approx(expected, abs=1e-4)
        best = max(range(4), key=said[i].scores.__getitem__)
        assert said[i].text == example.options[best] and said[i].finish == "scored"


def test_chat_models_read_the_prompt_in_their_template(tmp_path):
    folder = micro.student("llama", tmp_path / "m", 0)
    plain = teacher(folder)
    tokenizer = plain.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}Question: {{ m['content'] }}{% endfor %} Answer:"
    )
    tokenizer.save_pretrained(folder)
    chat = teacher(folder)
    assert plain.rendered("Which robin ?") == "Which robin ?"
    assert chat.rendered("Which robin ?") == "Question: Which robin ? Answer:"
    assert chat.tokens("Which robin ?") == plain.tokens("Which robin ?") + 2


def test_device_map_places_the_weights_as_from_pretrained_does(folder):
    model, _ = models.load(str(folder), device_map="auto")
    assert next(model.parameters()).device == torch.device("cpu")
    plain, _ = models.load(str(folder))
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_out_of_memory_names_the_parameter(folder, monkeypatch):
    one = teacher(folder)

    def full(**_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(one.model, "generate", full)
    with pytest.raises(ParameterError, match="teacher_batch: 8: does not fit"):
        dict(one.write(["Which robin ?"]))


def test_answers_are_stored_once_and_tabulated_with_intervals(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    params = Params.checked(
        arms=["finetune"], teachers=[f"hf:{folder}"], limit={"train": 20, "valid": 2, "test": 16}
    )
    data.save(data.load(params), paths.study("micro", "micro") / "data", params)
    answers.collect_all(params)
    table = answers.accuracy(answers.predictions(params))
    assert table.n.tolist() == [16, 16] and (table.chance == 25).all()
    assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()
    monkeypatch.setattr(teachers, "load", lambda *_: pytest.fail("a warm store costs no call"))
    answers.collect_all(params)
    with pytest.raises(FileNotFoundError, match="not finished"):
        answers.option_scores(params, params.teachers[0])


def test_recorded_teachers_are_not_asked_and_say_why():
    params = Params.checked(
        study="t", source="release", dataset="obqa", teachers=["release:llama2"], arms=["finetune"]
    )
    assert answers.askable(params) == []
    assert answers.predictions(params).empty
    assert answers.accuracy(answers.predictions(params)).empty
    with pytest.raises(ParameterError, match="recorded and gives no option scores"):
        answers.option_scores(params, "release:llama2")
