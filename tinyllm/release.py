"""The paper's official release: six datasets, and what FLAN-T5-XL and LLaMA-2-7B wrote for them.

The files come from the public repository YikunHan42/TinyLLM at a pinned commit, or from a mirror
that TINYLLM_RELEASE_DIR names. Each is checked against its SHA-256 in published/release.sha256
either way. Every dataset has its own licence, so no file of the release is part of this project.

    datasets/NAME/NAME_SPLIT.json        the questions
    datasets/NAME/llm/SPLIT_CoT_K.json   records, K = 0, 1, ... in numeric order, one a question:

        RATIONALE-OF-FLAN-T5 Thus, the answer is (x) TEXT

        Q: QUESTION
        Answer Choices:
        (a) ...
        (b) ... llama rationale: RATIONALE-OF-LLAMA

What deviates (every record was looked at): PIQA's have no part of LLaMA's; in ARC's test and in
BioASQ the prompt's `A: Let's think step by step.` stands behind the options; a rationale that the
authors did not have is the word `nan` (an empty cell of their table). The answer's sentence in
FLAN-T5's part always names the gold option.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import pooch

from tinyllm import paths, runs
from tinyllm.data import DataError, Example
from tinyllm.prompts import STEP_BY_STEP

COMMIT = "9f5bebec8b22037f80ffa8d17bfeb01a2a524a3b"
URL = f"https://raw.githubusercontent.com/YikunHan42/TinyLLM/{COMMIT}/"
TEACHERS = ("flan-t5", "llama2")
RETRIES = 2
WITH_CONTEXT = ("pubmedqa", "bioasq")
# Abstract or snippets, then the question proper, are joined by this in one string.
CONTEXT_END = " \n "

CLOSING = re.compile(r"Thus, the answer is \(([a-z])\)[^\n]*\Z")
_PROMPT_END = re.compile(r"\nA: ?Let's think step by step\.\Z")


@dataclass(frozen=True)
class Record:
    """One rationale record, taken apart; white space at the ends of texts is dropped.

    flan, llama: the rationale as the teacher wrote it, FLAN-T5's with its closing sentence `Thus,
        the answer is (x) TEXT`; None where the record holds none.
    answer: index of the letter in that sentence, from 0.
    """

    question: str
    options: list[str]
    answer: int
    flan: str | None
    llama: str | None


@cache
def registry() -> dict[str, str]:
    """SHA-256 of every file of the release that the project reads, by path."""
    text = (resources.files("tinyllm") / "published" / "release.sha256").read_text("utf-8")
    pairs = [line.split(maxsplit=1) for line in text.split("\n") if line.strip()]
    return {path: digest for digest, path in pairs}


def release_file(path: str) -> Path:
    """A file of the release by its path there, from the mirror or downloaded; its SHA-256 is right.

    Raises DataError if the release has no such file, it is missing from the mirror, cannot be
    downloaded or has other content.
    """
    if path not in registry():
        raise DataError(f"{path}: no file of the release; published/release.sha256 lists them")
    mirror = paths.release_mirror()
    if mirror is None:
        return _download(path)
    file = mirror / path
    if not file.is_file():
        raise DataError(
            f"{file}: missing from the mirror that TINYLLM_RELEASE_DIR names; copy it there from "
            f"{URL}{path}, or unset that variable to download the release"
        )
    if (found := runs.sha256(file)) != registry()[path]:
        raise DataError(
            f"{file}: SHA-256 is {found}, the release has {registry()[path]}; copy it again from "
            f"{URL}{path}, or unset TINYLLM_RELEASE_DIR to download the release"
        )
    return file


def _download(path: str) -> Path:
    store = pooch.create(
        paths.cache() / "release", URL, registry=registry(), retry_if_failed=RETRIES
    )
    pooch.get_logger().setLevel("WARNING")  # else a line a file, and there are dozens
    try:
        return Path(store.fetch(path))
    except (OSError, ValueError) as error:  # no network; another SHA-256 than expected
        raise DataError(
            f"{URL}{path}: cannot be downloaded ({error}). Without a network, name a mirror of the "
            "release by the environment variable TINYLLM_RELEASE_DIR"
        ) from error


def release_examples(dataset: str, split: str) -> list[Example]:
    """The questions of a split as the release orders them.

    White space at the ends of questions and options is dropped (the authors' own records lack it
    too). In pubmedqa and bioasq the abstract or snippets become the context; all their rows have
    the joint, so none remains unsplit, and DataError says so if one did. Where two options have the
    same text (3 rows of obqa's train, none gold), all are kept.

    PIQA's train is always rebuilt from its rationale records, so that it is the same with every
    mirror: its own file lacks from release.sha256, and the method gives PIQA's valid and test back
    exactly. Its ids are train-0, train-1, ... in that order.
    """
    if (dataset, split) == ("piqa", "train"):
        return [
            Example(f"train-{index}", "", record.question, record.options, record.answer)
            for index, record in enumerate(release_records(dataset, split))
        ]
    path = f"datasets/{dataset}/{dataset}_{split}.json"
    rows = []
    for index, row in enumerate(_json_rows(release_file(path))):
        options = [option.strip() for option in row["choices"]]
        context, joint, question = row["question"].strip().rpartition(CONTEXT_END)
        if dataset not in WITH_CONTEXT:
            context, question = "", row["question"]
        elif not joint:
            raise DataError(f"{path}, row {index}: no context that ends with {CONTEXT_END!r}")
        if row["answer"].strip() not in options:
            raise DataError(f"{path}, row {index}: {row['answer']!r} is not among {options}")
        answer = options.index(row["answer"].strip())
        rows.append(Example(str(row["id"]), context.strip(), question.strip(), options, answer))
    return rows


def release_records(dataset: str, split: str) -> list[Record]:
    """The rationale records of a split, in its order, taken apart. Not compared with its rows."""
    pattern = re.compile(rf"datasets/{dataset}/llm/{split}_CoT_(\d+)\.json")
    files = sorted((int(m[1]), m[0]) for m in map(pattern.fullmatch, registry()) if m)
    records = []
    for _, path in files:
        for index, text in enumerate(json.loads(release_file(path).read_text("utf-8"))):
            try:
                records.append(parse_record(text))
            except ValueError as error:
                raise DataError(f"{path}, record {index}: {error}") from None
    return records


def parse_record(text: str) -> Record:
    """Take one record apart; ValueError says what it lacks.

    LLaMA often goes on to invent questions of the same form, so the first `Q:` is the record's.
    """
    flan, found, rest = text.partition("\n\nQ: ")
    if not found:
        raise ValueError("no question: `Q: ` is missing")
    question, found, rest = rest.partition("\nAnswer Choices:\n")
    if not found:
        raise ValueError("no options: `Answer Choices:` is missing")
    block, found, llama = rest.partition(" llama rationale:")
    _, *options = re.split(r"(?:\A|\n)\([a-z]\) ", _PROMPT_END.sub("", block))
    answer = CLOSING.search(flan)
    if answer is None:
        raise ValueError("no answer: `Thus, the answer is (x)` is missing")
    index = ord(answer[1]) - ord("a")
    if index >= len(options):
        raise ValueError(f"answer ({answer[1]}) of {len(options)} options")
    return Record(
        question=question.strip(),
        options=[option.strip() for option in options],
        answer=index,
        flan=_written(flan, flan[: answer.start()]),
        llama=_written(llama, llama) if found else None,
    )


def _written(text: str, own: str) -> str | None:
    """`text`, or None where `own`, the teacher's part of it, is empty (`nan` is an empty cell)."""
    return text.strip() if own.strip() not in ("", "nan") else None


def release_rationales(dataset: str, split: str) -> list[tuple[str | None, str | None]]:
    """FLAN-T5's and LLaMA-2's rationale of each row of the split, None where there is none.

    The texts are as the teachers wrote them and as the release trains on them: LLaMA's are often
    cut off, FLAN-T5's have the closing answer sentence.

    Raises DataError if a record's question, options or gold letter is not its row's.
    """
    rows, records = release_examples(dataset, split), release_records(dataset, split)
    if len(rows) != len(records):
        raise DataError(f"{dataset} {split}: {len(records)} records for {len(rows)} rows")
    for index, (row, record) in enumerate(zip(rows, records, strict=True)):
        whole = f"{row.context}{CONTEXT_END}{row.question}" if row.context else row.question
        # The joint may have had more white space around it than CONTEXT_END, so words are compared.
        if (whole.split(), row.options, row.answer) != (
            record.question.split(),
            record.options,
            record.answer,
        ):
            raise DataError(
                f"{dataset} {split}: record {index} is about another question "
                f"({record.question[-80:]!r}) than row {row.id} ({row.question[-80:]!r})"
            )
    return [(record.flan, record.llama) for record in records]


def says_nothing(text: str) -> bool:
    """True if nothing is left of a rationale without the prompt's echo and the answer sentence."""
    own = CLOSING.sub("", text).replace(STEP_BY_STEP.rstrip("."), "")
    return not re.search(r"\w", own)


def _json_rows(file: Path) -> list[dict]:
    """Rows of a JSON array, or of one object a line (obqa)."""
    text = file.read_text("utf-8")
    if text.lstrip().startswith("["):
        return json.loads(text)
    # Texts hold U+2028 and the like, at which splitlines() would cut.
    return [json.loads(line) for line in text.split("\n") if line.strip()]
