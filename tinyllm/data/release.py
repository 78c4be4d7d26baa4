"""The paper's official release: six datasets with rationales of FLAN-T5-XL and LLaMA-2-7B.

The files come from the public repository YikunHan42/TinyLLM at a pinned commit, or from a mirror
that TINYLLM_RELEASE_DIR names, and are checked against release.sha256. Every dataset has its own
licence, so no file of the release is part of this project.

    datasets/NAME/NAME_SPLIT.json        the questions
    datasets/NAME/llm/SPLIT_CoT_K.json   records, K = 0, 1, ... in numeric order, one per question:

        RATIONALE-OF-FLAN-T5 Thus, the answer is (x) TEXT

        Q: QUESTION
        Answer Choices:
        (a) ...
        (b) ... llama rationale: RATIONALE-OF-LLAMA

Exceptions: PIQA's records have no LLaMA part; in ARC's test split and in BioASQ `A: Let's think
step by step.` follows the options; `nan` marks a rationale that the authors did not have. The
closing sentence of FLAN-T5's part always names the gold option.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import pooch

from tinyllm import paths, runs
from tinyllm.data.question import DataError, Question

COMMIT = "9f5bebec8b22037f80ffa8d17bfeb01a2a524a3b"
URL = f"https://raw.githubusercontent.com/YikunHan42/TinyLLM/{COMMIT}/"
TEACHERS = ("flan-t5", "llama2")
RETRIES = 2
WITH_CONTEXT = ("pubmedqa", "bioasq")
CONTEXT_END = " \n "  # separates the abstract or snippets from the question

CLOSING = re.compile(r"Thus, the answer is \(([a-z])\)[^\n]*\Z")
_PROMPT_END = re.compile(r"\nA: ?Let's think step by step\.\Z")


@dataclass(frozen=True)
class Record:
    """One rationale record; a missing rationale is None."""

    question: str
    options: list[str]
    answer: int  # index of the letter in FLAN-T5's closing sentence
    flan: str | None
    llama: str | None


@cache
def _registry() -> dict[str, str]:
    """SHA-256 of every file of the release that the project reads, by path."""
    lines = (resources.files("tinyllm.data") / "release.sha256").read_text("utf-8").splitlines()
    return {path: digest for digest, path in map(str.split, lines)}


def release_file(path: str) -> Path:
    """Path of a release file, in the mirror or downloaded; DataError if missing or changed."""
    if mirror := paths.release_mirror():
        file = mirror / path
        if file.is_file() and runs.sha256(file) == _registry()[path]:
            return file
        raise DataError(f"{file} is missing or changed; copy it from {URL}{path}")
    folder = paths.cache() / "release"
    store = pooch.create(folder, URL, registry=_registry(), retry_if_failed=RETRIES)
    pooch.get_logger().setLevel("WARNING")  # otherwise one line for each of dozens of files
    try:
        return Path(store.fetch(path))
    except (OSError, ValueError) as error:  # no network, or an unexpected SHA-256
        raise DataError(
            f"{error}; without a network set TINYLLM_RELEASE_DIR to a mirror"
        ) from error


@cache
def questions(dataset: str, split: str) -> list[Question]:
    """The questions of a split in the release's order, without white space at the ends of texts.

    In pubmedqa and bioasq the abstract or snippets become the context. PIQA's train is rebuilt from
    its rationale records, since a mirror may lack its large file; its ids are train-0, train-1, ...
    """
    if (dataset, split) == ("piqa", "train"):
        return [
            Question(f"train-{index}", "", record.question, record.options, record.answer)
            for index, record in enumerate(records(dataset, split))
        ]
    text = release_file(f"datasets/{dataset}/{dataset}_{split}.json").read_text("utf-8")
    if dataset == "obqa":  # one object per line; not splitlines, which also splits at U+2028
        content = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        content = json.loads(text)
    rows = []
    for row in content:
        options = [option.strip() for option in row["choices"]]
        context, question = "", row["question"].strip()
        if dataset in WITH_CONTEXT:
            context, _, question = question.rpartition(CONTEXT_END)
        texts = str(row["id"]), context.strip(), question.strip()
        rows.append(Question(*texts, options, options.index(row["answer"].strip())))
    return rows


@cache
def records(dataset: str, split: str) -> list[Record]:
    """The rationale records of a split, one per question in the same order."""
    pattern = re.compile(rf"datasets/{dataset}/llm/{split}_CoT_(\d+)\.json")
    files = sorted((int(m[1]), m[0]) for m in map(pattern.fullmatch, _registry()) if m)
    contents = [json.loads(release_file(path).read_text("utf-8")) for _, path in files]
    return [parse_record(text) for texts in contents for text in texts]


def parse_record(text: str) -> Record:
    """Parse one record."""
    # LLaMA often adds invented questions of the same form, so the first `Q:` is the record's.
    flan, _, rest = text.partition("\n\nQ: ")
    question, _, rest = rest.partition("\nAnswer Choices:\n")
    block, _, llama = rest.partition(" llama rationale:")
    _, *options = re.split(r"(?:\A|\n)\([a-z]\) ", _PROMPT_END.sub("", block))
    closing = CLOSING.search(flan)
    nothing = ("", "nan")  # `nan` was an empty cell of the authors' table
    return Record(
        question=question.strip(),
        options=[option.strip() for option in options],
        answer=ord(closing[1]) - ord("a"),
        flan=None if flan[: closing.start()].strip() in nothing else flan.strip(),
        llama=None if llama.strip() in nothing else llama.strip(),
    )


def rationales(dataset: str, split: str) -> list[tuple[str | None, str | None]]:
    """FLAN-T5's and LLaMA-2's rationale for each row of `questions`, None if missing."""
    return [(record.flan, record.llama) for record in records(dataset, split)]
