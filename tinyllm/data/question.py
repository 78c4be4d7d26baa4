"""The question record that all sources produce, and statistics that need no model."""

import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd


class DataError(ValueError):
    """Invalid data; the message gives file, location, reason and remedy."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    id: str  # unique within its split
    context: str  # text to read before the question (such as an abstract); may be empty
    question: str
    options: list[str]  # 2 to 26 texts; the gold one differs from all others
    answer: int  # index of the gold option, from 0
    rationale: str = ""  # the dataset's own explanation, if it has one

    @property
    def gold(self) -> str:
        """Text of the gold option."""
        return self.options[self.answer]

    def key(self) -> str:
        """Context and question without case, punctuation and spacing, to find equal questions."""
        return re.sub(r"\W+", " ", f"{self.context} {self.question}").strip().casefold()

    def checked(self) -> Self:
        """Return this question; raises ValueError, with the reason, if it cannot be used."""
        if not self.question:
            raise ValueError("the question is empty")
        if not 2 <= len(self.options) <= 26:
            raise ValueError(f"{len(self.options)} option(s); allowed are 2 to 26, one per letter")
        if "" in self.options:
            raise ValueError(f"option {self.options.index('') + 1} is empty")
        if self.options.count(self.gold) > 1:
            raise ValueError(f"two options are equal to the gold one, {self.gold!r}")
        return self


# `B`, `(b)`, `B.`, `B)`, `b:`; after a bracket, dot or colon the option's text may follow.
LETTER = re.compile(r"\(?(\w{1,2})[.):]*(?:(?<=[.):])\s*(\S.*))?", re.DOTALL)


def gold_index(answer: str, options: Sequence[str], labels: Sequence[str] = ()) -> int:
    """Index of the gold option, from 0; ValueError if there is none. The first match counts:

    1. the label of an option, if the file gives labels (ARC's `answerKey: "2"`);
    2. the text of an option (with `c`, `a` the answer `a` is the second); ValueError if,
       without labels, it is also the index of another option (`1` with options `4`, `2`, `1`);
    3. its letter (its own, as in `B) fire`, if each has one) or label as `B`, `b`, `(b)`, `B.`,
       `B)`, or `(b) text` with the option's text;
    4. a number as index from 0, unless an option is a number or mentions this one.
    """
    letters = list(string.ascii_lowercase[: len(options)])
    own = [m[1].casefold() for m in map(LETTER.fullmatch, options) if m and m[2]]  # `B) fire`
    marks = [label.casefold() for label in labels] or (own if sorted(own) == letters else letters)
    if labels and answer.casefold() in marks:
        return marks.index(answer.casefold())
    if answer in options:
        index = options.index(answer)
        if not labels and answer.isdecimal() and index != int(answer) < len(options):
            raise ValueError(f"answer {answer!r}: an option's text or an index? Use letters")
        return index
    letter = LETTER.fullmatch(answer)
    if letter and letter[1].casefold() in marks:
        index = marks.index(letter[1].casefold())
        if letter[2] in (None, options[index]):
            return index
    if number := re.fullmatch(r"(\d+)(?:\.0)?", answer):
        similar = re.compile(rf"\W*\d[\d.,]*\W*|.*\b{number[1]}\b.*", re.DOTALL)
        if int(number[1]) < len(options) and not any(map(similar.fullmatch, [*options, *labels])):
            return int(number[1])
    from_one = " in all rows, if the file counts from 1"
    raise ValueError(
        f"answer {answer!r} is not the text of an option {list(options)}, a letter from {marks[0]} "
        f"to {marks[-1]} or an index from 0 (allowed if no option contains numbers); use "
        f"letters{from_one if number and int(number[1]) == len(options) else ''}"
    )


def doubtful(read: Sequence[tuple[str, str, Question]]) -> list[str]:
    """Answers (place, answer as written, question) whose reading a file's other answers contradict.

    A letter that is read as an option's text, although other answers are letters; indices without
    any 0, where about five or more are expected, so that the file probably counts from 1.
    """
    bad, marks = [], string.ascii_lowercase
    letters = [a for _, a, row in read if a != row.gold and re.fullmatch(r"\W*[A-Za-z]\W*", a)]
    for place, answer, row in read if letters else ():
        index = marks.find(answer.casefold()) if len(answer) == 1 else -1
        if answer == row.gold and -1 < index < len(row.options) and index != row.answer:
            both = " or ".join(f"({marks[i]}) {row.options[i]}" for i in (index, row.answer))
            bad.append(f"{place}: answer {answer!r}: an option's text or a letter? Write {both}")
    counts = [(at, q) for at, a, q in read if q.gold != a in (str(q.answer), f"{q.answer}.0")]
    values, zeros = {q.answer for _, q in counts}, sum(1 / len(q.options) for _, q in counts)
    if 0 not in values and len(values) > 1 and zeros >= 5:  # one value: all may be true, or false
        (place, row), why = counts[0], "use letters, if the file counts from 1"
        bad.append(f"{place}: answer '{row.answer}': none of {len(counts)} indices is 0; {why}")
    return bad


Splits = dict[str, list[Question]]  # train, valid and test


def drawn(rows: Sequence[Question], sizes: Sequence[int], seed: str) -> list[list[Question]]:
    """Randomly split `rows` into parts of these sizes and the rest, each in the original order."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    parts, start = [], 0
    for size in [*sizes, len(rows)]:
        parts.append([rows[index] for index in sorted(order[start : start + size])])
        start += size
    return parts


def listed(bad: Sequence[str]) -> str:
    """The number of bad rows and the first 20 of them, one per line."""
    more = [f"... and {len(bad) - 20} more"] if len(bad) > 20 else []
    return "\n  ".join([f"{len(bad)} bad row(s):", *bad[:20], *more])


def baselines(splits: Splits) -> pd.DataFrame:
    """Accuracies (0 to 1) that ignore the question, one row per split.

    chance: mean over questions of 1 / number of options.
    majority: always giving the most common answer in train (column `always`): a text if all
        questions have the same options (yes / no / maybe), otherwise a letter.
    """
    fixed = len({tuple(row.options) for rows in splits.values() for row in rows}) == 1

    def label(row: Question) -> str:
        return row.gold if fixed else f"({chr(ord('a') + row.answer)})"

    always, _ = Counter(map(label, splits["train"])).most_common(1)[0]
    return pd.DataFrame(
        {
            "split": split,
            "questions": len(rows),
            "chance": sum(1 / len(row.options) for row in rows) / len(rows),
            "majority": sum(label(row) == always for row in rows) / len(rows),
            "always": always,
        }
        for split, rows in splits.items()
    )


def in_train(splits: Splits, split: str = "test") -> set[str]:
    """Ids of the questions of `split` whose wording (`Question.key`) is also in train."""
    keys = {row.key() for row in splits["train"]}
    return {row.id for row in splits[split] if row.key() in keys}
