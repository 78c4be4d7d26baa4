"""A user's own questions, in files as people have them (`source: file:PATH`).

PATH is a file, a folder with one file per split (`train.csv`, `obqa_dev.jsonl`), or a pattern such
as `my_{split}.jsonl`. Splits are called train, valid (or validation, dev, val) and test, in the
file's name or in a column `split`. A single file without that column is split 80/10/10 by the seed.

Formats: JSON (an array of objects), JSON Lines, parquet, and CSV with a header and `,` `;` or tabs;
text in UTF-8, or in UTF-16 with a byte order mark. `tinyllm.data.rows` says which columns are read.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tinyllm import runs
from tinyllm.data import rows
from tinyllm.data.question import DataError, Splits, drawn, listed
from tinyllm.params import SPLITS

SPLIT_OF = {"train": "train", "training": "train", "test": "test", "": ""}
SPLIT_OF |= dict.fromkeys(("valid", "validation", "dev", "val"), "valid")
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
Rows = list[tuple[str, Any]]  # a row's place in its file, and the row, or a ValueError


def questions(path: str, seed: int, columns: Mapping[str, str] | None = None) -> Splits:
    """Train, valid and test of a user's own files. Rows without an id are called row-1, row-2, ...

    columns: the file's names of columns by the expected ones, as `{question: Frage}`.

    Raises DataError with every bad row's file, place and reason (the first 20, then the count).
    """
    columns, bad = columns or {}, []
    splits: Splits = {split: [] for split in ("", *SPLITS)}
    for file_split, file in _by_split(path).items():
        content = _rows(file)
        rows.check_columns(columns, [row for _, row in content], file)
        for number, (place, row) in enumerate(content, start=1):
            try:
                question = rows.question_of(row, f"row-{number}", columns)
                splits[file_split or _split(row, columns)].append(question)
            except ValueError as error:
                bad.append(f"{file}, {place}: {error}")
    if bad:
        raise DataError(f"{listed(bad)}\nCorrect or remove them; nothing was loaded")
    unassigned = splits.pop("")
    if unassigned and any(splits.values()):
        raise DataError(f"{path}: some rows have a `split`, {len(unassigned)} have none")
    if unassigned:
        tenth = max(1, round(0.1 * len(unassigned)))
        valid, test, train = drawn(unassigned, [tenth, tenth], f"{seed}:split")
        splits = {"train": train, "valid": valid, "test": test}
    if empty := [split for split in SPLITS if not splits[split]]:
        raise DataError(f"{path}: no rows for {', '.join(empty)}; each split needs at least one")
    return splits


def hashes(path: str) -> dict[str, str]:
    """SHA-256 of the files that `questions` reads, by their name in the folder that they share."""
    files = list(_by_split(path).values())
    folder = os.path.commonpath([file.parent for file in files])
    states = [(file, file.stat()) for file in files]
    return {
        file.relative_to(folder).as_posix(): _sha256(file, state.st_mtime_ns, state.st_size)
        for file, state in states
    }


@functools.cache
def _sha256(file: Path, *_: int) -> str:
    """A file is hashed once per process, until it changes."""
    return runs.sha256(file)


def _by_split(path: str) -> dict[str, Path]:
    """The file of each split, or {"": file} where one file has them all; DataError without it."""
    where = Path(path).expanduser().absolute()
    if "{split}" in path or where.is_dir():
        return {split: _one_file(where, split) for split in SPLITS}
    if not where.is_file():
        raise DataError(f"source file:{path}: there is no file {where}")
    if where.suffix.lower() not in SUFFIXES:
        raise DataError(f"{where}: allowed types are {', '.join(SUFFIXES)}")
    return {"": where}


def _one_file(where: Path, split: str) -> Path:
    """The one file of a split, by a folder or pattern."""
    names = {name for name, other in SPLIT_OF.items() if other == split}
    if where.is_dir():
        words = {file: re.split("[^a-z]+", file.stem.lower()) for file in sorted(where.iterdir())}
        files = [file for file, own in words.items() if names.intersection(own)]
    else:
        files = [Path(str(where).replace("{split}", name)) for name in sorted(names)]
    files = [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]
    if len(files) != 1:
        raise DataError(
            f"{where}: expected one file for {split} ({' or '.join(sorted(names))} in its name, "
            f"{', '.join(SUFFIXES)}), but there is {', '.join(f.name for f in files) or 'none'}"
        )
    return files[0]


def _rows(file: Path) -> Rows:
    """The rows of a file; DataError where it cannot be read at all."""
    try:
        if file.suffix.lower() == ".parquet":
            content = pq.read_table(file).to_pylist()
        else:
            text = _decoded(file.read_bytes())
            if file.suffix.lower() in (".csv", ".tsv"):
                return _csv_rows(text)
            if not text.lstrip().startswith("["):
                return _json_lines(text)
            content = json.loads(text)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"{file}: cannot be read: {error}") from None
    return [(f"row {number}", row) for number, row in enumerate(content, start=1)]


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"line {line} is not {name}; save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it has NUL characters (UTF-16 without a mark?); save it as UTF-8")
    return text


def _json_lines(text: str) -> Rows:
    content: Rows = []
    # Not splitlines: U+2028 ends no line.
    for number, line in enumerate(re.split(r"\r\n?|\n", text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            row = ValueError(f"broken JSON ({error}); expected one object per line, or an array")
        content.append((f"line {number}", row))
    return content


def _csv_rows(text: str) -> Rows:
    """The place is a row's last line: a cell in quotes may have several."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = max(",;\t", key=header.count)
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    names = [name for name in reader.fieldnames or [] if name]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two columns are called {repeated[0]!r}; rename one")
    content: Rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                row = ValueError(f"more or fewer cells than the header, which has {len(names)}")
            content.append((f"line {reader.line_num}", row))
    except csv.Error as error:
        last = content[-1][0] if content else "line 1"
        content.append((f"after {last}", ValueError(f"broken CSV: {error}")))
    return content


def _split(row: Any, columns: Mapping[str, str]) -> str:
    """train, valid or test by the column `split`, or "" where the row names none."""
    name = rows.text(rows.by_field(row, columns).get("split"), "split").lower()
    if name not in SPLIT_OF:
        raise ValueError(f"split {name!r} is none of {', '.join(filter(None, SPLIT_OF))}")
    return SPLIT_OF[name]
