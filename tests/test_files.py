"""A user's own questions, in common file formats."""

import json

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
        ("m.jsonl", b'{"answer": "a", "Answer ": "b"}\n', "two columns are read as 'answer'"),
        ("m.json", b'[{"question": "q"},\n oops]', "line 2 column 2"),
        ("m.json", b'{"question": {"0": "q"}}', "no question: expected a column"),  # from pandas
        ("m.csv", b"question,answer\nok,a\ncaf\xe9,b\n", "UTF-8"),
        ("m.csv", "question;answer\n".encode("utf-16"), "UTF-8"),
        ("m.csv", b"question,A,B,answer\nHot, q,a,b,a\n", "line 2: expected"),
        ("m.csv", b"question,A,B,A,answer\n", "two columns are called 'A'"),
        ("m.csv", b'question,A,B,answer\nq,a,b,a\n"q"2,a,b,a\n', "line 3 cannot be read"),
        ("m.parquet", b"PAR0", "Parquet"),
        ("m.txt", b"q", "must be one of .json"),
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


THREE, LETTERS = ["ice", "fire", "wood"], ["A", "B", "C"]
LISTED = [{"text": text, "label": a} for text, a in zip(THREE, LETTERS, strict=True)]
SHAPES = [
    {"options": THREE},
    {"options": json.dumps(THREE)},
    {"choices": {"text": THREE, "label": LETTERS}},
    {"choices": LISTED},
    {"choices": [{"text": text} for text in THREE]},
    {"option_a": "ice", "option_b": "fire", "option_c": "wood", "option_d": ""},
    {"choice1": "ice", "choice2": "fire", "choice3": "wood"},
    {"answer0": "ice", "answer1": "fire", "answer2": "wood"},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_option_and_answer_formats_are_read(shape):
    expected = Question("row-1", "", "Hot?", THREE, 1)
    for answer in ("fire ", "B", "b", "(b)", "B.", "B)", "b:", "(B) fire"):
        assert one({"question": "Hot?", **shape, "answer": answer}) == expected


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("a", ["c", "a"], 1),  # both a text and a letter: the text takes precedence
        ("A-", ["A+", "A-", "B+"], 1),
        ("A", ["B) ice", "A) fire"], 1),  # the options' own letters, in another order
        ("B", ["E. coli", "C. elegans"], 1),  # not letters of options
        ("(b) A", ["B", "A"], 1),
        (2, THREE, 2),
        (1, ["CO", "H2O"], 1),  # a digit within a formula is not a number
        ("3", {"text": ["3", "1", "2"], "label": ["1", "2", "3"]}, 2),  # labels first (ARC)
        ("B", {"A": "ice", "B": "fire", "C": None}, 1),  # MedQA
        ("1", {"text": ["ice", "fire"], "labels": ["1", "2"]}, 0),
        (1, [{"id": 1, "text": "ice"}, {"id": 2, "text": "fire"}], 0),  # its id, not an index
        ("A", [{"key": "B", "text": "ice"}, {"key": "A", "text": "fire"}], 1),
        ("B", {"text": ["ice", "fire"], "label": 1}, 1),  # one number, not labels
        (2, ["4", "1", "2"], 2),
    ],
)
def test_answers_resolve_to_an_option(answer, options, index):
    assert one({"question": "q", "choices": options, "answerKey": answer}).answer == index


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "steam"}, "'steam' is not the text"),
        ({"answer": "Fire"}, "'Fire' is not the text"),
        ({"answer": "(a) fire"}, r"'\(a\) fire' is not the text"),  # letter and text disagree
        ({"answer": 2}, "letters in all rows, if the file counts from 1"),
        ({"answer": 1, "options": ["4", "2", "1"]}, "an option's text or an index"),  # as in MMLU
        ({"answer": True}, "answer True is not a text"),
        ({"options": ["fire"]}, r"1 option\(s\)"),
        ({"options": [*map(str, range(26)), "fire"]}, r"27 option\(s\)"),
        ({"options": ["fire", "fire "]}, "two options are equal"),
        ({"options": ["", "fire"]}, "option 1 is empty"),
        ({"options": "fire or ice"}, "expected a JSON list"),
        ({"options": ["fire", ["ice"]]}, "option 2 .* is not a text"),
        ({"question": "  "}, "the question is empty"),
        ({"question": "half \ud83d"}, "surrogate"),
    ],
)
def test_bad_rows_are_rejected_with_the_reason(change, reason):
    with pytest.raises(ValueError, match=reason):
        one({**GOOD, **change})


def test_bad_rows_are_listed_with_file_and_line(tmp_path):
    rows = [{"split": "train"}, {"answer": "steam"}, {"split": "holdout"}]
    path = write(tmp_path / "mine.jsonl", [{**GOOD, **row} for row in rows])
    with pytest.raises(DataError, match=rf"2 bad row(?s:.*){path}, line 2: .*'steam'") as error:
        files.questions(path, 0)
    assert f"{path}, line 3: split 'holdout'" in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"question": {"stem": "Hot?", "choices": LISTED}, "answerKey": "B"},
        {"Question": "Hot?", "Choices": THREE, "Answer Key": "B"},
        {"question": "Hot?", "choice1": "ice", "choice2": "fire", "choice3": "wood", "label": 1},
        {"article": "Fire.", "question": "Hot?", "A": "ice", "B": "fire", "answer": "B"},
    ],
)
def test_rows_of_known_benchmarks_are_read(row):
    read = one(row)
    assert (read.question, read.gold) == ("Hot?", "fire")
    assert read.context == row.get("article", "")


COUNTED = "an index from 0 or a column's number"
SWAG = {"A": "ending0", "B": "ending1"}  # the 0 shows where counting starts
QUIZ = {"A": "Answer 1 (75 signs)", "B": "Answer 2 (75 signs)"}  # as a quiz program exports it
RATERS = {"A": "ice", "B": "fire", "answer": "A", "answer1": "A", "answer2": "B"}


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({"ending0": "ice", "ending1": "fire", "answer": 1}, SWAG, None),
        ({QUIZ["A"]: "ice", QUIZ["B"]: "fire", "answer": 1}, QUIZ, COUNTED),
        ({"option_1": "ice", "option_2": "fire", "answer": 1.0}, {}, COUNTED),  # from pandas
        ({"option1": "ice", "option2": "fire", "answer": 1, "label": "biology"}, {}, COUNTED),
        (RATERS, {}, "two sets of option columns"),
        ({"x": "ice", "y": "fire"} | RATERS | {"answer": "B"}, {"A": "x", "B": "y"}, None),
        ({"A": "ice", "B": "fire", "D": "wood", "answer": "A"}, {}, "no column before 'd'"),
    ],
)
def test_numbers_and_columns_with_two_readings_are_rejected(row, columns, reason):
    """A number is read as an index only where that is unambiguous."""
    row = {"question": "Hot?", **row}
    if reason is None:
        assert files.question_of(row, "row-1", columns).gold == "fire"
    else:
        with pytest.raises(ValueError, match=reason):
            files.question_of(row, "row-1", columns)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).map(str.strip).filter(bool)
TEXT = TEXT.filter(lambda text: not text.isdecimal())  # a number may be an index


@given(st.lists(TEXT, min_size=2, max_size=26, unique=True), st.data())
def test_the_text_or_label_of_an_option_always_resolves_to_it(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    assert gold_index(options[index], options) == index
    labels = [str(number) for number in range(1, len(options) + 1)]
    assert gold_index(labels[index], options, labels) == index


def test_a_letter_that_is_also_an_option_is_rejected_if_other_answers_are_letters(tmp_path):
    """In a quiz with letters, (c) G is the answer `C`, which is also the text of option (d)."""
    bases = {"question": "Which pairs with C?", "options": ["A", "T", "G", "C"], "answer": "C"}
    with pytest.raises(DataError, match=r"2: answer 'C': .*Write \(c\) G or \(d\) C"):
        files.questions(write(tmp_path / "mine.jsonl", [{**GOOD, "answer": "B"}, bases]), 0)
    texts = files.questions(write(tmp_path / "mine.jsonl", [GOOD, GOOD, bases]), 0)
    assert "C" in [row.gold for row in everything(texts)]
    letters = [{**GOOD, "answer": "B"}] * 2 + [{**bases, "answer": "(c) G"}]
    letters = files.questions(write(tmp_path / "mine.jsonl", letters), 0)
    assert "G" in [row.gold for row in everything(letters)]


def test_indices_without_any_zero_are_rejected_since_the_file_may_count_from_1(tmp_path):
    options = [*THREE, "none of these"]  # the last one is never right, so no index is too large
    content = [{"question": f"q{n}", "options": options, "answer": n % 3 + 1} for n in range(20)]
    with pytest.raises(DataError, match="line 1: answer '1': none of 20 indices is 0; use letters"):
        files.questions(write(tmp_path / "mine.jsonl", content), 0)
    same = [{**row, "answer": 1} for row in content]
    for rows in (content[1:], [*content, {**content[0], "answer": 0}], same):  # too few; a zero
        assert len(everything(files.questions(write(tmp_path / "m.jsonl", rows), 0))) == len(rows)


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
    with pytest.raises(ValueError, match=r"no options: .*sol1.*`columns`: {.*, A: first"):
        one({"question": "Hot?", "sol1": "ice", "sol2": "fire", "label": 1})
