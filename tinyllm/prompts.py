"""What the models read: the teacher's prompt and the student's input, each in one place.

The wording is the release's (its prompt file and its `predict: ` / `explain: ` / `rationale: `
prefixes). A teacher's prompt is a list of pieces, so that a reader sees where each part came from;
the prompt is their texts joined. Raise PROMPT_VERSION whenever a rendered prompt changes: stored
rationales are keyed by the prompt, and manifests carry the version.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tinyllm.data import Example
from tinyllm.params import ParameterError

PROMPT_VERSION = 2
ANSWER_PREFIX = "predict: "
STEP_BY_STEP = "Let's think step by step."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rationale_prefix(index: int) -> str:
    """The student's prefix for the teacher at `index` (0-based) of the parameter `teachers`.

    The release names two: `explain: ` (its first teacher, FLAN-T5) and `rationale: ` (LLaMA 2);
    from the third on, prefixes are numbered.
    """
    return ("explain: ", "rationale: ")[index] if index < 2 else f"rationale {index + 1}: "


def lettered(options: Sequence[str]) -> str:
    """Options as the release writes them, one a line: `(a) first`."""
    return "\n".join(f"({LETTERS[i]}) {option}" for i, option in enumerate(options))


def student_question(example: Example) -> str:
    """The question with its options as the student reads it, without its context and prefix."""
    return f"{example.question}\nAnswer Choices:\n{lettered(example.options)}"


def student_answer(example: Example) -> str:
    """Target of the answer task: the gold option's text (the release's choice)."""
    return example.options[example.answer]


@dataclass(frozen=True)
class Piece:
    """A part of a prompt. block: whose (`example 1`, `question`). part: what it is. source: where
    it came from (a training question's id, the template, the gold answer)."""

    block: str
    part: str
    source: str
    text: str


def _asked(block: str, example: Example) -> list[Piece]:
    """One question as a teacher reads it: context and question, then its options."""
    pieces = [Piece(block, "label", "template", "Question: ")]
    if example.context:
        pieces.append(Piece(block, "context", example.id, f"{example.context}\n"))
    return [
        *pieces,
        Piece(block, "question", example.id, example.question),
        Piece(block, "label", "template", "\nOptions:\n"),
        Piece(block, "options", example.id, lettered(example.options)),
    ]


def _gold(block: str, example: Example, text: str) -> list[Piece]:
    return [
        Piece(block, "label", "template", "\nAnswer: "),
        Piece(block, "gold answer", example.id, text),
    ]


def teacher_pieces(example: Example, shots: Sequence[Example], *, forcing: bool) -> list[Piece]:
    """The prompt that asks a teacher for a rationale (paper, section on rationale generation).

    shots: the in-context examples, each with its gold letter, and with a rationale where its
        dataset gives one.
    forcing: the gold letter stands in the prompt (the teacher-forcing chain of thought).
    """
    pieces = []
    cue = f"\nRationale: {STEP_BY_STEP}"
    for number, shot in enumerate(shots, start=1):
        block = f"example {number}"
        pieces += [*_asked(block, shot), *_gold(block, shot, f"({LETTERS[shot.answer]})")]
        if shot.rationale:
            pieces.append(Piece(block, "cue", "template", cue))
            pieces.append(Piece(block, "rationale", shot.id, f" {shot.rationale}"))
        pieces.append(Piece(block, "label", "template", "\n\n"))
    pieces += _asked("question", example)
    if forcing:
        pieces += _gold("question", example, f"({LETTERS[example.answer]})")
    return [*pieces, Piece("question", "cue", "template", cue)]


def answer_pieces(example: Example, shots: Sequence[Example]) -> list[Piece]:
    """The prompt that asks a teacher for the answer itself: zero-shot if `shots` is empty.

    Answers are the options' texts, as the students' are.
    """
    pieces = []
    for number, shot in enumerate(shots, start=1):
        block = f"example {number}"
        pieces += [*_asked(block, shot), *_gold(block, shot, student_answer(shot))]
        pieces.append(Piece(block, "label", "template", "\n\n"))
    return [
        *pieces,
        *_asked("question", example),
        Piece("question", "cue", "template", "\nAnswer:"),
    ]


def joined(pieces: Sequence[Piece]) -> str:
    """The prompt that the pieces make up."""
    return "".join(piece.text for piece in pieces)


def teacher_prompt(example: Example, shots: Sequence[Example], *, forcing: bool) -> str:
    """`teacher_pieces` as one text."""
    return joined(teacher_pieces(example, shots, forcing=forcing))


def answer_prompt(example: Example, shots: Sequence[Example]) -> str:
    """`answer_pieces` as one text."""
    return joined(answer_pieces(example, shots))


def explained(pieces: Sequence[Piece]) -> pd.DataFrame:
    """A row a piece of a prompt, in its order: block, part, source and text (line ends as ⏎)."""
    frame = pd.DataFrame([vars(piece) for piece in pieces])
    frame["text"] = frame.text.str.replace("\n", "⏎")
    return frame


@dataclass(frozen=True)
class Fitted:
    """A prompt within its token budget.

    shots: ids of the in-context examples that are left. cut: words of context that were cut, and
    examples that were.
    """

    text: str
    shots: tuple[str, ...]
    cut: tuple[int, int] = (0, 0)


def fitted(
    example: Example,
    shots: Sequence[Example],
    render: Callable[[Example, Sequence[Example]], Sequence[Piece]],
    tokens: Callable[[str], int],
    budget: int,
) -> Fitted:
    """The prompt that `render` makes, cut to at most `budget` tokens.

    First contexts lose their ends, the question's and the examples' down to one common number of
    words; where even no context at all would not do, examples go, the last first. Questions and
    options are never cut: ParameterError where they alone are too long.
    """
    left = list(shots)
    longest = max(len(each.context.split()) for each in [example, *shots])

    def size(words: int) -> int:
        return tokens(prompt(words))

    def prompt(words: int) -> str:
        return joined(render(_cut(example, words), [_cut(shot, words) for shot in left]))

    if size(longest) <= budget:
        return Fitted(prompt(longest), tuple(shot.id for shot in left))
    while (least := size(0)) > budget:
        if not left:
            raise ParameterError(
                f"max_prompt: {budget}: question {example.id!r} with its options needs {least} "
                "tokens without any example or context; set max_prompt to at least that"
            )
        left.pop()
    words = bisect_right(range(longest + 1), budget, key=size) - 1
    lost = sum(max(0, len(each.context.split()) - words) for each in [example, *left])
    return Fitted(prompt(words), tuple(s.id for s in left), (lost, len(shots) - len(left)))


def _cut(example: Example, words: int) -> Example:
    """The example with at most so many words of context; an uncut one keeps its white space."""
    split = example.context.split()
    if len(split) <= words:
        return example
    return replace(example, context=" ".join(split[:words]))


class InContext:
    """The in-context example generator (paper, section on rationale generation).

    examples: `random:K` draws K training questions, as the paper does; `similar:K` takes the K
        whose question and options are nearest by TF-IDF, the nearest last; `none` gives none.
    Never the question itself, nor one of the same wording. The draw depends on `seed` and the
    question's id alone, so it is the same in whatever order and however often questions are asked.
    A pool of look-alikes may give fewer than K.
    """

    def __init__(self, pool: Sequence[Example], examples: str, seed: int):
        self.pool, self.seed = pool, seed
        self.kind, _, number = examples.partition(":")
        self.number = int(number or 0)
        if self.kind == "similar":
            from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

            self.words = TfidfVectorizer(sublinear_tf=True)
            self.index = self.words.fit_transform([student_question(each) for each in pool])

    def __call__(self, example: Example) -> list[Example]:
        """The in-context examples of one question."""
        if self.kind == "similar":
            return self._nearest(example)
        draw = random.Random(f"{self.seed}:{example.id}")
        shots: dict[str, Example] = {}
        for _ in range(100 * self.number):
            shot = self.pool[draw.randrange(len(self.pool))]
            if self._other(shot, example):
                shots.setdefault(shot.id, shot)
            if len(shots) == self.number:
                break
        return list(shots.values())

    def _nearest(self, example: Example) -> list[Example]:
        asked = self.words.transform([student_question(example)])
        near = (self.index @ asked.T).toarray()[:, 0]
        shots: dict[str, Example] = {}  # one a wording
        for i in sorted(range(len(near)), key=lambda i: (-near[i], i)):
            if self._other(self.pool[i], example):
                shots.setdefault(self.pool[i].question_key(), self.pool[i])
            if len(shots) == self.number:
                break
        return list(shots.values())[::-1]

    @staticmethod
    def _other(shot: Example, example: Example) -> bool:
        return shot.id != example.id and shot.question_key() != example.question_key()
