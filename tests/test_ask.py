"""Prompting the teachers of a study: results are shared by all studies, each question separate."""

import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from test_store import Echo

from tinyllm import paths, prompts, runs
from tinyllm.data import load as data
from tinyllm.data.question import DataError, Question
from tinyllm.params import SPLITS, Params
from tinyllm.teachers import ask, store
from tinyllm.teachers.base import Completion
from tinyllm.teachers.store import Record

SERVER = "openai:http://h/v1#m"


pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture
def use(monkeypatch):
    """Replaces every teacher by the given one."""

    def use(teacher):
        monkeypatch.setattr(ask, "load_teacher", lambda params, uri: teacher)
        return teacher

    return use


def study(**values):
    given = {"arms": ["finetune"], "limit": {"train": 50, "valid": 8, "test": 8}}
    params = Params.checked(**given | {"teachers": [SERVER]} | values)
    data.save(data.load(params), params)
    return params


def test_a_finished_store_is_reused_by_other_studies_without_calls(use, monkeypatch):
    teacher = use(Echo())
    one, two = study(), study(study="other", alpha=0.5, cleaning=["repair"])
    ask.ask_all(one)
    ask.answer_all(one)
    assert all(runs.finished(*work) for work in ask.work(one))
    monkeypatch.setattr(ask.micro, "prepare", lambda params: pytest.fail("nothing is missing"))
    ask.ask_all(two)
    ask.answer_all(two)
    assert len(teacher.asked) == 50 + 2 * 8 and ask.work(one) == ask.work(two)


@pytest.mark.parametrize("stop", [None, 31])
def test_after_a_correction_only_changed_prompts_are_asked_again(use, stop):
    """Also if the first store was not finished, perhaps since that question always fails."""

    def killed(n):
        if n == stop:
            raise KeyboardInterrupt

    teacher = use(Echo(killed))
    with suppress(KeyboardInterrupt):
        ask.ask_all(study(examples="none"))
    params, splits = study(study="new", examples="none"), data.load(study(study="new"))
    splits["test"][0] = replace(splits["test"][0], question="Which one?")
    splits["train"][3] = replace(splits["train"][3], question="Which one?")
    shutil.rmtree(paths.data(params))
    data.save(splits, params)
    ask.ask_all(params)
    assert len(teacher.asked) == 50 + 1 + (stop is not None)
    assert len(ask.records(params, SERVER)) == 50


def test_different_questions_or_prompt_settings_use_different_folders():
    """Their names are stable: existing studies have their rationales in this one."""
    base = study()
    folders = {ask.Job(base, SERVER).file}
    assert folders.copy().pop().parent.name == "3802c62c6b02"
    changes = ({"examples": "none"}, {"teacher_forcing": False}, {"max_new_tokens": 9},
               {"max_prompt": 99}, {"cleaning": ["repair"]}, {"alpha": [2.0]},
               {"temperature": 0.7})  # fmt: skip
    for change in changes:
        folders.add(ask.Job(base.model_copy(update=change), SERVER).file)
    folders.add(ask.Job(study(study="seed", data_seed=1), SERVER).file)
    assert len(folders) == 7, "cleaning and alpha change nothing"


def test_resumed_sampling_equals_an_uninterrupted_run(use, tmp_path, monkeypatch):
    """No reply is requested twice, even if more or fewer samples are requested later."""

    def drawing(number):
        return study(samples=number, temperature=0.7)

    def killed(n):
        if n in (70, 120):  # in the second sample, and in the third
            raise KeyboardInterrupt

    teacher = use(Echo(killed))
    ask.ask_all(drawing(1))
    before = ask.content(drawing(1), SERVER)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ask.ask_all(drawing(3))
        with pytest.raises(FileNotFoundError):
            ask.content(drawing(3), SERVER)
    ask.ask_all(drawing(3))
    ask.ask_all(drawing(2))
    assert len(teacher.seeds) == 150 + 2 and len(set(teacher.seeds)) == 150
    assert ask.content(drawing(3), SERVER).split("+")[0] == before
    resumed = [job.records() for job in ask.jobs(drawing(3))[:3]]
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "whole"))
    use(Echo())
    ask.ask_all(drawing(3))
    assert resumed == [job.records() for job in ask.jobs(drawing(3))[:3]]
    assert [len(records) for records in resumed] == [50] * 3


def test_students_read_one_sample_per_epoch_or_the_one_that_agrees_with_gold(monkeypatch):
    rows = [Question(f"q{i}", "", "Which flies?", ["a wren", "a cod"], 0) for i in range(4)]
    silent, off, gold, vague = "I do not know.", "It is a cod.", "A wren does.", "It has wings."
    written = {"q0": [off, vague, gold], "q1": [silent, vague, off], "q2": [None, silent, ""]}
    written["q3"] = [gold, off, None]

    def records(params, uri, sample):
        end = "length" if sample == 1 else "stop"
        return [Record("", name, uri, "", texts[sample], end) for name, texts in written.items()]

    monkeypatch.setattr(ask, "records", records)
    monkeypatch.setattr(data, "read", lambda params: {"train": rows})
    params = Params.checked(samples=3, temperature=1.0)
    epochs = [ask.rationales(params, "micro:a", epoch) for epoch in range(3)]
    assert [learned["q0"] for learned in epochs] == [off, vague, gold]
    assert [learned["q1"] for learned in epochs] == [vague, vague, off]
    assert [learned["q3"] for learned in epochs] == [gold, off, gold]
    assert all("q2" not in learned for learned in epochs)
    ends = {"q0": (off, False), "q1": (vague, True), "q2": (silent, False), "q3": (gold, False)}
    assert ask.taken(params, "micro:a") == ends, "what max_new_tokens cut is known"
    agreeing = params.model_copy(update={"learn_sample": "agreeing"})
    assert ask.rationales(agreeing, "micro:a") == {"q0": gold, "q1": vague, "q3": gold}


def test_each_prompt_variant_that_arms_need_is_requested_once(use):
    use(Echo())
    names = ["no-examples", "no-examples+lora", "no-forcing", "shuffled"]  # two share prompts
    params = study(arms=["kd", "tinyllm", *(f"tinyllm:{name}" for name in names)])
    assert len(ask.jobs(params)) == 3 + 2 + 1, "ways, answers to test, scores of train for kd"
    ask.ask_all(params)
    plain, no_examples, no_forcing = (job.records() for job in ask.jobs(params)[:3])
    train = {row.id: row for row in data.read(params)["train"]}
    for record in plain:
        shots = [train[name] for name in record.shots]
        assert len(shots) == 2 and record.id not in record.shots
        assert record.prompt == prompts.teacher_prompt(train[record.id], shots, forcing=True)
    assert {record.shots for record in no_examples} == {()}
    assert all(record.prompt.count("Answer: (") == 2 for record in no_forcing)
    with pytest.raises(FileNotFoundError):
        ask.option_scores(params, SERVER)
    ask.answer_all(params)
    assert ask.option_scores(params, SERVER) == {name: [0.0, -1.0, -2.0, -3.0] for name in train}


def test_identical_questions_each_get_a_rationale_and_an_answer(use, monkeypatch):
    same = [Question(f"q{i}", "", "What changes?", ["rust", "ice"], 0) for i in range(6)]
    monkeypatch.setattr(data, "load", lambda params: dict.fromkeys(SPLITS, same))
    params = study(examples="none", arms=["kd"])
    use(Echo())
    ask.ask_all(params)
    ask.answer_all(params)
    every = [row.id for row in same]
    assert list(ask.rationales(params, SERVER)) == list(ask.option_scores(params, SERVER)) == every
    assert list(ask.answers(params)["id"]) == every


def test_abstentions_are_stored_but_not_used_as_targets(use):
    use(Echo(text=lambda prompt: "I do not know." if "(a) M" in prompt else "So it is. And"))
    params = study()
    ask.ask_all(params)
    stored = ask.records(params, SERVER)
    known = [record.id for record in stored if record.text != "I do not know."]
    assert len(stored) == 50 and 0 < len(known) < 50
    repaired = params.model_copy(update={"cleaning": ["repair"]})
    for how, text in ((params, "So it is. And"), (repaired, "So it is.")):
        assert ask.rationales(how, SERVER) == dict.fromkeys(known, text)


def test_teacher_answers_come_from_option_scores_or_generated_text(use):
    params = study(arms=["kd"])
    use(Echo())
    ask.answer_all(params)
    frame = ask.answers(params)
    assert frame.groupby("shots").size().to_dict() == {"none": 8, "random:2": 8}
    assert (frame.choice == 0).all() and (frame.correct == (frame.gold == 0)).all()
    shots = [name for job in ask._tests(params) for row in job.records() for name in row.shots]
    assert shots and all(name.startswith("train-") for name in shots)

    class Server(Echo):
        settings = {"max_new_tokens": 9}  # noqa: RUF012

        def answer(self, prompts, options):
            for index, texts in enumerate(options):
                cut = f"Let us look at {texts[3]}. It"  # a mere mention is no choice
                text, finish = [("(b)", "stop"), ("Either.", "stop"), (cut, "length")][index % 3]
                yield index, Completion(text, finish)

    served = study(arms=["kd"], max_new_tokens=9)
    use(Server())
    ask.answer_all(served)
    frame = ask.answers(served)
    assert set(frame.choice) == {-1, 1} and set(frame.finish) == {"stop", "length"}
    scores = [tuple(row) for row in ask.option_scores(served, SERVER).values()]
    off = float("-inf")
    assert set(scores) == {(0.0,) * 4, (off, 0.0, off, off)}


def test_a_teacher_that_scores_options_equally_has_no_answer(use):
    class Tied(Echo):
        def answer(self, prompts, options):
            for index, texts in enumerate(options):
                yield index, Completion("", "scored", scores=(-1.0,) * len(texts))

    params = study(arms=["kd"])
    use(Tied())
    ask.answer_all(params)
    frame = ask.answers(params)
    assert (frame.choice == -1).all() and not frame.correct.any()


def test_recorded_teachers_are_not_swapped(monkeypatch):
    row = Question("q", "", "Which?", ["x", "y"], 0)
    monkeypatch.setattr(store.release, "questions", lambda *_: [row])
    monkeypatch.setattr(store.release, "rationales", lambda *_: [("by flan", "by llama")])
    for uri, text in (("release:flan-t5", "by flan"), ("release:llama2", "by llama")):
        assert [r.text for r in store.recorded("obqa", "train", uri)] == [text]


def test_a_manually_edited_store_is_rejected_and_can_be_repaired(use):
    """As the error advises: after deleting the manifest, missing records are requested again."""
    use(Echo())
    params = study()
    (folder,) = ask.ask_all(params).values()
    file, whole = folder / "rationales.jsonl", ask.records(params, SERVER)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    store.finished.cache_clear()  # as in a new process
    with pytest.raises(DataError, match=r"changed since .* delete manifest\.json"):
        ask.records(params, SERVER)
    (folder / runs.MANIFEST).unlink()
    ask.ask_all(params)
    assert {record.id for record in ask.records(params, SERVER)} == {row.id for row in whole}


def test_missing_recorded_rationales_are_stored_as_none(release_mirror):
    llama = "release:llama2"
    params = study(study="t", source="release", dataset="riddle", teachers=[llama], limit={})
    ask.ask_all(params)
    assert len(ask.records(params, llama)) == 3510 == len(ask.rationales(params, llama)) + 21
    assert ask.answers(params).empty, "recorded teachers are not asked"
