"""Local teachers: results do not depend on batches, chat templates are used, answers scored."""

import pytest
import torch

from tinyllm import prompts
from tinyllm.data import micro as world
from tinyllm.models import micro as models
from tinyllm.params import ParameterError, Params
from tinyllm.teachers import micro, store
from tinyllm.teachers.hf import Draw, HFTeacher


@pytest.fixture(scope="module", params=["t5", "llama"])
def folder(request, tmp_path_factory):
    """An untrained teacher, T5-like or Llama-like; its text differs from prompt to prompt."""
    folder = tmp_path_factory.mktemp("t") / "m"
    models.save(models.untrained(request.param, 0), request.param, folder)
    return folder


def teacher(folder, **changes):
    values = {"max_new_tokens": 12, "batch": 8, "dtype": torch.float32}
    return HFTeacher(str(folder), **values | changes)


@pytest.fixture(scope="module")
def asked():
    """30 questions, and prompts for rationales with one or two in-context examples."""
    rows = world.questions(0)["train"][:30]
    shots = [prompts.in_context(row, rows, f"random:{1 + i % 2}", 0) for i, row in enumerate(rows)]
    pairs = zip(rows, shots, strict=True)
    return rows, [prompts.teacher_prompt(row, few, forcing=True) for row, few in pairs]


def test_sorted_batches_give_the_same_texts_as_single_prompts(folder, asked):
    _, texts = asked
    together, alone = teacher(folder), teacher(folder, batch=1)
    written = dict(together.write(texts))
    assert written == {i: next(alone.write([text]))[1] for i, text in enumerate(texts)}
    assert len({reply.text for reply in written.values()}) >= 2


def test_sampled_texts_depend_on_the_seed_and_not_on_the_batch(folder, asked):
    _, texts = asked
    seeds = [7 * i for i in range(30)]
    together, alone = (teacher(folder, batch=size, temperature=0.7) for size in (8, 1))
    written = dict(together.write(texts, seeds))
    pairs = enumerate(zip(texts, seeds, strict=True))
    assert written == {i: next(alone.write([text], [seed]))[1] for i, (text, seed) in pairs}
    others = dict(together.write(texts, [seed + 1 for seed in seeds]))
    assert sum(others[i].text != written[i].text for i in written) > 20
    coldest = teacher(folder, temperature=1e-5)
    assert dict(coldest.write(texts, seeds)) == dict(teacher(folder).write(texts))


def test_sampled_token_frequencies_match_the_temperature():
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf]).expand(20_000, 4)
    draw = Draw(range(20_000), 2, 2.0)
    for _ in range(2):
        shares = draw(None, logits).argmax(-1).bincount(minlength=4) / 20_000
        torch.testing.assert_close(shares, torch.softmax(logits[0] / 2, -1), atol=0.02, rtol=0)
    draw = Draw([0, 0], 1, 1.0)
    draw.draws = iter([torch.tensor([0.0, 1 - 1e-6])])  # extremes: no token with p = 0
    assert draw(None, logits[:2].roll(1, -1)).argmax(-1).tolist() == [1, 3]


def test_option_scores_equal_separately_computed_log_probabilities(folder, asked):
    one, rows = teacher(folder), asked[0][:6]
    texts = [prompts.answer_prompt(row, [rows[i - 1]]) for i, row in enumerate(rows)]
    replies = dict(one.answer(texts, [row.options for row in rows]))
    for i, row in enumerate(rows):
        for option, scored in zip(row.options, replies[i].scores, strict=True):
            target = one.tokenizer(option, add_special_tokens=False).input_ids
            read = one.tokenizer(texts[i]).input_ids
            if one.seq2seq:
                labels = torch.tensor([target])
                expected = -one.model(input_ids=torch.tensor([read]), labels=labels).loss.item()
            else:
                logits = one.model(torch.tensor([read + target])).logits[0, len(read) - 1 : -1]
                expected = torch.log_softmax(logits, -1)[range(len(target)), target].mean().item()
            assert scored == pytest.approx(expected, abs=1e-4)
        best = max(range(4), key=replies[i].scores.__getitem__)
        assert replies[i].text == row.options[best] and replies[i].finish == "scored"


def test_chat_models_receive_the_prompt_in_their_chat_template(tmp_path):
    models.save(models.untrained("llama", 0), "llama", tmp_path / "m")
    plain = teacher(tmp_path / "m")
    template = "{% for m in messages %}Question: {{ m['content'] }}{% endfor %} Answer:"
    plain.tokenizer.chat_template = template
    plain.tokenizer.save_pretrained(tmp_path / "m")
    plain.tokenizer.chat_template = None
    chat = teacher(tmp_path / "m")
    assert plain.rendered("Which robin ?") == "Which robin ?"
    assert chat.rendered("Which robin ?") == "Question: Which robin ? Answer:"
    assert chat.tokens("Which robin ?") == plain.tokens("Which robin ?") + 2


def test_record_keys_depend_on_precision_and_temperature(folder):
    variants = [{}, {"dtype": torch.bfloat16}, {"temperature": 0.7}, {"temperature": 1.0}]
    teachers = [teacher(folder, **changes) for changes in variants]
    prompt = prompts.Fitted("Which?", ())
    assert len({store.request(one, "t", "q", prompt).key for one in teachers}) == 4
    settings = {"max_new_tokens": 12, "do_sample": False, "dtype": "torch.float32"}
    assert teachers[0].settings == settings, "stored keys hold them"


def test_max_prompt_beyond_the_model_length_is_rejected_at_loading(folder):
    if teacher(folder).seq2seq:
        assert teacher(folder, max_prompt=9999)  # T5's positions are relative
    else:
        with pytest.raises(ParameterError, match=r"512 tokens.*max_prompt to at most 500"):
            teacher(folder, max_prompt=501)
        assert teacher(folder, max_prompt=500)


def test_micro_teachers_are_shared_by_all_studies(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    work = [micro.work(Params.checked(study=name), "a") for name in ("one", "two")]
    assert work[0] == work[1] and work[0][0].parent == tmp_path / "teachers" / "micro-a"
    assert micro.work(Params.checked(data_seed=1), "a")[0] != work[0][0]
