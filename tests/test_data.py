"""Questions: the record, loading and storing, and rows from the hub."""

from dataclasses import replace
from unittest.mock import Mock

import datasets
import pandas as pd
import pytest

from tinyllm import paths, runs
from tinyllm.data import hub, load, question
from tinyllm.data.question import DataError, Question
from tinyllm.params import Params


def params(source: str, **changes) -> Params:
    values = {"source": source, "teachers": [], "arms": ["finetune"], "dataset": "mine", **changes}
    return Params.checked(**values)


def test_baselines_and_train_overlap_are_computed_correctly():
    train = [Question("1", "", "Which is red?", ["x", "y"], 1)]
    train.append(Question("2", "", "q", ["u", "v", "w"], 1))
    test = [Question(str(n), "", "r", ["a", "b", "c", "d"], n % 4) for n in range(6)]
    test += [Question("6", "", "which is  RED", ["a rose", "a stone", "c", "d"], 0)]
    test += [Question("7", "In a garden.", "Which is red?", ["a ruby", "b", "c", "d"], 3)]
    splits = {"train": train, "valid": train, "test": test}
    table = question.baselines(splits).set_index("split")
    assert set(table["always"]) == {"(b)"}
    assert table.loc["train", "chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert table.loc["train", "majority"] == 1
    assert table.loc["test", "majority"] == 2 / 8
    assert question.in_train(splits) == {"6"}


def test_subsamples_are_ordered_nested_and_stable_across_versions(release_mirror):
    def ids(limit: int, seed: int = 0) -> list[str]:
        given = params("release", dataset="obqa", limit={"train": limit}, data_seed=seed)
        return [row.id for row in load.load(given)["train"]]

    everything, twenty = ids(10**6), ids(20)
    assert ids(3) == ["8-203", "1894", "14-1386"]  # the stored studies were trained on these
    assert set(ids(10)) < set(twenty)
    assert twenty == [name for name in everything if name in set(twenty)]
    assert ids(10, seed=1) != ids(10)


def test_duplicate_ids_within_a_split_are_rejected(monkeypatch):
    row = Question("1", "", "p", ["x", "y"], 1)
    splits = {"train": [row], "valid": [row, replace(row, question="q")], "test": [row]}
    monkeypatch.setattr(hub, "questions", lambda dataset: splits)
    with pytest.raises(DataError, match="valid: 2 rows have the id '1'"):
        load.load(params("hub", dataset="arc"))


@pytest.fixture
def stored(own_folders):
    """Parameters of a study with a user's file and stored questions."""
    line = '{"question": "p\u2028q", "options": ["x", "y"], "answer": "y"}\n'
    (own_folders / "mine.jsonl").write_text(line * 10, encoding="utf-8")
    given = params(f"file:{own_folders}/mine.jsonl")
    load.save(load.load(given), given)
    return given


def test_a_file_in_which_one_option_is_always_right_is_rejected(tmp_path):
    lines = ["question,A,B,answer", *[f"q{n},right {n},wrong {n},A" for n in range(30)]]
    (tmp_path / "sciq.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="option 1 is right in every row; shuffle"):
        load.load(params(f"file:{tmp_path}/sciq.csv"))


def test_questions_round_trip_and_their_hash_depends_only_on_rows_and_order(stored, tmp_path):
    folder, splits = paths.data(stored), load.load(stored)
    manifest = (folder / runs.MANIFEST).read_bytes()
    load.save(splits, stored)
    assert (folder / runs.MANIFEST).read_bytes() == manifest  # not rewritten
    load.read(stored)["train"].clear()  # callers cannot change the cached copy
    assert load.read(stored) == splits and len(splits["train"]) == 8
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "mine.jsonl").rename(tmp_path / "elsewhere" / "mine.jsonl")
    other = stored.model_copy(update={"source": f"file:{moved}", "study": "other"})
    assert load.spec(other) == runs.read_manifest(folder)["spec"]
    load.save(splits, other)
    assert runs.content(paths.data(other)) == runs.content(folder)
    third = other.model_copy(update={"study": "third"})
    load.save({**splits, "train": splits["train"][::-1]}, third)
    assert runs.content(paths.data(third)) != runs.content(folder)


def test_changed_sources_parameters_questions_or_files_are_rejected(stored):
    with pytest.raises(runs.StaleRun, match="data_seed"):
        load.read(stored.model_copy(update={"data_seed": 3}))
    splits = load.load(stored)
    with pytest.raises(DataError, match=r"other questions.*delete"):
        load.save({**splits, "test": [replace(splits["test"][0], answer=0)]}, stored)
    file = paths.data(stored) / "test.parquet"
    pd.read_parquet(file).assign(answer=0).to_parquet(file)
    with pytest.raises(DataError, match=r"test\.parquet is missing or changed"):
        load.read(stored)
    with open(stored.source.removeprefix("file:"), "a", encoding="utf-8") as source:
        source.write('{"question": "new", "options": ["x", "y"], "answer": "y"}\n')
    for action in (lambda: load.read(stored), lambda: load.save(load.load(stored), stored)):
        with pytest.raises(runs.StaleRun, match=r"mine\.jsonl"):
            action()
    (file.parent / runs.MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="run notebook 01"):
        load.read(stored)


LABELLED = {"label": ["A", "B", "C"], "text": ["ice ", "fire", "wood"]}
CONTEXT = {"contexts": ["One.", "Two."], "labels": ["A", "B"], "meshes": ["m"]}
OBQA = {"id": "7-1", "question_stem": "Cold is", "choices": LABELLED, "answerKey": "A"}
PIQA = {"goal": "cool it", "sol1": "fire", "sol2": "1 minute of ice ", "label": 1}
PUBMED = {"pubid": 21, "question": "Does it?", "context": CONTEXT, "long_answer": "It may."}
PUBMED |= {"final_decision": "maybe"}
ABSTRACT = Question("21", "One. \n Two.", "Does it?", ["yes", "no", "maybe"], 2, "It may.")
HUB_ROWS = [
    ("obqa", OBQA, Question("7-1", "", "Cold is", ["ice", "fire", "wood"], 0)),
    ("piqa", PIQA, Question("n", "", "cool it", ["fire", "1 minute of ice"], 1)),
    ("pubmedqa", PUBMED, ABSTRACT),
]


@pytest.mark.parametrize(("dataset", "row", "expected"), HUB_ROWS)
def test_hub_rows_become_questions_or_raise_with_the_reason(dataset, row, expected):
    assert hub.question_of(dataset, row, "n") == expected
    with pytest.raises(ValueError, match="answer ''"):
        hub.question_of(dataset, row | {"answerKey": "", "label": -1, "final_decision": ""}, "n")


def test_hub_validation_is_split_into_valid_and_test_if_test_has_no_labels(monkeypatch):
    requests = set()

    def local(repository, config, *, split, revision):
        requests.add((repository, config, split, revision))
        return datasets.Dataset.from_list([PIQA | {"label": n} for n in (-1, *[0, 1] * 5, 0)])

    monkeypatch.setattr(datasets, "load_dataset", local)
    with pytest.warns(UserWarning, match=r"1 bad row.*\n.*row 0: answer ''"):
        splits = hub.questions("piqa")
    revision = "refs/convert/parquet"
    assert requests == {("ybisk/piqa", None, s, revision) for s in ("train", "validation")}
    assert load.spec(params("hub", dataset="piqa"))["revision"] == revision
    valid, test = ([row.id for row in splits[split]] for split in ("valid", "test"))
    assert (len(valid), len(test)) == (6, 5)
    assert {*valid, *test} == {f"validation-{number}" for number in range(1, 12)}


def test_hub_errors_suggest_the_release_as_the_source(monkeypatch):
    with pytest.raises(DataError, match=r"bioasq is not on the hub.*source: release"):
        load.load(params("hub", dataset="bioasq"))
    unreached = Mock(side_effect=ConnectionError("no route"))
    monkeypatch.setattr(datasets, "load_dataset", unreached)
    with pytest.raises(DataError, match=r"openbookqa: no route.*source: release"):
        load.load(params("hub", dataset="obqa"))
