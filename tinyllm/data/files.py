"""Questions from a user's own files, in common formats (`source: file:PATH`).

PATH is a file, or a folder with one file per split (`train.csv`, `obqa_dev.jsonl`). Splits are
called train, valid (or validation, dev, val) and test, in the file's name or in a column `split`. A
single file without that column is split 80/10/10 at random, by the seed.

Formats, in UTF-8: JSON (an array of objects), JSON Lines, parquet, CSV with a header and `,` `;` or
tabs. NAMES lists the column names (in any case); other columns are ignored. Options are a list of
texts, {text: [...], label: [...]}, [{text, label}, ...] or {A: text, B: text} (in CSV as JSON), or
one column each: A, B, ... or option_1, ... A question may be {stem, choices}.
`question.gold_index` reads the answer.
"""

import csv
import io
import json
import re
import string
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tinyllm.data.question import DataError, Question, Splits, doubtful, drawn, gold_index, listed
from tinyllm.params import SPLITS

SPLIT_OF = {"train": "train", "training": "train", "test": "test", "": ""}
SPLIT_OF |= dict.fromkeys(("valid", "validation", "dev", "val"), "valid")
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
NAMES = {  # accepted column names of each field
    "id": ("id", "qid"),
    "context": ("context", "passage", "article", "premise"),
    "question": ("question", "question_stem", "stem"),
    "options": ("options", "choices"),
    "answer": ("answer", "answerKey", "label"),
    "rationale": ("rationale", "explanation"),
    "split": ("split",),
}
LABELS = ("label", "labels", "letter", "key", "id")  # of options; the first one present counts
OPTION_COLUMN = re.compile(r"(option|choice|answer)?([a-z]|\d\d?)")
NUMBERS = [str(number) for number in range(27)]


def questions(path: str, seed: int, columns: Mapping[str, str] | None = None) -> Splits:
    """Train, valid and test from a user's files. Rows without an id get the ids row-1, row-2, ...

    columns: the file's column name for each expected one, such as `{question: prompt}`.

    Raises DataError with file, line and reason of each bad row (at most 20, then their number).
    """
    columns, bad, read = columns or {}, [], []
    if odd := [f for f in columns if f not in NAMES and not OPTION_COLUMN.fullmatch(_plain(f))]:
        raise DataError(f"columns: {odd[0]!r} is not in {', '.join(NAMES)}, A, B, option_1, ...")
    splits: Splits = {split: [] for split in ("", *SPLITS)}
    for file_split, file in by_split(path).items():
        content = _rows(file)
        names = {str(name): None for _, row in content if isinstance(row, dict) for name in row}
        if absent := [column for column in columns.values() if column not in names]:
            known = ", ".join(names)
            raise DataError(f"{file}: columns: no column {absent[0]!r}; the columns are {known}")
        plain = Counter(_plain(name) for name in names if name not in columns.values())
        for name, count in plain.items():
            if count > 1 and (name in NAMES or OPTION_COLUMN.fullmatch(name)):
                raise DataError(f"{file}: two columns are read as {name!r}; rename one")
        for number, (place, row) in enumerate(content, start=1):
            try:
                question = question_of(row, f"row-{number}", columns)
                splits[file_split or _split(row, columns)].append(question)
                answer = _text(_by_field(row, columns)["answer"], "answer")
                read.append((f"{file}, {place}", answer, question))
            except ValueError as error:
                bad.append(f"{file}, {place}: {error}")
    if bad := bad + doubtful(read):
        raise DataError(f"{listed(bad)}\nCorrect or remove them; nothing was loaded")
    unassigned = splits.pop("")
    if unassigned and any(splits.values()):
        raise DataError(f"{path}: some rows have a `split`, {len(unassigned)} have none: add it")
    if unassigned:
        tenth = max(1, round(0.1 * len(unassigned)))
        valid, test, train = drawn(unassigned, [tenth, tenth], f"{seed}:split")
        splits = {"train": train, "valid": valid, "test": test}
    if empty := [split for split in SPLITS if not splits[split]]:
        raise DataError(f"{path}: no rows for {', '.join(empty)}; each split needs at least one")
    return splits


def by_split(path: str) -> dict[str, Path]:
    """The file of each split, or {"": file} for a single file; DataError if one is missing."""
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        if not root.is_file():
            where = "; a relative path starts at the parameter file's folder, or the current one"
            raise DataError(f"no file {root}{'' if Path(path).is_absolute() else where}")
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(f"{root}: the type of the file must be one of {', '.join(SUFFIXES)}")
        return {"": root}
    inside = [f for f in sorted(root.iterdir()) if f.is_file() and f.suffix.lower() in SUFFIXES]
    parts = {file: re.split("[^a-z]+", file.stem.lower()) for file in inside}
    files = {}
    for split in SPLITS:
        names = {name for name, meaning in SPLIT_OF.items() if meaning == split}
        of_split = [file for file, words in parts.items() if names.intersection(words)]
        if len(of_split) != 1:
            raise DataError(
                f"{root}: expected one file for {split} ({', '.join(sorted(names))} in its name), "
                f"not {', '.join(file.name for file in of_split) or 'none'}"
            )
        files[split] = of_split[0]
    return files


def _rows(file: Path) -> list[tuple[str, Any]]:
    """Rows of a file, each with its location; raises DataError if the file cannot be read."""
    place = ""
    try:
        if file.suffix.lower() == ".parquet":
            content = pq.read_table(file).to_pylist()
        else:
            text = file.read_text(encoding="utf-8-sig")
            lines = text.split("\n")  # not splitlines, which also splits at U+2028
            if "\0" in text:
                raise UnicodeError("it contains NUL characters, as UTF-16 does")
            if file.suffix.lower() in (".csv", ".tsv"):
                delimiter = max(",;\t", key=lines[0].count)
                form = {"delimiter": delimiter, "strict": True, "skipinitialspace": True}
                place = "line 1"
                csv.field_size_limit(2**31 - 1)
                reader = csv.DictReader(io.StringIO(text, newline=""), **form)
                names = reader.fieldnames or []
                if repeated := [name for name in names if name and names.count(name) > 1]:
                    raise ValueError(f"two columns are called {repeated[0]!r}; rename one")
                content, place = [], f"line {reader.line_num + 1}"
                for row in reader:
                    torn = None in row or None in row.values()
                    content.append((f"line {reader.line_num}", str(row) if torn else row))
                    place = f"line {reader.line_num + 1}"
                return content
            if not text.lstrip().startswith("["):
                content = []
                for number, line in enumerate(lines, start=1):
                    place = f"line {number}"
                    if line.strip():
                        content.append((place, json.loads(line)))
                return content
            content = json.loads(text)
    except UnicodeError as error:
        raise DataError(f"{file}: save it as UTF-8 ({error})") from None
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        wanted = "; expected an array of objects, or one object per line"
        wanted = wanted if file.suffix.lower() in (".json", ".jsonl") else ""
        raise DataError(f"{file}: {place or 'it'} cannot be read: {error}{wanted}") from None
    return [(f"row {number}", row) for number, row in enumerate(content, start=1)]


def _split(row: Any, columns: Mapping[str, str]) -> str:
    """Split of a row by its column `split`: train, valid or test, or "" if it has none."""
    name = _text(_by_field(row, columns).get("split"), "split").lower()
    if name not in SPLIT_OF:
        raise ValueError(f"split {name!r} is not one of {', '.join(filter(None, SPLIT_OF))}")
    return SPLIT_OF[name]


def question_of(row: Any, name: str, columns: Mapping[str, str]) -> Question:
    """Convert a row to a Question; raises ValueError, with the reason, if it is invalid.

    name: id for a row without one. columns: see `questions`.
    """
    fields = _by_field(row, columns)
    renamed = {_plain(f): n for f, n in columns.items() if OPTION_COLUMN.fullmatch(_plain(f))}
    option_columns = [] if "options" in fields else _option_columns(fields, renamed)
    if option_columns:
        fields["options"] = [fields[column] for column in option_columns]
    for field in ("question", "options", "answer"):
        if field not in fields:
            raise ValueError(
                f"no {field}: expected a column {' or '.join(NAMES[field])}; the columns are "
                f"{', '.join(row)}. Name yours in `columns`: {{question: prompt, A: first}}"
            )
    options, labels = _options(fields["options"])
    answer = _text(fields["answer"], "answer")
    first = [*option_columns[:1], *renamed.values()]
    numbers = [match[0] for match in map(re.compile(r"\d+").search, first) if match]
    numbered = fields.get("label") != fields["answer"] and "1" in numbers and "0" not in numbers
    if numbered and re.fullmatch(r"\d+(\.0)?", answer) and answer not in options:
        raise ValueError(f"answer {answer!r}: an index from 0 or a column's number? Use a letter")
    return Question(
        id=_text(fields.get("id"), "id") or name,
        context=_text(fields.get("context"), "context"),
        question=_text(fields["question"], "question"),
        options=options,
        answer=gold_index(answer, options, labels) if len(options) > 1 else 0,
        rationale=_text(fields.get("rationale"), "rationale"),
    ).checked()


def _by_field(row: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    """A row's values by field (a key of NAMES), or by normalised name for all other columns."""
    if not isinstance(row, dict):
        raise ValueError(f"expected one named value per column, not {str(row)[:60]!r}")
    plain = {_plain(name): value for name, value in row.items() if name not in columns.values()}
    plain |= {_plain(field): row[name] for field, name in columns.items() if name in row}
    for field, names in NAMES.items():
        if present := [name for name in map(_plain, names) if name in plain]:
            plain[field] = plain[present[0]]
    if isinstance(plain.get("question"), dict):
        plain |= _by_field(plain.pop("question"), {})
    return plain


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _text(value: Any, name: str) -> str:
    """Convert a text or number to stripped text, a missing value to ''; else raise ValueError."""
    if value is None or value != value:  # pandas writes missing values to JSON as NaN
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} {ascii(value)[:40]} is not a text")
    if re.search("[\ud800-\udfff]", str(value)):
        raise ValueError(f"{name} {ascii(value)[:40]} has an unpaired surrogate; replace it")
    return str(value).strip()


def _option_columns(fields: Mapping[str, Any], renamed: Mapping[str, str]) -> list[str]:
    """The columns with one option each: A, B, ... or option_0, ... or option_1, ..."""
    sets = []
    for prefix in ("option", "choice", "answer", ""):
        for marks in (string.ascii_lowercase, NUMBERS, NUMBERS[1:]):
            names = list(takewhile(fields.__contains__, [prefix + mark for mark in marks]))
            if len(names) > 1:
                later = [prefix + mark for mark in marks[len(names) + 1 : len(names) + 3]]
                if after := [name for name in later if name in fields]:
                    raise ValueError(f"no column before {after[0]!r}; add it, or rename this one")
                sets += [] if sets and names == sets[-1][1:] else [names]  # 0, 1, ... and 1, ...
    sets = [names for names in sets if renamed.keys() & names] or sets
    if len(sets) > 1:
        raise ValueError(f"two sets of option columns: {sets[0]} and {sets[1]}; rename one")
    return sets[0] if sets else []


def _options(value: Any) -> tuple[list[str], list[str]]:
    """Texts and labels of the options; labels are empty if absent, incomplete or repeated."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"options {value[:60]!r}: expected a JSON list of texts") from None
    if isinstance(value, list) and all(isinstance(v, dict) and "text" in v for v in value):
        value = {key: [item.get(key) for item in value] for key in ("text", *LABELS)}
    plain = isinstance(value, dict) and not any(isinstance(v, list | dict) for v in value.values())
    if plain and not {"text", "context", *LABELS} & {*value}:  # {"A": first, "B": second}
        value = {"text": list(value.values()), "label": list(value)}
    given = value if isinstance(value, dict) else {"text": value}
    lists = [marks for marks in map(given.get, LABELS) if isinstance(marks, list) and any(marks)]
    marks = [_text(mark, "label") for mark in (lists or [[]])[0]]
    labels = marks if len({*marks} - {""}) == len(marks) else []  # not [0, 0, 1]
    value = given.get("text")
    if not isinstance(value, list):
        raise ValueError("options: expected a list of texts, {text: [...]} or {A: text, B: text}")
    options = [_text(option, f"option {number}") for number, option in enumerate(value, start=1)]
    while options and not options[-1]:  # a question with fewer options than others
        options.pop()
    return options, labels[: len(options)]
