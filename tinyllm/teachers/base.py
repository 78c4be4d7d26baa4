"""What all teachers have in common: prompts go in, completions or refusals come out.

micro:a, micro:b                  two small models that the study trains (`teachers.micro`)
release:flan-t5, release:llama2   recorded rationales of the paper's release; never asked
hf:MODEL                          a transformers model: hub id, folder, alias (`teachers.hf`)
openai:URL#MODEL                  an OpenAI-compatible server (`teachers.openai`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote.

    finish: `stop`, `length` (cut by max_new_tokens) or `scored` (an answer chosen by its score).
    tokens: of the prompt, and written; None where a server does not say.
    scores: log-probability per token of each option, where the teacher was asked to answer.
    thinking: what a reasoning model wrote before its answer (see `apart`).
    """

    text: str
    finish: str
    tokens: tuple[int, int] | None = None
    scores: tuple[float, ...] | None = None
    thinking: str = ""


@dataclass(frozen=True)
class Refused:
    """Why a prompt got no text. final: asked again in the same way, it would be refused again."""

    reason: str
    final: bool
    thinking: str = ""


_TAGS = "think|thinking|thought|reasoning"
_BLOCK = re.compile(rf"(?is)<({_TAGS})\b[^>]*>(.*?)</\1>|\[think\](.*?)\[/think\]")
_OPENED = re.compile(rf"(?i)<(?:{_TAGS})\b[^>]*>|\[think\]")
_CLOSED = re.compile(rf"(?i)</(?:{_TAGS})>|\[/think\]")


def apart(text: str, prompt: str = "") -> tuple[str, str]:
    """Thinking and answer of a text with `<think>...</think>`; no thinking where it has none.

    A block that never closes was cut off: what follows is thinking. prompt: as rendered; a chat
        template may have opened the block, and on a server that is not seen: a text that only
        closes one began with thinking.
    """
    opened = [tag[0] for tag in _OPENED.finditer(prompt) if prompt.rstrip().endswith(tag[0])]
    text = "".join(opened[-1:]) + text
    if not _OPENED.search(text):
        *thinking, answer = _CLOSED.split(text, maxsplit=1)
    else:
        thinking = [block[2] or block[3] or "" for block in _BLOCK.finditer(text)]
        answer, *cut = _OPENED.split(_BLOCK.sub("", text), maxsplit=1)
        thinking += cut
    return "\n".join(part.strip() for part in thinking).strip(), answer.strip()


def only_thinking(thinking: str, finish: str, limit: int) -> Refused:
    """The refusal of a reply that has thinking and no answer, with the remedy."""
    cut = finish == "length"
    remedy = f"raise max_new_tokens ({limit})" if cut else f"finish reason {finish!r}"
    return Refused(f"only thinking, no answer: {remedy}", True, thinking)


Replies = Iterator[tuple[int, Completion | Refused]]  # (index of the prompt, its reply)


class Teacher(Protocol):
    """Anything that completes prompts.

    revision: identifies the weights. settings: how it decodes. Both are part of a record's key.
    """

    revision: str
    settings: dict[str, Any]

    def rendered(self, prompt: str) -> str:
        """The prompt as the model reads it, in a chat model's template."""

    def tokens(self, prompt: str) -> int:
        """How many tokens the model reads for a prompt that is not yet rendered."""

    def write(self, prompts: Sequence[str], seeds: Sequence[int] = ()) -> Replies:
        """Complete rendered prompts, in whatever order the replies come.

        seeds: of each prompt's text, where the teacher draws it; without them, all are 0.
        """

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Replies:
        """Choose among each prompt's options, by log-probability or by what is written."""
