"""A study's questions: loaded from their source, stored once, read by all later stages."""

import functools
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm import paths, runs
from tinyllm.data import files, hub, micro, release
from tinyllm.data.question import DataError, Question, Splits, drawn
from tinyllm.params import SPLITS, Params

VERSION = 2  # increase it when the same source yields different questions


def load(params: Params) -> Splits:
    """The questions of `params.source` and `params.dataset`: train, valid and test.

    `params.limit` is the maximum number of rows of a split. They are sampled with `data_seed` and
    keep their order; a smaller limit samples a subset of a larger one.

    Raises DataError if a source cannot be read, or has bad rows or repeated ids.
    """
    if params.source == "micro":
        splits = micro.questions(params.data_seed)
    elif params.source == "release":
        splits = {split: release.questions(params.dataset, split) for split in SPLITS}
    elif params.source == "hub":
        splits = hub.questions(params.dataset)
    else:
        path = params.source.removeprefix("file:")
        splits = files.questions(path, params.data_seed, params.columns)
    rows = [row for split in SPLITS for row in splits[split]]
    if len(rows) >= 20 and len({row.answer for row in rows}) == 1 < len({row.gold for row in rows}):
        place = f"option {rows[0].answer + 1}"
        raise DataError(f"{params.source}: {place} is right in every row; shuffle the options")
    limited = {}
    for split, rows in splits.items():
        name, count = Counter(row.id for row in rows).most_common(1)[0]
        if count > 1:  # predictions are joined by id
            why = f"{count} rows have the id {name!r}; give each its own"
            raise DataError(f"{params.source}, {split}: {why} (`columns`: {{id: ...}})")
        size = params.limit.get(split, len(rows))
        limited[split], _ = drawn(rows, [size], f"{params.data_seed}:limit:{split}")
    return limited


def spec(params: Params) -> dict[str, Any]:
    """Everything that the questions depend on, for the manifest; user files by their SHA-256."""
    values = {"stage": "data", "version": VERSION, **params.spec("dataset", "limit", "data_seed")}
    values["source"], _, path = params.source.partition(":")
    if path:
        values |= {"files": hashes(path), **params.spec("columns")}
    elif params.source == "micro":
        values["world"] = micro.VERSION
    elif params.source == "release":
        values["commit"] = release.COMMIT
    else:
        values["repository"], _, values["revision"] = hub.origin(params.dataset)
    return values


def hashes(path: str) -> dict[str, str]:
    """SHA-256 of the files that `files.questions` reads, by name."""
    return {file.name: runs.sha256(file) for file in files.by_split(path).values()}


def content(params: Params) -> str | None:
    """Hash of a study's questions, as stored, or else as in the user's file; None if unknown.

    Raises DataError if that file is not valid.
    """
    if runs.read_manifest(paths.data(params)):
        return runs.content(paths.data(params))
    kind, _, path = params.source.partition(":")
    known = kind == "file" and {"columns", "limit"} <= params.model_fields_set
    return runs.digest(_rows(load(params))) if known and Path(path).expanduser().exists() else None


def _rows(splits: Splits) -> dict[str, list[dict[str, Any]]]:
    return {split: [asdict(row) for row in splits[split]] for split in SPLITS}


def save(splits: Splits, params: Params) -> None:
    """Write the study's data folder, unless the same questions are already stored.

    Raises runs.StaleRun if stored parameters or files differ, DataError if only the questions
    differ (for example because a dataset changed on the hub).
    """
    folder, wanted = paths.data(params), spec(params)
    rows = _rows(splits)
    digest = runs.digest(rows)
    if runs.finished(folder, wanted):
        if runs.content(folder) != digest:
            raise DataError(f"{paths.shown(folder)} has other questions; delete it to replace them")
        return
    with runs.recording(folder, wanted) as facts:
        for split in SPLITS:
            pq.write_table(pa.Table.from_pylist(rows[split]), folder / f"{split}.parquet")
        facts |= {"content": digest, "rows": {split: len(rows[split]) for split in SPLITS}}


def read(params: Params) -> Splits:
    """Read the questions that `save` wrote.

    Raises FileNotFoundError if nothing is stored yet, runs.StaleRun if the stored parameters or
    files differ, DataError if a stored file was changed.
    """
    folder, wanted = paths.data(params), spec(params)
    manifest = runs.read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"{paths.shown(folder)}: no data yet; run notebook 01 first")
    # Later notebooks do not have these two parameters, and accept the stored values.
    unnamed = {"columns", "limit"} - params.model_fields_set
    wanted |= {name: manifest["spec"].get(name) for name in unnamed & set(wanted)}
    runs.refuse_other(folder, manifest["spec"], wanted)
    splits = _read(folder, (folder / runs.MANIFEST).stat().st_mtime_ns)
    return {split: list(rows) for split, rows in splits.items()}


@functools.cache
def _read(folder: Path, written: int) -> Splits:
    """The splits of a folder, read and checked once per process until the manifest changes."""
    outputs, splits = runs.read_manifest(folder)["outputs"], {}
    for split in SPLITS:
        file = folder / f"{split}.parquet"
        if not file.is_file() or runs.sha256(file) != outputs[file.name]:
            raise DataError(f"{paths.shown(file)} is missing or changed; delete its folder")
        splits[split] = [Question(**row) for row in pq.read_table(file).to_pylist()]
    return splits
