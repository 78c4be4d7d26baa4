"""The rationale store: nothing lost, nothing twice, nothing of other parameters."""

import json

import pytest
from filelock import FileLock

from tinyllm import data, paths, prompts, rationales, runs, store, teachers
from tinyllm.params import Params
from tinyllm.teachers import Completion


class Echo:
    """A stand-in for a model (the store is tested here, not the writing): says the last option."""

    revision, settings = "1", {"max_new_tokens": 8}

    def __init__(self, die_after=None):
        self.asked, self.die_after = [], die_after

    def rendered(self, prompt):
        return prompt

    def tokens(self, prompt):
        return len(prompt.split())

    def write(self, prompts):
        for index, prompt in enumerate(prompts):
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            self.asked.append(prompt)
            yield index, Completion(f"About {prompt[-40:]!r}\u2028so.", "stop", (9, 3))


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    params = Params.checked(teacher_batch=8, limit={"train": 50, "valid": 8, "test": 8})
    data.save(data.load(params), paths.study("micro", "micro") / "data", params)
    return params


def use(monkeypatch, teacher):
    monkeypatch.setattr(teachers, "load", lambda params, uri: teacher)
    return teacher


def test_an_interrupted_store_goes_on_and_ends_as_an_uninterrupted_one(params, monkeypatch):
    whole = use(monkeypatch, Echo())
    folder = rationales.collect(params, "micro:a")
    expected = {r.key: r for r in store.read(folder / rationales.FILE)}
    digest = runs.inputs(folder)
    assert len(expected) == len(whole.asked) == 50

    for file in folder.iterdir():
        file.unlink()
    first = use(monkeypatch, Echo(die_after=24))
    with pytest.raises(KeyboardInterrupt):
        rationales.collect(params, "micro:a")
    with pytest.raises(FileNotFoundError):
        runs.inputs(folder)
    with open(folder / rationales.FILE, "a", encoding="utf-8") as out:
        out.write('{"key": "torn, as by a full disk or a kill')
    second = use(monkeypatch, Echo())
    rationales.collect(params, "micro:a")
    assert len(first.asked) == 24 and len(second.asked) == 26
    assert not set(first.asked) & set(second.asked)
    assert {r.key: r for r in store.read(folder / rationales.FILE)} == expected
    assert runs.inputs(folder) == digest


def test_a_finished_store_costs_no_call(params, monkeypatch):
    use(monkeypatch, Echo())
    rationales.collect(params, "micro:a")
    again = use(monkeypatch, Echo())
    rationales.collect(params, "micro:a")
    assert again.asked == []


def test_a_store_begun_with_other_parameters_is_refused_and_named(params, monkeypatch):
    use(monkeypatch, Echo(die_after=8))
    with pytest.raises(KeyboardInterrupt):
        rationales.collect(params, "micro:a")
    other = params.model_copy(update={"max_new_tokens": 99})
    with pytest.raises(runs.StaleRun, match="max_new_tokens: 24 there, 99 asked for"):
        rationales.collect(other, "micro:a")


def test_two_writers_exclude_each_other(params, monkeypatch):
    use(monkeypatch, Echo())
    folder = rationales.folder(params, "micro:a")
    folder.mkdir(parents=True)
    with (
        FileLock(folder / "writer.lock"),
        pytest.raises(RuntimeError, match="another process is writing"),
    ):
        rationales.collect(params, "micro:a")


def test_a_broken_line_in_the_middle_is_named(params, monkeypatch):
    use(monkeypatch, Echo())
    file = rationales.collect(params, "micro:a") / rationales.FILE
    lines = file.read_text(encoding="utf-8").split("\n")
    lines[3] = lines[3][:20]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="line 4: no record"):
        store.read(file)


def test_ablations_have_folders_of_their_own(params):
    names = {
        paths.variant(params.model_copy(update=change))
        for change in (
            {},
            {"examples": "none"},
            {"teacher_forcing": False},
            {"examples": "random:4"},
        )
    }
    assert len(names) == 4 and "default" in names


def test_the_record_holds_the_whole_prompt_and_its_examples(params, monkeypatch):
    use(monkeypatch, Echo())
    folder = rationales.collect(params, "micro:a")
    train = {e.id: e for e in data.examples(data.read(folder.parents[2] / "data")["train"])}
    for record in store.read(folder / rationales.FILE):
        shots = [train[name] for name in record.shots]
        assert len(shots) == 2 and record.id not in record.shots
        expected = prompts.teacher_prompt(train[record.id], shots, forcing=True)
        assert record.prompt == expected
        assert expected.count("Answer: (") == 3


def test_without_forcing_the_gold_answer_is_not_in_the_prompt(params):
    train = data.examples(data.load(params)["train"])
    prompt = prompts.teacher_prompt(train[0], [], forcing=False)
    assert "Answer: (" not in prompt
    assert prompt.endswith("Rationale: Let's think step by step.")


def test_examples_are_drawn_alike_in_any_order_and_never_the_question(params):
    train = data.examples(data.load(params)["train"])
    three = prompts.InContext(train, "random:3", seed=0)
    again = {e.id: prompts.InContext(train, "random:3", seed=0)(e) for e in reversed(train)}
    for example in train:
        shots = three(example)
        assert shots == again[example.id]
        assert len({shot.id for shot in shots} | {example.id}) == 4
    draws = [prompts.InContext(train, "random:1", seed=0)(e)[0].id for e in train]
    assert len(set(draws)) > 15
    assert draws != [prompts.InContext(train, "random:1", seed=1)(e)[0].id for e in train]


@pytest.mark.parametrize(("finish", "text", "cut"), [
    ("stop", "It is a bird.", False), ("stop", 'He said "yes."', False),
    ("recorded", "Sun warms. Thus, the answer is (d) plants", False),
    ("recorded", "Sun warms and. So Thus, the answer is (d) plants", True),
    ("stop", "It is a", True), ("length", "It is a bird.", True), ("recorded", "", False),
])  # fmt: skip
def test_cut_off_means_mid_sentence_or_token_limit(finish, text, cut):
    assert rationales.cut_off(store.Record("", "", "", "", text, finish)) is cut


def test_recorded_rationales_are_stored_with_missing_ones_as_none(
    tmp_path, monkeypatch, release_mirror
):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path))
    params = Params.checked(
        study="t", source="release", dataset="riddle", arms=["finetune"],
        teachers=["release:flan-t5", "release:llama2"],
    )  # fmt: skip
    data.save(data.load(params), paths.study("t", "riddle") / "data", params)
    missing = {}
    for teacher in params.teachers:
        folder = rationales.collect(params, teacher)
        missing[teacher] = runs.read_manifest(folder)["facts"]["missing"]
        records = store.read(folder / rationales.FILE)
        assert len(records) == 3510
        kept = rationales.texts(params, teacher)
        assert len(kept) == 3510 - missing[teacher]
        assert all(text.strip() for text in kept.values())
        line = (folder / rationales.FILE).read_text(encoding="utf-8").split("\n")[0]
        assert json.loads(line)["finish"] == "recorded"
    assert missing == {"release:flan-t5": 12, "release:llama2": 21}


STORY = "Birds fly. Fish do not.\nSo (a) is right.\nQuestion:\nWhat swims?\nOptions:\n(a) a fi"


@pytest.mark.parametrize(("cleaning", "text", "left"), [
    ([], STORY, STORY),
    (["repair"], STORY, "Birds fly. Fish do not.\nSo (a) is right."),
    (["repair"], "Birds fly. Fish do", "Birds fly."),
    (["repair"], "no whole sentence", "no whole sentence"),
    (["repair"], "The Q: it is whole.", "The Q: it is whole."),
    (["repair"], "It flies. Thus, the answer is (a) x", "It flies. Thus, the answer is (a) x"),
    (["drop-cut"], "Birds fly. Fish do", ""),
    (["repair", "drop-cut"], "Birds fly. Fish do", "Birds fly."),
    (["drop-cut"], "Birds fly.", "Birds fly."),
    (["drop-empty"], "Let's think step by step.", ""),
    (["drop-empty"], "Birds fly.", "Birds fly."),
])  # fmt: skip
def test_cleaning_mends_or_drops_and_the_store_keeps_the_original(cleaning, text, left):
    record = store.Record("", "", "", "", text, "recorded")
    example = data.Example("q", "", "Which flies?", ["a robin", "a trout"], 0)
    assert rationales.cleaned(record, example, cleaning) == left
    assert record.text == text


def test_a_pool_of_look_alikes_gives_fewer_examples_and_an_end():
    rows = [data.Example(f"q{i}", "", "Which is right?", ["a", "b"], 0) for i in range(9)]
    other = data.Example("other", "", "Which flies?", ["a", "b"], 0)
    for examples in ("random:2", "similar:2"):
        assert prompts.InContext(rows, examples, seed=0)(rows[0]) == []
        assert prompts.InContext([*rows, other], examples, seed=0)(rows[0]) == [other]
