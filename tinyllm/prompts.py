"""Prompts: the teacher's prompt and the student's input, each rendered in one place.

The wording is the release's (its prompt file and its `predict: ` / `explain: ` / `rationale: `
prefixes). Increase PROMPT_VERSION whenever a rendered prompt changes: stored rationales are keyed
by the prompt, and manifests record the version.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tinyllm.data.question import Question
from tinyllm.params import ParameterError

PROMPT_VERSION = 2
ANSWER_PREFIX = "predict: "
STEP_BY_STEP = "Let's think step by step."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rationale_prefix(index: int) -> str:
    """The student's prefix for the teacher at `index` (0-based) of the parameter `teachers`.

    The first two are the release's, for FLAN-T5 and LLaMA 2; later ones are numbered.
    """
    return ("explain: ", "rationale: ")[index] if index < 2 else f"rationale {index + 1}: "


def lettered(options: Sequence[str]) -> str:
    """Options as the release writes them, one per line: `(a) first`."""
    return "\n".join(f"({LETTERS[i]}) {option}" for i, option in enumerate(options))


def student_question(question: Question) -> str:
    """The question with its options as the student reads it, without its context and prefix."""
    return f"{question.question}\nAnswer Choices:\n{lettered(question.options)}"


def _asked(question: Question) -> str:
    """One question as a teacher reads it: context and question, then its options."""
    context = f"{question.context}\n" if question.context else ""
    return f"Question: {context}{question.question}\nOptions:\n{lettered(question.options)}"


def teacher_prompt(question: Question, shots: Sequence[Question], *, forcing: bool) -> str:
    """The prompt that asks a teacher for a rationale (paper, section on rationale generation).

    shots: the in-context examples, each with its gold letter and the dataset's rationale, if any.
    forcing: include the gold letter (teacher-forcing chain of thought).
    """
    cue = f"\nRationale: {STEP_BY_STEP}"
    parts = []
    for shot in shots:
        rationale = f"{cue} {shot.rationale}" if shot.rationale else ""
        parts.append(f"{_asked(shot)}\nAnswer: ({LETTERS[shot.answer]}){rationale}\n\n")
    gold = f"\nAnswer: ({LETTERS[question.answer]})" if forcing else ""
    return "".join([*parts, _asked(question), gold, cue])


def answer_prompt(question: Question, shots: Sequence[Question]) -> str:
    """The prompt that asks a teacher for its own answer, the text of an option."""
    parts = [f"{_asked(shot)}\nAnswer: {shot.gold}\n\n" for shot in shots]
    return "".join([*parts, _asked(question), "\nAnswer:"])


@dataclass(frozen=True)
class Fitted:
    """A prompt within its token budget."""

    text: str
    shots: tuple[str, ...]  # ids of the in-context examples that remain
    cut: tuple[int, int] = (0, 0)  # number of context words and of examples that were removed


def fitted(
    question: Question,
    shots: Sequence[Question],
    render: Callable[[Question, Sequence[Question]], str],
    count_tokens: Callable[[str], int],
    budget: int,
) -> Fitted:
    """Render a prompt, shortened to at most `budget` tokens.

    Contexts are cut first, at the end: those of the question and of the examples to one common
    number of words. If the prompt is too long even without context, examples are dropped, the last
    one first. Questions and options are never cut; ParameterError if they alone are too long.
    """
    left = list(shots)
    longest = max(len(row.context.split()) for row in [question, *shots])

    def prompt(words: int) -> str:
        return render(_cut(question, words), [_cut(shot, words) for shot in left])

    def size(words: int) -> int:
        return count_tokens(prompt(words))

    words = longest
    if size(longest) > budget:
        while (least := size(0)) > budget:
            if not left:
                raise ParameterError(
                    f"max_prompt: {budget}: question {question.id!r} alone needs {least} tokens"
                )
            left.pop()
        words = bisect_right(range(longest + 1), budget, key=size) - 1
    lost = sum(max(0, len(row.context.split()) - words) for row in [question, *left])
    return Fitted(prompt(words), tuple(s.id for s in left), (lost, len(shots) - len(left)))


def _cut(question: Question, words: int) -> Question:
    """The question with at most `words` words of context; a context that fits is unchanged."""
    split = question.context.split()
    short = " ".join(split[:words])
    return question if len(split) <= words else replace(question, context=short)


def in_context(
    question: Question, pool: Sequence[Question], examples: str, seed: int
) -> list[Question]:
    """The in-context examples of a question (paper, section on rationale generation).

    examples: `random:K` draws K questions of `pool` (train), as the paper does; `none` draws none.
        The question itself and questions with the same wording are never drawn, so a small pool may
        yield fewer than K. The draw depends only on the pool, `seed` and the question's id.
    """
    number = int(examples.partition(":")[2] or 0)
    draw, shots = random.Random(f"{seed}:{question.id}"), {}
    for _ in range(100 * number):
        if len(shots) == number:
            break
        shot = pool[draw.randrange(len(pool))]
        if shot.id != question.id and shot.key() != question.key():
            shots.setdefault(shot.id, shot)
    return list(shots.values())
