"""The rationales: what each teacher wrote, once, for every student, arm and seed.

    runs/STUDY/DATASET/rationales/TEACHER/VARIANT/rationales.jsonl

The file is a `tinyllm.store`: append-only, keyed, resumable. The stored rationale is the record;
what the parameter `cleaning` mends or drops is mended or dropped on the way to the student.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from tinyllm import arms, audit, data, extract, paths, prompts, release, runs, store, teachers
from tinyllm.data import Example
from tinyllm.params import Params
from tinyllm.paths import rationales as folder
from tinyllm.store import Record

FILE = "rationales.jsonl"


def spec(params: Params, teacher: str) -> dict[str, Any]:
    """All that one teacher's rationales depend on."""
    base = paths.study(params.study, params.dataset)
    asked = [] if teacher.startswith("release:") else ["examples", "teacher_forcing"]
    asked += ["max_prompt", "max_new_tokens"] if asked else []
    return {
        "stage": "rationales",
        "versions": {"store": store.STORE_VERSION, "prompt": prompts.PROMPT_VERSION},
        "teacher": teacher,
        "data": runs.inputs(base / "data"),
        "data_seed": params.data_seed,
        **params.spec(*asked),
        **teachers.weights(teacher),
    }


def collect_all(params: Params) -> dict[str, Path]:
    """`collect` for every teacher and every variant that an arm of the study needs.

    Returns the run folder by teacher of the study's own variant.
    """
    teachers.prepare(params)
    for each in arms.variants(params):
        for teacher in each.teachers:
            collect(each, teacher)
    return {teacher: collect(params, teacher) for teacher in params.teachers}


def collect(params: Params, teacher: str) -> Path:
    """Ask one teacher for a rationale for every training question that has none yet.

    Returns the run folder. A finished folder costs no call. Raises StaleRun where the folder holds
    rationales of other parameters, store.Unanswered where questions got no answer, RuntimeError
    where another process is writing there.
    """
    where, wanted = folder(params, teacher), spec(params, teacher)
    if runs.shared(where, wanted):
        return where
    with runs.recording(where, wanted) as facts:
        train = training_questions(params)
        if teacher.startswith("release:"):
            _record(where / FILE, params, teacher, train)
        else:
            asked = teachers.load(params, teacher)
            store.fill(where / FILE, teacher, asked, requests(params, asked, train))
        records = store.read(where / FILE)
        facts["content"] = runs.digest(sorted((r.key, r.text) for r in records))
        facts |= counts(records, len(train)) | store.cuts(records)
    return where


def training_questions(params: Params) -> list[Example]:
    """The training questions of a study, which alone teachers are asked to explain."""
    base = paths.study(params.study, params.dataset)
    return data.examples(data.read(base / "data")["train"])


def requests(
    params: Params, teacher: teachers.Teacher, train: Sequence[Example]
) -> list[store.Request]:
    """What a teacher is asked: a prompt a training question, within `max_prompt` tokens."""
    in_context = prompts.InContext(train, params.examples, params.data_seed)
    render = partial(prompts.teacher_pieces, forcing=params.teacher_forcing)
    return [
        store.Request(
            each.id,
            prompts.fitted(each, in_context(each), render, teacher.tokens, params.max_prompt),
        )
        for each in train
    ]


def _record(file: Path, params: Params, teacher: str, train: Sequence[Example]) -> None:
    """Store the rationales that the paper's release holds, missing ones as None."""
    have = {record.key for record in store.read(file)}
    written = teachers.recorded(params.dataset, teacher)
    with store.appending(file) as append:
        for example in train:
            key = runs.digest([teacher, release.COMMIT, params.dataset, example.id])
            if key not in have:
                text = written.get(example.id)
                append(Record(key, example.id, teacher, "", text, "recorded"))


def counts(records: Sequence[Record], questions: int) -> dict[str, int]:
    """How many questions have no rationale, an empty one (or the prompt's echo), one cut off."""
    return {
        "questions": questions,
        "missing": questions - sum(r.text is not None for r in records),
        "empty": sum(r.text is not None and release.says_nothing(r.text) for r in records),
        "cut_off": sum(cut_off(r) for r in records),
    }


def cut_off(record: Record) -> bool:
    """True if a rationale ends mid-sentence, or was stopped by its token limit."""
    text = record.text or ""
    return audit.cut_off(text) or (bool(text.strip()) and record.finish == "length")


def texts(params: Params, teacher: str) -> dict[str, str]:
    """Rationale by question id as students are trained on it; questions without one are absent.

    What the parameter `cleaning` mends or drops is mended or dropped here; the store keeps the
    original.
    """
    asked = {example.id: example for example in training_questions(params)}
    kept = {}
    for record in finished(params, teacher):
        text = cleaned(record, asked[record.id], params.cleaning)
        if text:
            kept[record.id] = text
    return kept


def written(params: Params) -> dict[str, dict[str, str | None]]:
    """What every teacher wrote, as it wrote it: text by question id, by teacher."""
    return {
        teacher: {record.id: record.text for record in finished(params, teacher)}
        for teacher in params.teachers
    }


def finished(params: Params, teacher: str) -> list[Record]:
    """The records of a finished store; FileNotFoundError, with the remedy, where it is not."""
    where = folder(params, teacher)
    runs.inputs(where)
    return _cached(where / FILE, (where / FILE).stat().st_mtime_ns)


@cache
def _cached(file: Path, _: int) -> list[Record]:
    return store.read(file)


def cleaned(record: Record, example: Example, cleaning: Sequence[str]) -> str:
    """A rationale after `cleaning`, empty if it is dropped (or was).

    repair: what follows an invented question is cut off, then the last, unfinished sentence; a
        rationale without any whole sentence is left as it is.
    The others drop a rationale, as it is after repair:
    drop-empty: nothing but the prompt's echo is left. drop-cut: it is cut off. drop-wrong: it
        argues for another option than the gold one, as far as a rule can tell (of what it drops of
        LLaMA 2's, a reader would keep a third). drop-repeated: it says a sentence twice.
        drop-foreign: it is in another language or script.
    """
    text = (record.text or "").strip()
    if "repair" in cleaning:
        text = repaired(text)
    dropped = any(rule in cleaning and drops(text, example) for rule, drops in FILTERS.items())
    return "" if dropped else text


FILTERS: dict[str, Callable[[str, Example], bool]] = {
    "drop-empty": lambda text, _: release.says_nothing(text),
    "drop-cut": lambda text, _: audit.cut_off(text),
    "drop-wrong": lambda text, example: audit.argues_for_other(text, example),
    "drop-repeated": lambda text, _: audit.repeats(text),
    "drop-foreign": lambda text, _: audit.foreign(text),
}


def repaired(text: str) -> str:
    """A text up to the last whole sentence before an invented question (`extract.INVENTED`)."""
    if release.CLOSING.search(text):
        return text
    text = extract.INVENTED.split(text, maxsplit=1)[0].strip()
    whole = re.match(r"(?s).*[.!?][\"')\]]*(?=\s|$)", text)
    return whole[0].strip() if whole else text


def overview(params: Params) -> pd.DataFrame:
    """A row a teacher: questions, missing, empty and cut-off rationales, prompts that the token
    budget cut, and the rationales' median words."""
    rows = {}
    for teacher in params.teachers:
        records = finished(params, teacher)
        words = [len(record.text.split()) for record in records if record.text]
        facts = (runs.read_manifest(folder(params, teacher)) or {})["facts"]
        known = counts(records, facts["questions"]) | store.cuts(records)
        rows[teacher] = known | {"words": median(words or [0])}
    return pd.DataFrame(rows).T


def samples(params: Params, rows: int = 3) -> str:
    """Good and bad ones, as Markdown: training questions and what each teacher wrote for them.

    A question for each reading of the first teacher's rationale (`audit.verdict`: argues for the
    gold option, for another one, for none that can be told), as far as there are any; then the
    first others up to `rows`. What the same rules say of each text stands before it.
    """
    said = written(params)
    train = training_questions(params)
    found: dict[str, Example] = {}
    for each in train:
        first = next((texts[each.id] for texts in said.values() if texts.get(each.id)), "")
        found.setdefault(audit.verdict(first, each), each)
    chosen = [found[verdict] for verdict in audit.VERDICTS if verdict in found][:rows]
    chosen += [each for each in train if each not in chosen][: rows - len(chosen)]
    lines = []
    for each in chosen:
        lines += [f"**{each.question}**", prompts.lettered(each.options).replace("\n", " · ")]
        lines.append(f"gold: *{prompts.student_answer(each)}*")
        for teacher, texts in said.items():
            text = texts.get(each.id) or ""
            reading = audit.verdict(text, each) or "nothing"
            notes = [reading, *(["cut off"] if audit.cut_off(text) else [])]
            line = " ".join(text.split()) or "(none)"
            lines.append(f"- `{teacher}` ({', '.join(notes)}): {line}")
    return "\n\n".join(lines)
