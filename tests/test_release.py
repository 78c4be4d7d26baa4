"""The paper's official release: questions, rationale records, and where files are read from."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from simulated import notebook

from tinyllm import paths
from tinyllm.data import question, release
from tinyllm.data.question import DataError
from tinyllm.params import DATASETS, SPLITS

# Missing rationales (`nan`, or for LLaMA no such part), counted without this package.
MISSING = {
    "obqa": {"flan-t5": (2, 0, 0), "llama2": (29, 2, 2)},
    "arc": {"flan-t5": (12, 2, 24), "llama2": (4, 1, 6)},
    "piqa": {"flan-t5": (4, 0, 0), "llama2": (16113, 919, 919)},
    "riddle": {"flan-t5": (12, 1, 0), "llama2": (21, 4, 3)},
    "pubmedqa": {"flan-t5": (2, 0, 0), "llama2": (0, 0, 0)},
    "bioasq": {"flan-t5": (1, 0, 0), "llama2": (18, 2, 0)},
}
IN_TRAIN = {"obqa": 23, "arc": 7, "piqa": 92, "riddle": 6}  # test questions also in train


@pytest.mark.parametrize("dataset", DATASETS)
def test_questions_and_records_have_the_known_counts_and_clean_texts(release_mirror, dataset):
    splits = {split: release.questions(dataset, split) for split in SPLITS}
    known = notebook("05")["read_published"]("datasets").set_index("dataset").loc[dataset]
    options = int(known["options"])
    for place, (split, rows) in enumerate(splits.items()):
        records = list(release.records(dataset, split))
        assert len(rows) == int(known[split])
        for row, record in zip(rows, records, strict=True):
            assert len(row.options) == options and row.options.count(row.gold) == 1
            assert all(text and text == text.strip() for text in (row.question, *row.options))
            assert bool(row.context) == (dataset in ("pubmedqa", "bioasq"))
            # Compare words: some records have more white space around CONTEXT_END.
            words = f"{row.context} {row.question}".split()
            assert (words, row.options) == (record.question.split(), record.options), row.id
            assert row.answer == record.answer, row.id
            if record.flan is not None:
                closing = f"Thus, the answer is ({'abcde'[row.answer]}) {row.gold}".split()
                assert record.flan.split()[-len(closing) :] == closing, row.id
                assert "Answer Choices:" not in record.flan and not record.flan.startswith("nan ")
            if record.llama is not None:
                assert record.llama != "nan" and "llama rationale" not in record.llama, row.id
        assert sum(r.flan is None for r in records) == MISSING[dataset]["flan-t5"][place]
        assert sum(r.llama is None for r in records) == MISSING[dataset]["llama2"][place]
    assert len(question.in_train(splits)) == IN_TRAIN.get(dataset, 0)
    if known["label"] == "yes":
        test = question.baselines(splits).set_index("split").loc["test"]
        assert test["always"] == "yes"
        assert test["majority"] * int(known["test"]) == pytest.approx(int(known["majority"]))


def test_records_are_parsed_into_question_options_answer_and_rationales():
    flan = "Birds fly. Thus, the answer is (b) a wren"
    text = f"{flan}\n\nQ: What flies?\nAnswer Choices:\n(a) a stone\n(b) a wren"
    assert release.parse_record(text) == release.Record(
        "What flies?", ["a stone", "a wren"], 1, flan, None
    )
    tail = "\nA: Let's think step by step. llama rationale: It flies.\n\nQ: What swims?\nAnswer"
    both = release.parse_record(text + tail)
    assert both.options == ["a stone", "a wren"]
    assert both.llama == "It flies.\n\nQ: What swims?\nAnswer"


PATH = "datasets/arc/arc_valid.json"


@pytest.fixture
def copied(mirror, tmp_path):
    """A file of the mirror, copied to a temporary folder."""
    copy = tmp_path / PATH
    copy.parent.mkdir(parents=True)
    return Path(shutil.copy(mirror / PATH, copy))


def test_changed_or_missing_mirror_files_are_rejected(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RELEASE_DIR", str(tmp_path))
    assert release.release_file(PATH) == copied
    copied.write_bytes(copied.read_bytes()[:-1])
    for path in (PATH, "datasets/arc/arc_test.json"):
        with pytest.raises(DataError, match=f"{path} is missing or changed"):
            release.release_file(path)


def test_without_a_mirror_files_are_downloaded_once_and_checked(copied, tmp_path, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.delenv("TINYLLM_RELEASE_DIR", raising=False)
    monkeypatch.setenv("TINYLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(release, "RETRIES", 0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(release, "URL", f"http://127.0.0.1:{server.server_port}/")
        file = release.release_file(PATH)
        server.shutdown()
    assert file.is_relative_to(paths.cache()) and file.read_bytes() == copied.read_bytes()
    assert release.release_file(PATH) == file  # not downloaded again
    file.write_text("[]")  # a changed file is not used
    with pytest.raises(DataError, match="TINYLLM_RELEASE_DIR"):
        release.release_file(PATH)
