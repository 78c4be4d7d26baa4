"""A user's own questions, in common file formats."""

import json
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.data import files, load
from tinyllm.data.question import DataError, Question, gold_index
from tinyllm.params import SPLITS

GOOD = {"question": "Which is hot?", "options": ["ice", "fire"], "answer": "fire"}


def write(path, content) -> str:
    """Writes rows as JSON Lines; returns the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def one(row: dict) -> Question:
    """The question in a row; raises ValueError if the row is invalid."""
    return files.question_of(row, "row-1", {})


def everything(splits) -> list[Question]:
    return [row for split in SPLITS for row in splits[split]]


def test_all_formats_give_the_same_questions(tmp_path):
    context = 'Read: \u2028 this, "too".'
    names = ("train", "Training", "dev", "test")
    content = [{**GOOD, "id": name, "context": context, "split": name} for name in names]
    table, path = pd.DataFrame(content), tmp_path / "mine"
    write(path.with_suffix(".jsonl"), content)
    path.with_suffix(".json").write_text(json.dumps(content))
    table.to_parquet(path.with_suffix(".parquet"))
    table.assign(options=json.dumps(GOOD["options"])).to_csv(path.with_suffix(".csv"), index=False)
    for file in tmp_path.iterdir():
        splits = files.questions(str(file), 0)
        ids = {split: [row.id for row in rows] for split, rows in splits.items()}
        assert ids == {"train": ["train", "Training"], "valid": ["dev"], "test": ["test"]}, file
        for row in everything(splits):
            assert row == Question(row.id, context, "Which is hot?", ["ice", "fire"], 1)


def test_csv_with_semicolons_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    lines = [
        ["Question", "Option A", "Option B", "Answer"],
        ['"Heiß\noder kalt?"', '"Eis, kalt; weiß"', "Feuer", "B"],
        *[["kalt?", "Eis", "Feuer", "a"]] * 2,
    ]
    text = "".join(";".join(cells) + "\r\n" for cells in lines)
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8-sig", newline="")
    rows = everything(files.questions(f"{tmp_path}/mine.csv", 0))
    options = ["Eis, kalt; weiß", "Feuer"]
    assert Question("row-1", "", "Heiß\noder kalt?", options, 1) in rows


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.jsonl", b"\n{broken\n", "line 2 cannot be read"),
        ("m.jsonl", b"7\n", "line 1: expected one named value"),
        ("m.json", b'[{"question": "q"},\n oops]', "line 2 column 2"),
        ("m.json", b'{"question": {"0": "q"}}', "no question: expected a column"),  # from pandas
        ("m.json", b'{\n"data": []\n}', "line 1 cannot.*; expected an array of objects"),
        ("m.csv", b"question,answer\nok,a\ncaf\xe9,b\n", "UTF-8"),
        ("m.csv", "question;answer\n".encode("utf-16"), "UTF-8"),
        ("m.csv", b"question,A,B,answer\nHot, q,a,b,a\n", "line 2: expected"),
        ("m.csv", b"question,A,B,A,answer\n", "two columns are called 'A'"),
        ("m.csv", b'question,A,B,answer\nq,a,b,a\n"q"2,a,b,a\n', "line 3 cannot be read"),
        ("m.parquet", b"PAR0", "Parquet"),
        ("m.txt", b"q", "allowed type"),
    ],
)
def test_unreadable_files_are_reported_with_location_and_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{tmp_path}/{name}.*{reason}"):
        files.questions(str(tmp_path / name), 0)


def test_a_folder_needs_exactly_one_file_per_split(tmp_path):
    names = ("training", "dev", "test")
    for name in names:
        write(tmp_path / f"obqa_{name}.jsonl", [{**GOOD, "id": name}])
    (tmp_path / "notes.json").write_text("{}")
    by_folder = files.questions(str(tmp_path), 0)
    assert [by_folder[split][0].id for split in SPLITS] == list(names)
    assert set(load.hashes(str(tmp_path))) == {f"obqa_{name}.jsonl" for name in names}
    write(tmp_path / "valid.jsonl", [GOOD])
    with pytest.raises(DataError, match=r"one file for valid .*obqa_dev\.jsonl, valid\.jsonl"):
        files.questions(str(tmp_path), 0)
    (tmp_path / "obqa_training.jsonl").unlink()
    with pytest.raises(DataError, match=r"one file for train .* none"):
        files.questions(str(tmp_path), 0)
    with pytest.raises(DataError, match=rf"no file {tmp_path}/absent\.csv"):
        files.questions(str(tmp_path / "absent.csv"), 0)


def test_splits_are_drawn_by_seed_if_no_row_names_one_and_must_not_be_empty(tmp_path):
    row = {**GOOD, "id": float("nan"), "context": None}  # how pandas writes missing values
    path = write(tmp_path / "mine.jsonl", [row] * 50)
    splits = files.questions(path, 0)
    assert [len(splits[split]) for split in SPLITS] == [40, 5, 5]
    assert {row.id for row in everything(splits)} == {f"row-{n}" for n in range(1, 51)}
    assert files.questions(path, 0) == splits != files.questions(path, 1)
    train = {**GOOD, "split": "train"}
    for content, reason in (([train] * 2, "no rows for valid"), ([train, GOOD], "1 have none")):
        with pytest.raises(DataError, match=reason):
            files.questions(write(tmp_path / "mine.jsonl", content), 0)


@pytest.mark.parametrize(
    "shape",
    [
        {"options": ["ice", "fire", "wood"]},
        {"options": '["ice", "fire", "wood"]'},
        {"choices": {"text": ["ice", "fire", "wood"], "label": ["A", "B", "C"]}},
        {"choices": [{"text": text} for text in ("ice", "fire", "wood")]},
        {"option_a": "ice", "option_b": "fire", "option_c": "wood", "option_d": ""},
        {"choice1": "ice", "choice2": "fire", "choice3": "wood"},
        {"answer0": "ice", "answer1": "fire", "answer2": "wood"},
    ],
)
def test_all_option_and_answer_formats_are_read(shape):
    expected = Question("row-1", "", "Hot?", ["ice", "fire", "wood"], 1)
    for answer in ("fire ", "B", "b", "(b)", "B.", "B)", "b:", "(B) fire"):
        assert one({"question": "Hot?", **shape, "answer": answer}) == expected


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("a", ["c", "a"], 1),  # both a text and a letter: the text takes precedence
        ("A-", ["A+", "A-", "B+"], 1),
        ("A.", ["A", "A."], 1),
        (2, ["ice", "fire", "wood"], 2),
        (1, ["CO", "H2O"], 1),  # a digit within a formula is not a number
        ("3", {"text": ["3", "1", "2"], "label": ["1", "2", "3"]}, 2),  # labels first (ARC)
        ("1", {"text": ["ice", "fire"], "labels": ["1", "2"]}, 0),
        ("A dog", ["a cat", "a dog"], None),
        ("(a) fire", ["ice", "fire"], None),  # letter and text disagree
        (2, ["ice", "fire"], None),  # may be counted from 1
        (2, ["1 cm", "2 cm", "3 cm"], None),
        (1, ["4", "2", "1"], None),  # either the text `1` or the index of `2`, as in MMLU
        (2, ["4", "1", "2"], 2),
        (True, ["ice", "fire"], None),
    ],
)
def test_answers_resolve_to_an_option_or_are_rejected_if_ambiguous(answer, options, index):
    row = {"question": "q", "choices": options, "answerKey": answer}
    if index is None:
        with pytest.raises(ValueError, match=re.escape(f"{answer}")):
            one(row)
    else:
        assert one(row).answer == index


def test_rows_of_known_benchmarks_are_read_and_unclear_numbers_rejected():
    """A number is read as an index only where that is unambiguous."""
    listed = [{"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]
    for row, gold in (
        ({"question": {"stem": "Hot?", "choices": listed}, "answerKey": "B"}, "fire"),
        ({"question": "q", "choice1": "ice", "choice2": "fire", "label": 0}, "ice"),
        ({"Question": "Hot?", "Choices": ["ice", "fire"], "Answer Key": "B"}, "fire"),
    ):
        assert one(row).gold == gold
    own = {"A": "Answer 1 (75 signs)", "B": "Answer 2 (75 signs)"}  # as a quiz program exports it
    with pytest.raises(ValueError, match="index from 0 or a column"):
        files.question_of({"question": "q", own["A"]: "w", own["B"]: "x", "answer": 1}, "1", own)
    own = {"A": "ending0", "B": "ending1"}  # SWAG: a 0 shows where counting starts
    swag = {"question": "q", "ending0": "ice", "ending1": "fire", "answer": 1}
    assert files.question_of(swag, "1", own).gold == "fire"
    with pytest.raises(ValueError, match="index from 0 or a column"):  # `label` is not the answer
        one({"question": "q", "option1": "ice", "option2": "fire", "answer": 1, "label": "bio"})
    raters = {"answer1": "A", "answer2": "B"}
    with pytest.raises(ValueError, match="two sets of option columns"):
        one({"question": "q", "A": "ice", "B": "fire", "answer": "A", **raters})
    mapped = {"A": "ice cream", "B": "camp fire"}  # the user's choice counts
    row = {"question": "q", "ice cream": "x", "camp fire": "y", "answer": "A", "answer3": "z"}
    assert files.question_of(row | raters, "1", mapped).options == ["x", "y"]
    points = {"A": "Answer 1 (0-5 points)", "B": "Answer 2 (0-5 points)"}
    with pytest.raises(ValueError, match="index from 0 or a column"):
        row = {"question": "q", points["A"]: "w", points["B"]: "x", "answer": 1}
        files.question_of(row, "1", points)
    assert one({"article": "Fire.", "question": "q", "A": "ice", "B": "x", "answer": "A"}).context
    with pytest.raises(ValueError, match="no column before 'd'"):
        one({"question": "q", "A": "ice", "B": "fire", "D": "wood", "answer": "A"})
    for number in (1, 1.0):  # pandas writes floats where a cell is empty
        with pytest.raises(ValueError, match="index from 0 or a column"):
            one({"question": "q", "option_1": "ice", "option_2": "fire", "answer": number})


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).map(str.strip).filter(bool)
TEXT = TEXT.filter(lambda text: not text.isdecimal())  # a number may be an index


@given(st.lists(TEXT, min_size=2, max_size=26, unique=True), st.data())
def test_the_text_or_label_of_an_option_always_resolves_to_it(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    assert gold_index(options[index], options) == index
    labels = [str(number) for number in range(1, len(options) + 1)]
    assert gold_index(labels[index], options, labels) == index


def test_custom_column_names_take_precedence_over_default_names(tmp_path):
    row = {"Frage": "Heiß?", "eins": "Eis", "zwei": "Feuer", "Lösung": "B", "answer": "x"}
    path = write(tmp_path / "fragen.jsonl", [row] * 10)
    columns = {"question": "Frage", "answer": "Lösung", "A": "eins", "B": "zwei"}
    assert everything(files.questions(path, 0, columns))[0].gold == "Feuer"
    with pytest.raises(DataError, match="columns: 'Frage' is not in id, context"):
        files.questions(path, 0, {"Frage": "question"})
    with pytest.raises(DataError, match=r"no column 'Prosa'; the columns are .*Frage"):
        files.questions(path, 0, {"context": "Prosa"})
    with pytest.raises(DataError, match=r"no question: .*Frage.*`columns`"):
        files.questions(path, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "steam"}, "'steam' is not the text"),
        ({"answer": 2}, "letters in all rows, if the file counts from 1"),
        ({"options": ["fire"]}, r"1 option\(s\)"),
        ({"options": [*map(str, range(26)), "fire"]}, r"27 option\(s\)"),
        ({"options": ["fire", "fire "]}, "two options are equal"),
        ({"options": ["", "fire"]}, "option 1 is empty"),
        ({"options": "fire or ice"}, "expected a JSON list"),
        ({"options": {"hot": "fire", "cold": "ice"}}, "options: expected a list"),
        ({"options": ["fire", ["ice"]]}, "option 2 .* is not a text"),
        ({"options": [{"key": "A", "value": "fire"}]}, "option 1 .*'value'.* is not a text"),
        ({"question": "  "}, "the question is empty"),
        ({"question": "half \ud83d"}, "surrogate"),
        ({"split": "holdout"}, "split 'holdout'"),
    ],
)
def test_bad_rows_are_reported_with_file_line_and_reason(tmp_path, change, reason):
    good = {**GOOD, "split": "train"}
    path = write(tmp_path / "mine.jsonl", [good, {**good, **change}])
    with pytest.raises(DataError, match=rf"1 bad row[^\n]*\n[^\n]*{path}, line 2: .*{reason}"):
        files.questions(path, 0)


def test_columns_with_the_same_normalized_name_are_rejected(tmp_path):
    path = write(tmp_path / "mine.jsonl", [GOOD | {"Answer ": "ice"}])
    with pytest.raises(DataError, match="two columns are read as 'answer'"):
        files.questions(path, 0)


def test_only_the_first_twenty_bad_rows_are_listed(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{**GOOD, "answer": "steam"}] * 30)
    with pytest.raises(DataError, match=r"(?s)^30 bad row(.*'steam'){20}.*and 10 more"):
        files.questions(path, 0)
