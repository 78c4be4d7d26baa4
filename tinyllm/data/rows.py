"""One row of a benchmark's file as a Question.

Columns, in upper or lower case; others are ignored:

    question   or question_stem, stem; or an object {stem, choices}
    options    or choices: a list of texts, {text: [...], label: [...]} or [{text, label}, ...], in
               CSV as JSON; or one column per option: A, B, ... or option_1, ... or choice1, ...
    answer     or answerKey, label; `gold_index` says how it is read
    id, context, rationale   optional; or qid; passage; explanation
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from tinyllm.data.question import DataError, Question

NAMES = {
    "id": ("id", "qid"),
    "context": ("context", "passage"),
    "question": ("question", "question_stem", "stem"),
    "options": ("options", "choices"),
    "answer": ("answer", "answerKey", "label"),
    "rationale": ("rationale", "explanation"),
    "split": ("split",),
}
LETTERS = list(string.ascii_lowercase)
FROM_ONE = [str(number) for number in range(1, 27)]
PREFIXES = ("option", "choice", "answer", "")  # of columns with one option each
OPTION_COLUMN = re.compile(rf"({'|'.join(PREFIXES)})([a-z]|\d\d?)")
# `B`, `(b)`, `B.`, `B)`, `b:`; after a bracket, dot or colon the option's text may follow.
LETTER = re.compile(r"\(?(\w{1,2})[.):]*(?:(?<=[.):])\s*(\S.*))?", re.DOTALL)


def question_of(row: Any, name: str, columns: Mapping[str, str]) -> Question:
    """The question of a row, with the id `name` where it has none; ValueError says what is wrong.

    columns: the row's names of columns by the expected ones, as {question: Frage}.
    """
    fields = by_field(row, columns)
    if isinstance(fields.get("question"), dict):
        fields |= by_field(fields.pop("question"), {})
    options, numbered = _option_columns(fields)
    labels: list[str] = []
    if "options" in fields:
        options, labels = _listed_options(fields["options"])
        numbered = False
    for field in ("question", "options", "answer"):
        if field not in fields and not (field == "options" and options):
            raise ValueError(
                f"no {field}: expected a column {' or '.join(NAMES[field])}; the columns are "
                f"{', '.join(row)}. Name yours by the parameter `columns`, as {{question: Frage}}"
            )
    options = [text(option, f"option {n}") for n, option in enumerate(options, start=1)]
    while options and not options[-1]:  # a question with fewer options than others
        options.pop()
    answer = text(fields["answer"], "answer")
    if numbered and "label" not in fields and answer.isdigit() and answer not in options:
        raise ValueError(
            f"answer {answer!r} may be an index from 0 or the number of a column; write the "
            "option's letter or text"
        )
    return Question(
        id=text(fields.get("id"), "id") or name,
        context=text(fields.get("context"), "context"),
        question=text(fields["question"], "question"),
        options=options,
        answer=gold_index(answer, options, labels[: len(options)]) if len(options) > 1 else 0,
        rationale=text(fields.get("rationale"), "rationale"),
    ).checked()


def by_field(row: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    """A row's values by field (a key of NAMES), and by plain column name for all other columns."""
    if isinstance(row, ValueError):  # of a line that could not be read
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with named values, not {str(row)[:40]!r}")
    plain = {_plain(name): value for name, value in row.items() if name not in columns.values()}
    plain |= {_plain(field): row[name] for field, name in columns.items() if name in row}
    for field, names in NAMES.items():
        present = [_plain(name) for name in names if _plain(name) in plain]
        if present:
            plain[field] = plain[present[0]]
    return plain


def check_columns(columns: Mapping[str, str], content: Sequence[Any], file: Path) -> None:
    """DataError where the parameter `columns` has an unknown field, or a column no row has."""
    names = {name: None for row in content if isinstance(row, dict) for name in row}
    for field, column in columns.items():
        if field not in NAMES and not OPTION_COLUMN.fullmatch(_plain(field)):
            fields = f"{', '.join(NAMES)}, A, B, ..., option_1, ..."
            raise DataError(f"{file}: columns: {field!r}: expected FIELD: COLUMN, of {fields}")
        if column not in names:
            known = ", ".join(names)
            raise DataError(f"{file}: columns: no column {column!r}; the columns are {known}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def text(value: Any, name: str) -> str:
    """A text or number as text without white space at its ends, nothing as ''; else ValueError."""
    if value is None or value != value:  # NaN is how pandas writes nothing to JSON
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} {ascii(value)[:40]} is not a text")
    if half := re.search("[\ud800-\udfff]", str(value)):
        raise ValueError(f"{name}: {half[0]!a} is half a surrogate pair; replace it")
    return str(value).strip()


def _option_columns(fields: dict[str, Any]) -> tuple[list, bool]:
    """Options of columns A, B, ... or option_1, ..., and whether they are numbered from 1."""
    for prefix in PREFIXES:
        for marks in (LETTERS, ["0", *FROM_ONE], FROM_ONE):
            names = list(takewhile(fields.__contains__, [prefix + mark for mark in marks]))
            if len(names) > 1:
                return [fields[name] for name in names], marks is FROM_ONE
    return [], False


def _listed_options(value: Any) -> tuple[list, list[str]]:
    """Texts and labels of options in one column; no labels where they have none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"options {value[:60]!r}: expected a JSON list of texts") from None
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {key: [item.get(key) for item in value] for key in ("text", "label")}
    labels = []
    if isinstance(value, dict):
        labels = [text(label, "label") for label in value.get("label") or []]
        value = value.get("text")
    if not isinstance(value, list):
        raise ValueError("options: expected a list of texts or {text: [...], label: [...]}")
    return value, labels if all(labels) else []


def gold_index(answer: str, options: Sequence[str], labels: Sequence[str] = ()) -> int:
    """Index of the gold option, from 0; ValueError without one. The first that fits counts:

    1. the label of an option, where the file gives labels (ARC's `answerKey: "2"`);
    2. the text of an option (of `c`, `a` the answer `a` is the second);
    3. its letter or label as `B`, `b`, `(b)`, `B.`, `B)`, or `(b) text` with the option's text;
    4. a number as index from 0, unless an option is a number or mentions this one.
    """
    marks = [label.casefold() for label in labels] or LETTERS[: len(options)]
    if labels and answer.casefold() in marks:
        return marks.index(answer.casefold())
    if answer in options:
        return options.index(answer)
    letter = LETTER.fullmatch(answer)
    if letter and letter[1].casefold() in marks:
        index = marks.index(letter[1].casefold())
        if letter[2] in (None, options[index]):
            return index
    number = re.fullmatch(r"(\d+)(?:\.0)?", answer)
    if number:
        similar = re.compile(rf"\W*\d[\d.,]*\W*|.*\b{number[1]}\b.*", re.DOTALL)
        if int(number[1]) < len(options) and not any(map(similar.fullmatch, [*options, *labels])):
            return int(number[1])
    hint = "; a number is an index only where no option has numbers" if number else ""
    raise ValueError(
        f"answer {answer!r} is neither a text among {list(options)}, nor a letter from {marks[0]} "
        f"to {marks[-1]}, nor an index from 0 to {len(options) - 1}{hint}"
    )
