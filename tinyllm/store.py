"""The store of what teachers wrote: append-only JSON Lines, one record a question asked.

A record is keyed by a hash of (teacher and revision, rendered prompt, decoding settings, sample),
and written with one system call, so that a process killed at any point leaves at most one torn last
line, which the next reader drops. Stopped, `fill` goes on where it was. What a teacher wrote is the
record: nothing is ever written again.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tinyllm import paths, runs
from tinyllm.prompts import Fitted
from tinyllm.teachers import Failure, Teacher

STORE_VERSION = 2
FAILED = "failed.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHOWN = 5  # failed questions that an error names


class Unanswered(RuntimeError):
    """Some questions got no answer; what was answered is stored, and a rerun asks for the rest."""


@dataclass(frozen=True)
class Record:
    """One record.

    key: see the module. id: the question's. prompt: as the teacher read it (empty for recorded
    rationales, whose prompts the release does not hold). text: as the teacher wrote it; None where
    it wrote none. finish: `stop`, `length` (cut by max_new_tokens), `recorded` or `scored`.
    tokens: (prompt, written), where known. shots: ids of the in-context examples. cut: words of
    context and examples that the token budget took from the prompt. scores: log-probability a
    token of each option, where the options were scored.
    """

    key: str
    id: str
    teacher: str
    prompt: str
    text: str | None
    finish: str
    tokens: tuple[int, int] | None = None
    shots: tuple[str, ...] = ()
    cut: tuple[int, int] = (0, 0)
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Request:
    """What is to be asked: a question's id, its prompt, and its options if those are scored."""

    id: str
    prompt: Fitted
    options: tuple[str, ...] | None = None


def fill(file: Path, uri: str, teacher: Teacher, requests: Sequence[Request]) -> None:
    """Ask for every request that has no record yet, and append each answer as it comes.

    Raises Unanswered where some got none (they stand in failed.json, and a rerun asks only for
    those), OSError where the disk is full; the answers that came before are kept.
    """
    failed_file = file.with_name(FAILED)
    failed_file.unlink(missing_ok=True)
    have = {record.key for record in read(file)}
    todo = []
    for request in requests:
        rendered = teacher.rendered(request.prompt.text)
        asked = [uri, teacher.revision, rendered, teacher.settings, 0]
        key = runs.digest(asked if request.options is None else [*asked, request.options])
        if key not in have:
            todo.append((key, rendered, request))
    if not todo:
        return
    prompts = [rendered for _, rendered, _ in todo]
    if todo[0][2].options is None:
        answers = teacher.write(prompts)
    else:
        answers = teacher.answer(prompts, [request.options for _, _, request in todo])
    failed: dict[str, str] = {}
    with (
        appending(file) as append,
        tqdm(total=len(todo), desc=uri, unit=" questions", mininterval=5) as bar,
    ):
        for index, said in answers:
            key, rendered, request = todo[index]
            if isinstance(said, Failure):
                failed[request.id] = said.reason
                runs.write_json(failed_file, failed)
            else:
                append(
                    Record(
                        *(key, request.id, uri, rendered, said.text, said.finish, said.tokens),
                        *(request.prompt.shots, request.prompt.cut, said.scores),
                    )
                )
            bar.update()
    if failed:
        lines = [f"  {name}: {reason}" for name, reason in list(failed.items())[:SHOWN]]
        lines += [f"  … and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        raise Unanswered(
            f"{uri}: {len(failed)} of {len(todo)} questions got no answer; the others are stored. "
            f"Run this again to ask only for those (all are in {paths.shown(failed_file)}):\n"
            + "\n".join(lines)
        )


@contextmanager
def appending(file: Path) -> Iterator[Any]:
    """A function that appends a record as one line; on the disk for good when the block ends.

    A full disk ends it with OSError, and the line that did not fit is taken back.
    """
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    synced = time.monotonic()

    def append(record: Record) -> None:
        nonlocal synced
        line = (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode()
        before = os.fstat(out).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(out, line[written:])
        except OSError as error:
            os.ftruncate(out, before)
            if error.errno not in FULL:
                raise
            raise OSError(
                error.errno,
                f"{error.strerror}: {paths.shown(file)} keeps {before} bytes of whole records; "
                "free some space and run this again: it goes on from there",
            ) from None
        if time.monotonic() - synced > 1:  # at most a second's work is lost with the power
            os.fsync(out)
            synced = time.monotonic()

    try:
        yield append
        os.fsync(out)
    finally:
        os.close(out)


def read(file: Path) -> list[Record]:
    """All records of a store; a torn last line is cut off the file.

    Raises ValueError, naming file and line, where any other line is broken.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with open(file, "r+b") as out:
            out.truncate(whole)
    records = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            fields = json.loads(line)
            for name in ("tokens", "shots", "cut", "scores"):
                fields[name] = None if fields[name] is None else tuple(fields[name])
            record = Record(**fields)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{paths.shown(file)}, line {number}: no record ({error}); delete that line to "
                "have it asked again"
            ) from None
        records.setdefault(record.key, record)
    return list(records.values())


def cuts(records: Sequence[Record]) -> dict[str, int]:
    """How many prompts the token budget shortened: of contexts, and of in-context examples."""
    return {
        "context_cut": sum(record.cut[0] > 0 for record in records),
        "examples_cut": sum(record.cut[1] > 0 for record in records),
    }
