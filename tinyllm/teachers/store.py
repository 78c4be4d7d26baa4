"""The store of the teachers' texts: append-only JSON Lines, one record per question.

A record's key is a hash of the question's id, teacher and revision, rendered prompt, decoding
settings, the options to choose among (for answers), and the index of the sample (from the second
on). Sampling is seeded from the key. A process killed at any point leaves at most one incomplete
last line, which is dropped; `fill` then asks for what is missing.
"""

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tinyllm import paths, runs
from tinyllm.data import release
from tinyllm.data.question import DataError
from tinyllm.prompts import Fitted
from tinyllm.teachers.base import Completion, Replies, Teacher

VERSION = 3


class Unanswered(RuntimeError):
    """Some questions got no answer; the answers are stored, and a rerun asks only the rest."""


class TooManyRefused(RuntimeError):
    """The final refusals of a teacher exceed the share `max_refused`."""


@dataclass(frozen=True)
class Record:
    """What one teacher wrote about one question."""

    key: str  # see the module's docstring
    id: str  # the question's
    teacher: str
    prompt: str  # as the teacher read it; empty for recorded rationales: the release has none
    text: str | None = None  # as the teacher wrote it
    finish: str = ""  # `stop`, `length` (cut by max_new_tokens), `recorded`, `scored` or `refused`
    tokens: tuple[int, int] | None = None  # of prompt and text, where known
    shots: tuple[str, ...] = ()  # ids of the in-context examples
    cut: tuple[int, int] = (0, 0)  # words of context, and examples, that did not fit
    scores: tuple[float, ...] | None = None  # log-probability per token of each option
    refused: str | None = None  # why the teacher wrote no text
    thinking: str = ""  # see base.Completion


def request(
    teacher: Teacher,
    uri: str,
    name: str,
    prompt: Fitted,
    options: Sequence[str] | None = None,
    sample: int = 0,
) -> Record:
    """The record, without a reply yet, of the question with id `name`; options: to choose from."""
    rendered = teacher.rendered(prompt.text)
    key = [name, uri, teacher.revision, rendered, teacher.settings, options]
    key += [sample] if sample else []
    return Record(runs.digest(key), name, uri, rendered, shots=prompt.shots, cut=prompt.cut)


def fill(
    file: Path,
    teacher: Teacher,
    requests: Sequence[Record],
    options: Mapping[str, Sequence[str]],
    max_refused: float = 1.0,
) -> None:
    """Send every request that has no record yet, and append each answer as it arrives.

    options: by question id, for the teacher to choose among; else empty.
    Questions that fail, if at most `max_refused`, are asked a second time. Final refusals and
    second failures (except those to ask `later`) are appended last, and only if the teacher still
    answers another question: else its key, credit or settings are probably the cause.
    Raises Unanswered, TooManyRefused (a share above `max_refused`), OSError if the disk is full,
    or DataError if the file has records that are not of these requests; earlier answers are kept.
    """
    uri = requests[0].teacher
    known = {record.key: record for record in read(file)}
    if others := [known[key] for key in known.keys() - {record.key for record in requests}]:
        raise DataError(
            f"{paths.shown(file)}: {len(others)} records of other settings, such as question "
            f"{others[0].id!r} with key {others[0].key}; delete these lines and run notebook 02"
        )
    todo = [record for record in requests if record.key not in known]
    refused, failed = [], {}
    with appending(file) as append:
        for second in (False, True):
            replies, again = _send(teacher, todo, options), {}
            for index, reply in tqdm(replies, total=len(todo), desc=uri, mininterval=5):
                record = todo[index]
                if isinstance(reply, Completion):
                    append(replace(record, **vars(reply)))
                elif reply.final or (second and not reply.later):
                    why = {"refused": reply.reason, "thinking": reply.thinking}
                    refused.append(replace(record, finish="refused", **why))
                else:
                    (failed if reply.later else again)[record] = reply.reason
            if not 0 < len(again) <= max_refused * len(requests):
                break
            todo = list(again)
        failed |= again
        if refused and not _answers(teacher, read(file)):
            failed |= {record: record.refused for record in refused}
            refused = []
        for record in refused:
            append(record)
    if failed:
        raise Unanswered(
            f"{uri}: {len(failed)} of {len(requests)} questions got no answer, such as "
            f"{next(iter(failed)).id!r}. Correct the cause and run this again: it asks only those. "
            f"Reasons:{_listed(failed.values())}"
        )
    reasons = [record.refused for record in read(file) if record.refused]
    share = len(reasons) / len(requests)
    if share > max_refused:
        raise TooManyRefused(
            f"{uri}: final refusals for {len(reasons)} of {len(requests)} questions, more than "
            f"max_refused: {max_refused} allows. Raise it to {math.ceil(1000 * share) / 1000} "
            "to continue without them. To ask them again, delete their lines in "
            f"{paths.shown(file)}. Reasons:{_listed(reasons)}"
        )


def _send(teacher: Teacher, asked: Sequence[Record], options: Mapping) -> Replies:
    prompts = [record.prompt for record in asked]
    if options:
        return teacher.answer(prompts, [options[record.id] for record in asked])
    return teacher.write(prompts, [int(record.key[:7], 16) for record in asked])


def _answers(teacher: Teacher, records: Iterable[Record]) -> bool:
    """True if a teacher still answers one of three prompts that it has answered before."""
    prompts = [record.prompt for record in records if record.text is not None][:3]
    replies = teacher.write(prompts, [0] * len(prompts))
    return any(isinstance(reply, Completion) for _, reply in replies)


def reuse(file: Path, requests: Sequence[Record], versions: dict[str, int]) -> None:
    """Copy texts from other stores of this teacher and dataset (runs/STAGE/DATASET/TEACHER), so
    that the correction of one question, which changes HASH, does not ask about all of them again.
    """
    keys = {record.key for record in requests} - {record.key for record in read(file)}
    for other in sorted(file.parent.parent.glob(f"*/{file.name}")) if keys else []:
        begun = {"spec": runs.read_json(other.parent / runs.BEGUN) or {}}
        if (runs.read_manifest(other.parent) or begun)["spec"].get("versions") != versions:
            continue
        known = [record for record in read(other) if record.key in keys and record.text is not None]
        keys -= {record.key for record in known}
        with appending(file) as append:
            for record in known:
                append(record)


def _listed(reasons: Iterable[str]) -> str:
    """The five most common reasons, one per line, each with its number of questions."""
    return "".join(f"\n  {reason} ({n})" for reason, n in Counter(reasons).most_common(5))


def recorded(dataset: str, split: str, uri: str) -> list[Record]:
    """A teacher's rationales in the paper's release: one record per question of a split."""
    column = release.TEACHERS.index(uri.removeprefix("release:"))
    rows = zip(release.questions(dataset, split), release.rationales(dataset, split), strict=True)
    keys = [uri, release.COMMIT, dataset, split]
    return [
        Record(runs.digest([*keys, row.id]), row.id, uri, "", texts[column], "recorded")
        for row, texts in rows
    ]


def facts(records: Sequence[Record]) -> dict[str, Any]:
    """Facts about a store, for its manifest. content: hash of its texts. invalid_text: ids of
    questions with invalid characters in their text, which were replaced."""
    texts = sorted((r.key, r.text, r.scores, *filter(None, [r.thinking])) for r in records)
    return {
        "content": runs.digest(texts),
        "questions": len(records),
        "thinking": sum(bool(r.thinking) for r in records),
        "refused": sum(r.refused is not None for r in records),
        "invalid_text": [r.id for r in records if "\ufffd" in (r.text or "")],
    }


@contextmanager
def appending(file: Path) -> Iterator[Callable[[Record], None]]:
    """Yield a function that appends a record as one line; an incomplete last line is removed first.

    Unpaired surrogates, which are invalid, become U+FFFD. Raises OSError if the disk is full.
    """
    with open(file, "ab", buffering=0) as stream:
        stream.truncate(file.read_bytes().rfind(b"\n") + 1)

        def append(record: Record) -> None:
            text = json.dumps(asdict(record), ensure_ascii=False) + "\n"
            line = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: {paths.shown(file)}; free some space and run this again: "
                    "it continues after the last complete record",
                ) from None

        yield append
        os.fsync(stream)


def read(file: Path) -> list[Record]:
    """All records of a store without an incomplete last line, one per key: a text, if any.

    Raises ValueError, with file and line, if another line is invalid.
    """
    content = file.read_bytes() if file.exists() else b""
    records: dict[str, Record] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            fields = json.loads(line)
            lists = {name: tuple(v) for name, v in fields.items() if isinstance(v, list)}
            record = Record(**fields | lists)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{paths.shown(file)}, line {number}: not a record ({error}); delete that line and "
                f"{runs.MANIFEST} in its folder, and run notebook 02 again"
            ) from None
        if record.key not in records or records[record.key].text is None:
            records[record.key] = record
    return list(records.values())


@functools.cache
def finished(file: Path, content: str) -> list[Record]:
    """The records of a finished store, one per question, read once per process.

    Raises DataError if they do not match `content`, the hash in its manifest.
    """
    rows = read(file)
    if facts(rows)["content"] != content:
        raise DataError(
            f"{paths.shown(file)}: changed since it was finished; delete {runs.MANIFEST} in its "
            "folder and run notebook 02 again, which asks for what is missing"
        )
    return list({row.id: row for row in rows}.values())  # the last one per question
