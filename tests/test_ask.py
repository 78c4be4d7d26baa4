"""Asking all teachers of a study: once for all studies, and each question by itself."""

import pandas as pd
import pytest
from filelock import FileLock
from test_store import Echo

from tinyllm import prompts, runs
from tinyllm.data import load as data
from tinyllm.params import ParameterError, Params
from tinyllm.teachers import ask, store
from tinyllm.teachers.base import Completion
from tinyllm.teachers.openai import ServerTeacher

SERVER = "openai:http://h/v1#m"


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))


@pytest.fixture
def use(monkeypatch):
    def use(teacher):
        monkeypatch.setattr(ask, "load_teacher", lambda params, uri: teacher)
        return teacher

    return use


def study(**values):
    given = {"arms": ["finetune"], "limit": {"train": 50, "valid": 8, "test": 8}}
    params = Params.checked(**given | {"teachers": [SERVER]} | values)
    data.save(data.load(params), params)
    return params


def test_a_finished_store_costs_no_call_in_any_study(use, monkeypatch):
    first = use(Echo())
    one, two = study(), study(study="other", alpha=0.5, cleaning=["repair"])
    ask.ask_all(one)
    ask.answer_all(one)
    assert len(first.asked) == 50 + 2 * 8
    monkeypatch.setattr(ask.micro, "prepare", lambda params: pytest.fail("nothing is missing"))
    ask.ask_all(two)
    ask.answer_all(two)
    assert len(first.asked) == 50 + 2 * 8 and ask.work(one) == ask.work(two)
    assert all(runs.state(folder, spec) == "finished" for folder, spec in ask.work(one))
    assert ask.content(one, SERVER) == ask.content(two, SERVER)


def test_other_questions_sizes_or_prompts_have_other_folders(use):
    base = study()
    folders = {ask.Job(base, SERVER).file}
    changes = ({"examples": "none"}, {"teacher_forcing": False}, {"max_new_tokens": 9},
               {"max_prompt": 99}, {"cleaning": ["repair"]}, {"alpha": [2.0]})  # fmt: skip
    for change in changes:
        folders.add(ask.Job(base.model_copy(update=change), SERVER).file)
    folders.add(ask.Job(study(study="seed", data_seed=1), SERVER).file)
    assert len(folders) == 6
    with pytest.raises(FileNotFoundError, match="not finished"):
        ask.work(base.model_copy(update={"study": "absent"}))


def test_every_way_that_an_arm_needs_is_asked(use):
    use(Echo())
    params = study(arms=["tinyllm", "tinyllm:no-examples", "tinyllm:no-forcing", "kd"])
    ask.ask_all(params)
    plain, no_examples, no_forcing, *_ = (job.records() for job in ask.jobs(params)[:3])
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
    scores = ask.option_scores(params, SERVER)
    assert scores == {name: [0.0, -1.0, -2.0, -3.0] for name in train}
    assert ask.answer_content(params, SERVER)


@pytest.mark.parametrize("examples", ["none", "similar:2"])
def test_equal_questions_each_have_a_rationale_and_an_answer(use, tmp_path, examples):
    rows = [{"id": f"q{i}", "question": "Which is a chemical change?", "options": ["rust", "ice"],
             "answer": i % 2} for i in range(6)]  # fmt: skip
    frame = pd.DataFrame(rows)
    for split in ("train", "valid", "test"):
        frame.to_json(tmp_path / f"my_{split}.jsonl", orient="records", lines=True)
    params = study(
        dataset="my", source=f"file:{tmp_path}/my_{{split}}.jsonl", examples=examples, limit={},
        arms=["kd"],
    )  # fmt: skip
    use(Echo())
    ask.ask_all(params)
    ask.answer_all(params)
    assert sorted(ask.rationales(params, SERVER)) == [f"q{i}" for i in range(6)]
    assert sorted(ask.option_scores(params, SERVER)) == [f"q{i}" for i in range(6)]
    assert len(ask.answers(params)) == 6 * len({"none", examples})


def test_abstentions_stay_in_the_store_and_teach_nothing(use):
    use(Echo(text=lambda prompt: "I do not know." if "(a) M" in prompt else "So it is. And"))
    params = study()
    ask.ask_all(params)
    texts = {record.id: record.text for record in ask.records(params, SERVER)}
    known = [name for name, text in texts.items() if text != "I do not know."]
    assert len(texts) == 50 and 0 < len(known) < 50
    assert ask.rationales(params, SERVER) == dict.fromkeys(known, "So it is. And")
    repaired = params.model_copy(update={"cleaning": ["repair"]})
    assert ask.rationales(repaired, SERVER) == dict.fromkeys(known, "So it is.")


def test_answers_are_tabulated_by_score_or_by_what_is_written(use):
    params = study(arms=["kd"])
    use(Echo())
    ask.answer_all(params)
    frame = ask.answers(params)
    assert frame.groupby("shots").size().to_dict() == {"none": 8, "random:2": 8}
    assert (frame.choice == 0).all() and (frame.correct == (frame.gold == 0)).all()

    class Server(Echo):
        def answer(self, prompts, options):
            for index, _ in enumerate(options):
                yield index, Completion("(b)" if index % 2 else "Either.", "stop")

    served = study(arms=["kd"], max_new_tokens=9)
    use(Server())
    ask.answer_all(served)
    assert set(ask.answers(served).choice) == {-1, 1}
    scores = [tuple(row) for row in ask.option_scores(served, SERVER).values()]
    off = float("-inf")
    assert set(scores) == {(0.0,) * 4, (off, 0.0, off, off)}


def test_two_writers_exclude_each_other(use):
    use(Echo())
    params = study()
    folder = ask.Job(params, SERVER).file.parent
    folder.mkdir(parents=True)
    with (
        FileLock(folder / "writer.lock"),
        pytest.raises(RuntimeError, match="another process is writing"),
    ):
        ask.ask_all(params)


def test_a_teachers_uri_gives_the_teacher_and_recorded_ones_are_not_asked():
    params = Params.checked(
        study="t", source="release", dataset="obqa", teachers=["release:llama2"], arms=["finetune"]
    )
    assert isinstance(ask.load_teacher(params, SERVER), ServerTeacher)
    assert ask.askable(params) == [] and ask.answers(params).empty
    with pytest.raises(ValueError, match="recorded and cannot be asked"):
        ask.load_teacher(params, "release:llama2")
    with pytest.raises(ParameterError, match="recorded and gives no option scores"):
        ask.option_scores(params, "release:llama2")


def test_recorded_rationales_are_stored_with_missing_ones_as_none(release_mirror):
    teachers = ["release:flan-t5", "release:llama2"]
    params = study(study="t", source="release", dataset="riddle", teachers=teachers, limit={})
    folders = ask.ask_all(params)
    missing = []
    for teacher in teachers:
        records = ask.records(params, teacher)
        assert len(records) == 3510 and {r.finish for r in records} == {"recorded"}
        missing.append(sum(record.text is None for record in records))
        kept = ask.rationales(params, teacher)
        assert len(kept) == 3510 - missing[-1] and all(text.strip() for text in kept.values())
        assert runs.read_manifest(folders[teacher])["facts"]["refused"] == 0
    assert missing == [12, 21]
    few = study(study="few", source="release", dataset="riddle", teachers=teachers)
    ask.ask_all(few)
    ids = [record.id for record in ask.records(few, "release:llama2")]
    assert ids == [row.id for row in data.read(few)["train"]] and len(ids) == 50
    assert store.recorded("riddle", "test", "release:llama2")
