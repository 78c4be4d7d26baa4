"""Questions: the record, loading and storing them, the hub's rows."""

from __future__ import annotations

from dataclasses import replace

import datasets
import pandas as pd
import pytest

from tinyllm import paths, runs
from tinyllm.data import hub, load, question, release
from tinyllm.data.question import DataError, Question
from tinyllm.params import SPLITS, Params


def params(source: str, **changes) -> Params:
    values = {"source": source, "teachers": [], "arms": ["finetune"], "dataset": "mine", **changes}
    return Params.checked(**values)


def same(*questions: Question) -> question.Splits:
    """All splits with these questions."""
    return {split: list(questions) for split in SPLITS}


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("", ["x", "y"], "the question is empty"),
        ("q", ["x"], r"1 option\(s\); allowed are 2 to 26"),
        ("q", [str(n) for n in range(27)], r"27 option\(s\)"),
        ("q", ["x", ""], "option 2 is empty"),
        ("q", ["x", "x"], "equal to the gold one"),
    ],
)
def test_what_cannot_be_a_question_says_why(text, options, reason):
    with pytest.raises(ValueError, match=reason):
        Question("1", "", text, options, 0).checked()


def test_baselines_of_changing_options_are_by_letter_and_chosen_on_train():
    given = same(Question("1", "", "p", ["x", "y"], 1), Question("2", "", "q", ["u", "v", "w"], 1))
    given["test"] = [Question(str(n), "", "r", ["a", "b", "c", "d"], n % 4) for n in range(8)]
    table = question.baselines(given).set_index("split")
    assert set(table["always"]) == {"(b)"}
    assert table.loc["train", "chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert table.loc["train", "majority"] == 1
    assert table.loc["test", "majority"] == 0.25


def test_questions_that_are_in_train_are_compared_by_wording():
    given = same(Question("t", "", "Which is red?", ["a rose", "a lily"], 0))
    given["test"] = [
        Question("1", "", "which is  RED", ["a rose", "a stone"], 0),
        Question("2", "In a garden.", "Which is red?", ["a ruby", "a pearl"], 0),
        Question("3", "", "Which is green?", ["a rose", "a leaf"], 1),
    ]
    assert question.in_train(given) == {"1"}


def test_subsamples_are_deterministic_ordered_and_nested(release_mirror):
    def ids(limit: int, seed: int = 0) -> list[str]:
        given = params("release", dataset="arc", limit={"train": limit}, data_seed=seed)
        return [row.id for row in load.load(given)["train"]]

    everything = [row.id for row in release.questions("arc", "train")]
    ten, twenty = ids(10), ids(20)
    assert len(ten) == 10 and ids(10) == ten and set(ten) < set(twenty)
    assert twenty == [name for name in everything if name in set(twenty)]
    assert ids(10, seed=1) != ten
    assert ids(10**6) == everything


def test_the_questions_of_a_limit_stay_the_same_over_versions(release_mirror):
    """The stored studies were trained on these."""
    given = params("release", dataset="obqa", limit={"train": 3, "test": 3}, data_seed=0)
    splits = load.load(given)
    ids = {"train": ["8-203", "1894", "14-1386"], "test": ["7-902", "9-686", "936"]}
    assert {split: [row.id for row in splits[split]] for split in ids} == ids


def test_an_id_that_occurs_twice_in_a_split_is_refused(monkeypatch):
    row = Question("1", "", "p", ["x", "y"], 1)
    splits = {"train": [row], "valid": [row, replace(row, question="q")], "test": [row]}
    monkeypatch.setattr(hub, "questions", lambda dataset: splits)
    with pytest.raises(DataError, match="arc, valid: 2 rows have the id '1'"):
        load.load(params("hub", dataset="arc"))


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Parameters of a user's file, whose questions are stored."""
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    line = '{"question": "p\u2028q", "options": ["x", "y"], "answer": "y"}\n'
    (tmp_path / "mine.jsonl").write_text(line * 10, encoding="utf-8")
    given = params(f"file:{tmp_path}/mine.jsonl")
    load.save(load.load(given), given)
    return given


def test_what_is_saved_is_read_back_and_not_written_twice(stored):
    manifest = paths.data(stored) / runs.MANIFEST
    written = manifest.read_bytes()
    splits = load.load(stored)
    load.save(splits, stored)
    assert manifest.read_bytes() == written
    assert load.read(stored) == splits
    counts = runs.read_manifest(manifest.parent)["facts"]["rows"]
    assert counts == {"train": 8, "valid": 1, "test": 1}


def test_every_file_is_read_and_hashed_once_per_process(stored, monkeypatch):
    hashed = []
    sha256 = runs.sha256
    monkeypatch.setattr(runs, "sha256", lambda file: hashed.append(file.name) or sha256(file))
    load.read(stored)["train"].clear()  # what a caller does to its copy does not matter
    assert len(load.read(stored)["train"]) == 8
    parquet = [name for name in hashed if name.endswith(".parquet")]
    assert sorted(parquet) == ["test.parquet", "train.parquet", "valid.parquet"]


def test_content_follows_rows_and_order_alone(stored, tmp_path):
    known = runs.content(paths.data(stored))
    splits = load.load(stored)
    moved = tmp_path / "elsewhere" / "mine.jsonl"
    moved.parent.mkdir()
    (tmp_path / "mine.jsonl").rename(moved)
    other = stored.model_copy(update={"source": f"file:{moved}", "study": "other"})
    assert load.spec(other) == runs.read_manifest(paths.data(stored))["spec"]
    load.save(splits, other)
    assert runs.content(paths.data(other)) == known
    third = stored.model_copy(update={"source": f"file:{moved}", "study": "third"})
    load.save({**splits, "train": splits["train"][::-1]}, third)
    assert runs.content(paths.data(third)) != known


def test_a_changed_source_file_is_seen(stored):
    (folder, spec), *_ = load.work(stored)
    assert runs.state(folder, spec) == "finished"
    source = stored.source.removeprefix("file:")
    with open(source, "a", encoding="utf-8") as file:
        file.write('{"question": "new", "options": ["x", "y"], "answer": "y"}\n')
    (folder, spec), *_ = load.work(stored)
    assert runs.state(folder, spec) == "stale"
    with pytest.raises(runs.StaleRun, match=r"mine\.jsonl"):
        load.read(stored)
    with pytest.raises(runs.StaleRun, match=r"mine\.jsonl"):
        load.save(load.load(stored), stored)


def test_other_parameters_and_other_questions_are_refused(stored):
    with pytest.raises(runs.StaleRun, match="data_seed"):
        load.read(stored.model_copy(update={"data_seed": 3}))
    splits = load.load(stored)
    splits["test"] = [replace(splits["test"][0], answer=0)]
    with pytest.raises(DataError, match="other questions"):
        load.save(splits, stored)


def test_a_changed_or_missing_data_file_is_refused(stored):
    file = paths.data(stored) / "test.parquet"
    pd.read_parquet(file).assign(answer=0).to_parquet(file)
    load._read.cache_clear()  # as in another process
    with pytest.raises(DataError, match=r"test\.parquet: missing or changed"):
        load.read(stored)
    file.unlink()
    with pytest.raises(DataError, match=r"test\.parquet: missing or changed"):
        load.read(stored)
    (file.parent / runs.MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="run notebook 01"):
        load.read(stored)


def test_the_spec_names_what_each_source_depends_on():
    assert load.spec(Params())["world"]
    assert load.spec(params("release", dataset="arc"))["commit"] == release.COMMIT
    piqa = load.spec(params("hub", dataset="piqa"))
    assert (piqa["repository"], piqa["revision"]) == ("ybisk/piqa", "refs/convert/parquet")


LABELLED = {"label": ["A", "B", "C"], "text": ["ice ", "fire", "wood"]}
DIGITS = {"label": ["1", "2", "3"], "text": ["3", "1", "2"]}
CONTEXT = {"contexts": ["One.", "Two."], "labels": ["A", "B"], "meshes": ["m"]}
PUBMED = {"pubid": 21, "question": "Does it?", "context": CONTEXT, "long_answer": "It may."}


@pytest.mark.parametrize(
    ("dataset", "row", "expected"),
    [
        (
            "obqa",
            {"id": "7-1", "question_stem": "Cold is", "choices": LABELLED, "answerKey": "A"},
            Question("7-1", "", "Cold is", ["ice", "fire", "wood"], 0),
        ),
        (
            "arc",
            {"id": "M_1", "question": "1 + 1?", "choices": DIGITS, "answerKey": "3"},
            Question("M_1", "", "1 + 1?", ["3", "1", "2"], 2),
        ),
        (
            "piqa",
            {"goal": "cool it", "sol1": "fire", "sol2": "1 minute of ice ", "label": 1},
            Question("n", "", "cool it", ["fire", "1 minute of ice"], 1),
        ),
        (
            "pubmedqa",
            {**PUBMED, "final_decision": "maybe"},
            Question("21", "One. \n Two.", "Does it?", ["yes", "no", "maybe"], 2, "It may."),
        ),
        ("obqa", {"id": "1", "question": "q", "choices": LABELLED, "answerKey": ""}, "answer ''"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "answer ''"),
        ("pubmedqa", {**PUBMED, "final_decision": "?"}, "answer '\\?'"),
    ],
)
def test_hub_rows_become_questions_or_say_why_not(dataset, row, expected):
    if isinstance(expected, Question):
        assert hub.question_of(dataset, row, "n") == expected
    else:
        with pytest.raises(ValueError, match=expected):
            hub.question_of(dataset, row, "n")


def test_hub_validation_is_shared_out_where_test_has_no_labels(monkeypatch):
    requests = set()

    def local(repository, config, *, split, revision):
        requests.add((repository, config, split, revision))
        labels = [-1, *(number % 2 for number in range(11))]
        return datasets.Dataset.from_list(
            [{"goal": "g", "sol1": "a", "sol2": "b", "label": label} for label in labels]
        )

    monkeypatch.setattr(datasets, "load_dataset", local)
    with pytest.warns(UserWarning, match=r"1 bad row.*\n.*row 0: answer ''"):
        splits = hub.questions("piqa")
    assert requests == {
        ("ybisk/piqa", None, split, "refs/convert/parquet") for split in ("train", "validation")
    }
    valid, test = (
        [int(row.id.removeprefix("validation-")) for row in splits[split]]
        for split in ("valid", "test")
    )
    assert (len(valid), len(test)) == (6, 5)
    assert sorted(valid + test) == list(range(1, 12))
    assert valid == sorted(valid) and test == sorted(test)


def test_hub_says_where_bioasq_is_and_what_to_do_without_a_network(monkeypatch):
    with pytest.raises(DataError, match=r"registration.*source: release"):
        load.load(params("hub", dataset="bioasq"))

    def unreached(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreached)
    with pytest.raises(DataError, match=r"openbookqa: cannot be loaded .*no route.*release"):
        load.load(params("hub", dataset="obqa"))
