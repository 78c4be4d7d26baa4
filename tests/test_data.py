"""The questions: the release's six datasets, the hub's mappings, own files, the audit, storing."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
import warnings
from dataclasses import replace

import datasets
import pandas as pd
import pytest

from tinyllm import data, hub, paths, release, runs, sources
from tinyllm.data import DataError, Example
from tinyllm.params import DATASETS, SPLITS, Params

# Rows of train, valid, test, then options: the release's provenance note.
COUNTS = {
    "obqa": (4957, 500, 500, 4),
    "arc": (1117, 295, 1165, 4),
    "piqa": (16113, 919, 919, 2),
    "riddle": (3510, 511, 510, 5),
    "pubmedqa": (500, 100, 400, 3),
    "bioasq": (976, 109, 123, 2),
}


def params(source: str, **changes) -> Params:
    values = {"source": source, "teachers": [], "arms": ["finetune"], **changes}
    return Params(**values)


@functools.cache
def whole(dataset: str) -> datasets.DatasetDict:
    return data.load(params("release", dataset=dataset))


# Release -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_release_has_the_counts_of_its_provenance_note(release_mirror, dataset):
    *rows, options = COUNTS[dataset]
    table = data.sizes(whole(dataset))
    assert table["questions"].tolist() == rows
    assert set(table["fewest_options"]) == set(table["most_options"]) == {options}
    assert table["gold_twice"].sum() == 0
    assert table["duplicate_options"].tolist() == ([3, 0, 0] if dataset == "obqa" else [0, 0, 0])


@pytest.mark.parametrize("dataset", DATASETS)
def test_release_texts_are_not_empty_and_have_no_white_space_at_their_ends(release_mirror, dataset):
    for split in whole(dataset).values():
        for each in data.examples(split):
            for text in (each.question, *each.options):
                assert text and text == text.strip(), each.id
            assert 0 <= each.answer < len(each.options)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_way_piqa_train_is_rebuilt_gives_valid_and_test_back(release_mirror, split):
    rows = release.release_examples("piqa", split)  # from their own file
    records = release.release_records("piqa", split)  # from the rationale records
    assert [(r.question, r.options, r.answer) for r in records] == [
        (row.question, row.options, row.answer) for row in rows
    ]


def test_piqa_train_follows_its_record_files_by_number(release_mirror):
    rows = release.release_examples("piqa", "train")
    start = 0
    for number in range(33):
        file = release_mirror / f"datasets/piqa/llm/train_CoT_{number}.json"
        records = json.loads(file.read_text("utf-8"))
        assert f"Q: {rows[start].question}" in records[0], number
        assert rows[start].id == f"train-{start}"
        start += len(records)
    assert start == len(rows)


def test_lines_end_at_newlines_only(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text('{"question": "one\u2028two"}\n{"question": "x\x85y"}\n', encoding="utf-8")
    assert [row["question"] for row in release._json_rows(file)] == ["one\u2028two", "x\x85y"]


@pytest.mark.parametrize("dataset", ["pubmedqa", "bioasq"])
def test_context_is_split_from_every_question_and_nothing_is_lost(release_mirror, dataset):
    for split, rows in whole(dataset).items():
        raw = json.loads(
            (release_mirror / f"datasets/{dataset}/{dataset}_{split}.json").read_text()
        )
        for each, theirs in zip(data.examples(rows), raw, strict=True):
            assert each.context and " \n " not in each.question
            assert len(each.question.split()) <= 40
            assert f"{each.context} {each.question}".split() == theirs["question"].split()


def test_other_datasets_have_no_context(release_mirror):
    for dataset in ("obqa", "arc", "piqa", "riddle"):
        assert data.sizes(whole(dataset))["with_context"].sum() == 0


# Missing: LLaMA's `nan` or no part at all, FLAN-T5's `nan`; counted apart from the package.
MISSING = {
    "obqa": {"flan-t5": (2, 0, 0), "llama2": (29, 2, 2)},
    "arc": {"flan-t5": (12, 2, 24), "llama2": (4, 1, 6)},
    "piqa": {"flan-t5": (4, 0, 0), "llama2": (16113, 919, 919)},
    "riddle": {"flan-t5": (12, 1, 0), "llama2": (21, 4, 3)},
    "pubmedqa": {"flan-t5": (2, 0, 0), "llama2": (0, 0, 0)},
    "bioasq": {"flan-t5": (1, 0, 0), "llama2": (18, 2, 0)},
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_record_is_aligned_and_missing_rationales_are_counted(release_mirror, dataset):
    for place, split in enumerate(SPLITS):
        texts = release.release_rationales(dataset, split)  # raises where one is not its row's
        assert len(texts) == COUNTS[dataset][place]
        for teacher, column in zip(MISSING[dataset], zip(*texts, strict=True), strict=True):
            assert column.count(None) == MISSING[dataset][teacher][place]


@pytest.mark.parametrize("dataset", DATASETS)
def test_rationales_hold_nothing_of_the_record_around_them(release_mirror, dataset):
    for row, (flan, llama) in zip(
        release.release_examples(dataset, "test"),
        release.release_rationales(dataset, "test"),
        strict=True,
    ):
        gold = f"({'abcde'[row.answer]}) {row.options[row.answer]}"
        if flan is not None:
            closing = f"Thus, the answer is {gold}".split()
            assert flan.split()[-len(closing) :] == closing, row.id
            assert "Answer Choices:" not in flan and not flan.startswith("nan ")
        if llama is not None:
            assert llama and llama != "nan" and "llama rationale" not in llama, row.id


RECORD = (
    "Birds fly. Thus, the answer is (b) a wren\n\nQ: What flies?\nAnswer Choices:\n"
    "(a) a stone\n(b) a wren"
)


def test_a_record_is_taken_apart():
    assert release.parse_record(RECORD) == release.Record(
        "What flies?", ["a stone", "a wren"], 1, "Birds fly. Thus, the answer is (b) a wren", None
    )
    tail = "\nA: Let's think step by step. llama rationale: It flies.\n\nQ: What swims?\nAnswer"
    both = release.parse_record(RECORD + tail)
    assert both.options == ["a stone", "a wren"]
    assert both.llama == "It flies.\n\nQ: What swims?\nAnswer"


def test_a_rationale_that_was_not_there_is_none():
    record = release.parse_record(RECORD.replace("Birds fly.", "nan") + " llama rationale: nan")
    assert (record.flan, record.llama) == (None, None)
    kept = release.parse_record(RECORD.replace("Birds fly.", "Nandus run."))
    assert kept.flan.startswith("Nandus run.")


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ("\n\nQ: ", "no question"),
        ("\nAnswer Choices:\n", "no options"),
        ("Thus, the answer is (b)", "no answer"),
    ],
)
def test_a_broken_record_says_what_it_lacks(cut, reason):
    with pytest.raises(ValueError, match=reason):
        release.parse_record(RECORD.replace(cut, "", 1))


def test_records_of_other_rows_are_refused(release_mirror, monkeypatch):
    records = release.release_records("arc", "valid")
    records[7], records[8] = records[8], records[7]
    monkeypatch.setattr(release, "release_records", lambda dataset, split: records)
    with pytest.raises(DataError, match="arc valid: record 7 is about another question"):
        release.release_rationales("arc", "valid")


def test_records_with_another_gold_option_are_refused(release_mirror, monkeypatch):
    records = release.release_records("arc", "valid")
    records[3] = replace(records[3], answer=(records[3].answer + 1) % 4)
    monkeypatch.setattr(release, "release_records", lambda dataset, split: records)
    with pytest.raises(DataError, match="record 3"):
        release.release_rationales("arc", "valid")


def test_a_rationale_that_only_echoes_the_prompt_says_nothing():
    assert release.says_nothing("Let's think step by step.\n")
    assert release.says_nothing("Let's think step by step. Thus, the answer is (a) yes")
    assert not release.says_nothing("Let's think step by step. Birds fly.")


def test_a_changed_byte_in_the_mirror_is_an_error(mirror, tmp_path, monkeypatch):
    path = "datasets/arc/arc_valid.json"
    copy = tmp_path / path
    copy.parent.mkdir(parents=True)
    content = bytearray((mirror / path).read_bytes())
    copy.write_bytes(content)
    monkeypatch.setenv("TINYLLM_RELEASE_DIR", str(tmp_path))
    assert release.release_file(path) == copy
    content[1000] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match=r"arc_valid\.json: SHA-256 is .* copy it again"):
        release.release_file(path)
    with pytest.raises(DataError, match=r"arc_test\.json: missing from the mirror"):
        release.release_file("datasets/arc/arc_test.json")
    with pytest.raises(DataError, match="no file of the release"):
        release.release_file("datasets/arc/arc_dev.json")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that a local server stands for the release's public repository with."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("TINYLLM_RELEASE_DIR", raising=False)
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(release, "URL", f"http://127.0.0.1:{server.server_port}/")
    yield folder
    server.shutdown()


def test_without_a_mirror_files_are_downloaded_once_and_checked(mirror, served, monkeypatch):
    path = "datasets/arc/arc_valid.json"
    (served / path).parent.mkdir(parents=True)
    shutil.copy(mirror / path, served / path)
    file = release.release_file(path)
    assert file.is_relative_to(paths.cache())
    assert len(release.release_examples("arc", "valid")) == 295
    (served / path).unlink()
    assert release.release_file(path) == file  # not asked for again
    file.write_text("[]")
    monkeypatch.setattr(release, "RETRIES", 0)
    with pytest.raises(DataError, match=r"cannot be downloaded .*TINYLLM_RELEASE_DIR"):
        release.release_file(path)


def test_a_download_with_other_content_is_an_error(served, monkeypatch):
    path = "datasets/arc/arc_valid.json"
    (served / path).parent.mkdir(parents=True)
    (served / path).write_text("[]")
    monkeypatch.setattr(release, "RETRIES", 0)
    with pytest.raises(DataError, match="cannot be downloaded"):
        release.release_file(path)


# Audit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "percent"), [("pubmedqa", 55.25), ("bioasq", 66.67)])
def test_majority_baselines_are_the_published_ones(release_mirror, dataset, percent):
    table = data.baselines(whole(dataset)).set_index("split")
    assert round(100 * table.loc["test", "majority"], 2) == percent
    assert table.loc["test", "always"] == "yes"


@pytest.mark.parametrize(
    ("dataset", "rows", "distinct"), [("obqa", 23, 23), ("arc", 7, 6), ("riddle", 6, 6)]
)
def test_questions_that_stand_in_train_and_test_are_found(release_mirror, dataset, rows, distinct):
    table = data.overlap(whole(dataset)).set_index("split")
    assert table.loc["test", "in_train"] == rows
    assert table.loc["test", "distinct"] == distinct
    assert len(data.in_train(whole(dataset))) == rows


def small(*rows: Example) -> datasets.DatasetDict:
    """All splits with these rows."""
    return datasets.DatasetDict({split: data.as_dataset(rows) for split in data.SPLITS})


def test_baselines_of_changing_options_are_by_letter_and_chosen_on_train():
    given = small(Example("1", "", "p", ["x", "y"], 1), Example("2", "", "q", ["u", "v", "w"], 1))
    given["test"] = data.as_dataset(
        [Example(str(n), "", "r", ["a", "b", "c", "d"], n % 4) for n in range(8)]
    )
    table = data.baselines(given).set_index("split")
    assert set(table["always"]) == {"(b)"}
    assert table.loc["train", "chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert table.loc["train", "majority"] == 1
    assert table.loc["test", "majority"] == 0.25


def test_option_balance_counts_every_letter():
    given = small(Example("1", "", "p", ["x", "y", "z"], 1), Example("2", "", "q", ["x", "y"], 1))
    table = data.option_balance(given).query("split == 'valid'").set_index("letter")
    assert table["questions"].to_dict() == {"a": 0, "b": 2, "c": 0}
    assert table["share"].sum() == 1


def test_lengths_count_words_of_each_part():
    table = data.lengths(small(Example("1", "one two", "three  four five", ["six", "seven"], 0)))
    assert table.query("split == 'test'").set_index("part")["words"].to_dict() == {
        "context": 2,
        "question": 3,
        "options": 2,
    }


def test_overlap_tells_shared_questions_from_shared_answers():
    given = small(Example("t", "", "Which is red?", ["a rose", "a lily"], 0))
    given["test"] = data.as_dataset(
        [
            Example("1", "", "which is  RED", ["a rose", "a stone"], 0),
            Example("2", "", "Which is red?", ["a ruby", "a pearl"], 0),
            Example("3", "", "Which is green?", ["a rose", "a leaf"], 1),
        ]
    )
    row = data.overlap(given).set_index("split").loc["test"]
    assert (row["in_train"], row["distinct"], row["same_answer"]) == (2, 1, 1)
    assert data.in_train(given) == {"1", "2"}


# Loading and storing -----------------------------------------------------------------------------


def test_the_micro_world_loads_the_same_twice():
    pytest.importorskip("tinyllm.micro")
    one, two = data.load(Params()), data.load(Params())
    assert [data.fingerprint(one[s]) for s in one] == [data.fingerprint(two[s]) for s in two]
    other = data.load(Params(data_seed=1))
    assert data.fingerprint(other["test"]) != data.fingerprint(one["test"])


def test_an_id_that_stands_twice_in_a_split_is_refused(monkeypatch):
    row = Example("1", "", "p", ["x", "y"], 1)
    found = {"train": [row], "valid": [row, replace(row, question="q")], "test": [row]}
    monkeypatch.setattr(hub, "hub_examples", lambda dataset: found)
    with pytest.raises(DataError, match="arc, valid: id '1' stands 2 times"):
        data.load(params("hub", dataset="arc"))


def test_subsamples_are_deterministic_ordered_and_nested(release_mirror):
    def ids(limit: int, seed: int = 0) -> list[str]:
        here = params("release", dataset="arc", limit={"train": limit}, data_seed=seed)
        return data.load(here)["train"]["id"][:]

    everything = whole("arc")["train"]["id"][:]
    ten, twenty = ids(10), ids(20)
    assert len(ten) == 10 and ids(10) == ten and set(ten) < set(twenty)
    assert twenty == [name for name in everything if name in set(twenty)]
    assert ids(10, seed=1) != ten
    assert ids(10**6) == everything


def test_fingerprints_follow_content_and_order_alone(tmp_path):
    rows = [Example("1", "", "p", ["x", "y"], 1), Example("2", "c", "q", ["u", "v"], 0)]
    split = data.as_dataset(rows)
    known = data.fingerprint(split)
    split.to_pandas().to_parquet(tmp_path / "other.parquet", compression="gzip")
    frame = pd.read_parquet(tmp_path / "other.parquet")[[*reversed(split.column_names)]]
    again = datasets.Dataset.from_pandas(frame, features=None)
    assert data.fingerprint(again) == known
    assert data.fingerprint(data.as_dataset(rows[::-1])) != known
    changed = [rows[0], Example("2", "c", "q", ["u", "v"], 1)]
    assert data.fingerprint(data.as_dataset(changed)) != known


def test_what_is_saved_is_read_back_and_not_written_twice(tmp_path):
    given = small(Example("1", "c", "p\u2028q", ["x", "y"], 1))
    data.save(given, tmp_path, Params())
    written = (tmp_path / runs.MANIFEST).read_bytes()
    data.save(given, tmp_path, Params())
    assert (tmp_path / runs.MANIFEST).read_bytes() == written
    again = data.read(tmp_path)
    for split in data.SPLITS:
        assert data.examples(again[split]) == data.examples(given[split])
        assert again[split].features == data.FEATURES


def test_a_folder_with_other_or_changed_data_is_refused(tmp_path):
    data.save(small(Example("1", "", "p", ["x", "y"], 1)), tmp_path, Params())
    with pytest.raises(runs.StaleRun, match=r"content\.test"):
        data.save(small(Example("1", "", "p", ["x", "y"], 0)), tmp_path, Params())
    with pytest.raises(runs.StaleRun, match="data_seed: 0 there, 3 asked for"):
        data.save(small(Example("1", "", "p", ["x", "y"], 1)), tmp_path, Params(data_seed=3))
    rows = pd.read_parquet(tmp_path / "test.parquet")
    rows.assign(answer=0).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: changed since it was written"):
        data.read(tmp_path)


def test_unfinished_data_is_not_read(tmp_path):
    with pytest.raises(DataError, match="run notebook 01_data_prep first"):
        data.read(tmp_path)


# Hub: rows by hand in the hub's schemas, since the hub is not reached in tests --------------------

LABELLED = {"label": ["A", "B", "C"], "text": ["ice ", "fire", "wood"]}
CONTEXT = {"contexts": ["One.", "Two."], "labels": ["A", "B"], "meshes": ["m"]}
PUBMED = {"pubid": 21, "question": "Does it?", "context": CONTEXT, "long_answer": "It may."}


@pytest.mark.parametrize(
    ("convert", "row", "expected"),
    [
        (
            hub.hub_openbookqa,
            {"id": "7-1", "question_stem": "Cold is", "choices": LABELLED, "answerKey": "A"},
            Example("7-1", "", "Cold is", ["ice", "fire", "wood"], 0),
        ),
        (
            hub.hub_arc,
            {
                "id": "M_1",
                "question": "Hot?",
                "choices": {"label": ["1", "2", "3"], "text": ["ice", "fire", "wood"]},
                "answerKey": "2",
            },
            Example("M_1", "", "Hot?", ["ice", "fire", "wood"], 1),
        ),
        (
            hub.hub_riddlesense,
            {"question": "I burn. ", "choices": LABELLED, "answerKey": "C"},
            Example("train-5", "", "I burn.", ["ice", "fire", "wood"], 2),
        ),
        (
            hub.hub_piqa,
            {"goal": "cool it", "sol1": "fire", "sol2": "ice ", "label": 1},
            Example("train-5", "", "cool it", ["fire", "ice"], 1),
        ),
        (
            hub.hub_pubmedqa,
            {**PUBMED, "final_decision": "maybe"},
            Example("21", "One. \n Two.", "Does it?", ["yes", "no", "maybe"], 2, "It may."),
        ),
    ],
)
def test_hub_rows_become_examples(convert, row, expected):
    assert convert(row, "train-5") == expected


@pytest.mark.parametrize(
    ("convert", "row", "reason"),
    [
        (hub.hub_arc, {"id": "1", "question": "q", "choices": LABELLED, "answerKey": ""}, "labels"),
        (hub.hub_piqa, {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "label -1"),
        (hub.hub_piqa, {"goal": "g", "sol1": "a", "sol2": "a ", "label": 0}, "stands twice"),
        (hub.hub_piqa, {"goal": " ", "sol1": "a", "sol2": "b", "label": 0}, "empty question"),
        (hub.hub_piqa, {"goal": "g", "sol1": "a", "sol2": " ", "label": 0}, "option 2 is empty"),
        (hub.hub_pubmedqa, {**PUBMED, "final_decision": "?"}, "final_decision"),
    ],
)
def test_hub_rows_that_are_no_questions_say_why(convert, row, reason):
    assert reason in convert(row, "n")


def test_hub_validation_is_shared_out_where_test_has_no_labels(monkeypatch):
    asked = []

    def local(repository, config, *, split, revision):
        asked.append((repository, config, split, revision))
        rows = [
            {"goal": f"g{n}", "sol1": "a", "sol2": "b", "label": n % 2 if n else -1}
            for n in range(12)
        ]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", local)
    with pytest.warns(UserWarning, match=r"1 bad row.*\n.*row 0: label -1"):
        found = hub.hub_examples("piqa")
    assert set(asked) == {
        ("ybisk/piqa", None, split, "refs/convert/parquet") for split in ("train", "validation")
    }
    assert (len(found["valid"]), len(found["test"])) == (6, 5)
    ids = [each.id for split in ("valid", "test") for each in found[split]]
    assert sorted(ids) == sorted(f"validation-{n}" for n in range(1, 12))
    with warnings.catch_warnings(action="ignore"):
        assert hub.hub_examples("piqa") == found


def test_hub_splits_keep_their_order(monkeypatch):
    rows = [
        {"id": f"{n:02}", "question": "q", "choices": LABELLED, "answerKey": "A"} for n in range(40)
    ]
    split = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: split)
    ids = {name: [each.id for each in here] for name, here in hub.hub_examples("riddle").items()}
    assert ids["train"] == [f"train-{n}" for n in range(40)]
    numbers = [
        [int(name.removeprefix("validation-")) for name in ids[s]] for s in ("valid", "test")
    ]
    assert numbers == [sorted(here) for here in numbers]
    assert [each.id for each in hub.hub_examples("arc")["test"]] == [f"{n:02}" for n in range(40)]


def test_hub_pubmedqa_is_shared_out_in_the_sizes_of_the_release(monkeypatch):
    rows = [{**PUBMED, "pubid": n, "final_decision": "yes"} for n in range(1000)]
    split = datasets.Dataset.from_list(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: split)
    loaded = data.load(params("hub", dataset="pubmedqa"))
    assert [len(loaded[s]) for s in data.SPLITS] == [500, 100, 400]
    assert len({name for s in data.SPLITS for name in loaded[s]["id"]}) == 1000


def test_hub_says_where_bioasq_is_and_what_to_do_without_a_network(monkeypatch):
    with pytest.raises(DataError, match=r"registration.*source: release"):
        data.load(params("hub", dataset="bioasq"))

    def unreached(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreached)
    with pytest.raises(DataError, match=r"openbookqa: cannot be loaded .*no route.*release"):
        data.load(params("hub", dataset="obqa"))


# Own files ---------------------------------------------------------------------------------------

GOOD = {"question": "Which is hot?", "options": ["ice", "fire"], "answer": "fire"}


def write(path, rows) -> str:
    """`rows` in the format of the file's name; the source that reads it."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        cells = [{**row, "options": json.dumps(row["options"])} for row in rows]
        pd.DataFrame(cells).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return f"file:{path}"


@pytest.mark.parametrize("suffix", sources.SUFFIXES)
def test_all_formats_give_the_same_questions(tmp_path, suffix):
    rows = [
        {**GOOD, "id": f"q{n}", "context": 'Read: \u2028 this, "too".', "split": split}
        for n, split in enumerate(["train", "train", "valid", "test"])
    ]
    loaded = data.load(params(write(tmp_path / f"mine{suffix}", rows), dataset="mine"))
    assert data.examples(loaded["train"]) == [
        Example(f"q{n}", 'Read: \u2028 this, "too".', "Which is hot?", ["ice", "fire"], 1)
        for n in range(2)
    ]
    assert [loaded[s]["id"][:] for s in ("valid", "test")] == [["q2"], ["q3"]]


def test_a_file_a_split_is_found_by_name_or_folder(tmp_path):
    for split in data.SPLITS:
        write(tmp_path / f"{split}.jsonl", [{**GOOD, "id": split}])
    by_folder = sources.file_examples(str(tmp_path), 0)
    by_name = sources.file_examples(f"{tmp_path}/{{split}}.jsonl", 0)
    assert by_folder == by_name
    assert [by_name[split][0].id for split in data.SPLITS] == list(data.SPLITS)
    (tmp_path / "valid.jsonl").unlink()
    with pytest.raises(DataError, match="0 files for valid"):
        sources.file_examples(str(tmp_path), 0)
    with pytest.raises(DataError, match=r"no file .*valid\.jsonl"):
        sources.file_examples(f"{tmp_path}/{{split}}.jsonl", 0)


def test_without_splits_a_tenth_each_is_drawn_by_seed(tmp_path):
    write(tmp_path / "mine.json", [GOOD] * 50)
    found = sources.file_examples(str(tmp_path / "mine.json"), 0)
    assert [len(found[split]) for split in data.SPLITS] == [40, 5, 5]
    assert len({each.id for split in found.values() for each in split}) == 50
    assert sources.file_examples(str(tmp_path / "mine.json"), 0) == found
    assert sources.file_examples(str(tmp_path / "mine.json"), 1) != found


def test_byte_order_marks_odd_line_ends_and_missing_ids_do_no_harm(tmp_path):
    row = json.dumps({**GOOD, "context": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "mine.jsonl").write_text("\ufeff" + f"{row}\r\n" * 3, encoding="utf-8", newline="")
    found = sources.file_examples(str(tmp_path / "mine.jsonl"), 0)
    assert {each.context for here in found.values() for each in here} == {"one\u2028two"}
    rows = [{**GOOD, "id": float("nan"), "context": None}] * 3
    write(tmp_path / "mine.json", rows)
    found = sources.file_examples(str(tmp_path / "mine.json"), 0)
    assert sorted(each.id for here in found.values() for each in here) == [
        "row-1",
        "row-2",
        "row-3",
    ]
    assert {each.context for here in found.values() for each in here} == {""}


def test_numbered_option_columns_may_end_early(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "question,option_1,option_2,option_3,answer,split\n"
        "2+2?,3,4,5,4,train\n2+3?,5,6,,a,valid\n2+4?,7,6,5,(b),test\n"
    )
    found = sources.file_examples(str(path), 0)
    assert [(found[s][0].options, found[s][0].answer) for s in data.SPLITS] == [
        (["3", "4", "5"], 1),
        (["5", "6"], 0),
        (["7", "6", "5"], 1),
    ]


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("fire", ["ice", "fire"], 1),
        ("B", ["ice", "fire"], 1),
        ("(a)", ["ice", "fire"], 0),
        ("a", ["c", "a"], 1),  # a text and a letter: the text counts
        (" fire ", ["ice", "fire "], 1),
        (4, [3, 4], 1),
    ],
)
def test_answers_are_texts_or_letters(tmp_path, answer, options, index):
    row = {"question": "q", "options": options, "answer": answer}
    write(tmp_path / "mine.json", [row] * 3)
    assert sources.file_examples(str(tmp_path / "mine.json"), 0)["train"][0].answer == index


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "steam"}, "'steam' is neither among the options nor a letter from a to b"),
        ({"answer": "c"}, "'c' is neither among the options"),
        ({"answer": 1}, "'1' is neither among the options"),
        ({"answer": None}, "the answer is empty"),
        ({"options": ["fire"]}, r"1 option\(s\)"),
        ({"options": ["fire", "fire "]}, "the option 'fire' stands twice"),
        ({"options": ["fire", ""]}, "option 2 is empty"),
        ({"options": [str(n) for n in range(27)], "answer": "1"}, "there are letters for 26"),
        ({"options": "fire or ice"}, "not a JSON list"),
        ({"options": ["fire", ["ice"]]}, "option 2 is not a text"),
        ({"question": "  "}, "empty question"),
        ({"question": "half \ud800"}, "question is not a text"),
        ({"id": "good"}, "id 'good' stands twice"),
        ({"split": "dev"}, "split 'dev' is not train, valid or test"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_reason(tmp_path, change, reason):
    rows = [{**GOOD, "id": "good", "split": "train"}, {**GOOD, "split": "train", **change}]
    write(tmp_path / "mine.jsonl", rows)
    with pytest.raises(DataError, match=rf"1 bad row[^\n]*\n[^\n]*mine\.jsonl, line 2: .*{reason}"):
        sources.file_examples(str(tmp_path / "mine.jsonl"), 0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.jsonl", b'{"question": "\xff"}\n', "line 1: not UTF-8"),
        ("m.jsonl", b"\n{broken\n", "line 2: broken JSON"),
        ("m.jsonl", b"[1]\n", "line 1: a JSON object was expected"),
        ("m.jsonl", b'{"prompt": "q", "answer": "a"}\n', "no question; there are prompt, answer"),
        ("m.json", b'[{"question": "q"},\n oops]', "line 2: broken JSON"),
        ("m.json", b'{"question": "q"}', "a JSON array of objects was expected"),
        ("m.json", b"[7]", "row 1: a JSON object was expected"),
        ("m.csv", b"question,answer\nok,a\ncaf\xe9,b\n", "line 3: not UTF-8"),
        ("m.csv", b"question,option_1,option_2,answer\nq,a,b\n", "line 2: not the 4 cells"),
        ("m.csv", b'question,option_1,option_2,answer\n"q,a,b,a\n', "broken CSV"),
        ("m.parquet", b"PAR0", "file: not parquet"),
        ("m.txt", b"q", "allowed are"),
    ],
)
def test_files_that_cannot_be_read_say_where_and_why(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        sources.file_examples(str(tmp_path / name), 0)


def test_bad_rows_are_listed_up_to_twenty_and_then_counted(tmp_path):
    write(tmp_path / "mine.jsonl", [{**GOOD, "answer": "steam"}] * 30 + [GOOD] * 30)
    with pytest.raises(DataError) as caught:
        sources.file_examples(str(tmp_path / "mine.jsonl"), 0)
    message = str(caught.value)
    assert message.startswith("30 bad row(s):") and "... and 10 more" in message
    assert message.count("neither among the options") == 20


def test_splits_must_all_be_there_and_stand_in_all_rows_or_none(tmp_path):
    write(tmp_path / "mine.jsonl", [{**GOOD, "split": "train"}] * 2)
    with pytest.raises(DataError, match="no rows for valid, test"):
        sources.file_examples(str(tmp_path / "mine.jsonl"), 0)
    write(tmp_path / "mine.jsonl", [{**GOOD, "split": "train"}, GOOD, GOOD])
    with pytest.raises(DataError, match="some rows have a `split`, 2 have none"):
        sources.file_examples(str(tmp_path / "mine.jsonl"), 0)
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(DataError, match="no rows for train, valid, test"):
        sources.file_examples(str(tmp_path / "mine.jsonl"), 0)
