"""The interface of all teachers: prompts go in, completions or refusals come out.

micro:a, micro:b                  two small models that the study trains (`teachers.micro`)
release:flan-t5, release:llama2   recorded rationales of the paper's release; never prompted
hf:MODEL                          a transformers model: hub id, folder, alias (`teachers.hf`)
openai:URL#MODEL                  an OpenAI-compatible server (`teachers.openai`)
"""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote.

    finish: `stop`, `length` (cut by max_new_tokens) or `scored` (an answer chosen by its score).
    tokens: number in the prompt and in the text; None if a server does not report them.
    scores: log-probability per token of each option, if the teacher scored options.
    thinking: what a reasoning model wrote before its answer (see `apart`).
    """

    text: str
    finish: str
    tokens: tuple[int, int] | None = None
    scores: tuple[float, ...] | None = None
    thinking: str = ""


@dataclass(frozen=True)
class Refused:
    """Why a prompt got no text.

    final: the same request would be refused again. later: it was not sent, or too early (429, 503).
    """

    reason: str
    final: bool
    thinking: str = ""
    later: bool = False


_NAMES = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning)"
_CHANNEL = r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>"  # gpt-oss
_OPENS = (  # [THINK]: Mistral's; ◁think▷: Kimi's; START_THINKING: Cohere's; <|channel>: Gemma 4's
    rf"<{_NAMES}\b[^>]*>|\[think\]|◁think▷|<\|start_thinking\|>|<\|begin_of_thought\|>"
    r"|<\|channel>thought\b"
    rf"|{_CHANNEL}(?:analysis|commentary)<\|message\|>"
    r"|(?-i:\Aanalysis(?=[A-Z]))"  # gpt-oss on a server that leaves special tokens out
)
_CLOSES = (
    rf"</{_NAMES}\s*>|\[/think\]|◁/think▷|<\|end_thinking\|>|<\|end_of_thought\|>|<channel\|>"
    rf"|{_CHANNEL}final<\|message\|>|(?-i:assistantfinal(?!ly|i[sz]))"
)
_TAG = re.compile(rf"(?i)({_OPENS})|({_CLOSES})")
_SPECIAL = (  # tokens of a chat template, which some servers leave in the text
    r"<\|\w+\|>|<｜[^｜\s]+｜>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>|\[/?INST\]|\A<s>"
    r"|(?:</s>\s*)+\Z"
)
_TURN = rf"(?<![\s\"'`(])(?:{_SPECIAL})|(?:{_SPECIAL})(?=\s*(?:\Z|\n|<))"  # not `the <|x|> token`
_FIRST = re.compile(rf"(?:(?:{_SPECIAL})(?:(?:assistant|model)\b)?\s*)+")


def apart(text: str, prompt: str = "") -> tuple[str, str]:
    """Split a text into thinking (`<think>...</think>` blocks) and answer. The answer loses special
    tokens at its start, everything from a special token that ends its turn or starts another, and
    `<answer>...</answer>` (or `<response>`) around all of it.

    Text after an opening tag that is never closed is thinking (it was cut off). So is text before a
        closing tag that was never opened: the chat template may have opened the block, which
        servers do not show. prompt: the rendered prompt, if known.
    """
    tags = list(_TAG.finditer(prompt.rstrip()))
    inside = bool(tags and tags[-1][1] and tags[-1].end() == len(prompt.rstrip()))
    thinking, answer = [], []
    text, *rest = _TAG.split(text)
    (thinking if inside else answer).append(text)
    for opens, text in zip(rest[::3], rest[2::3], strict=True):
        if not opens and not inside and text.strip():
            thinking, answer = thinking + answer, []
        inside = bool(opens)
        (thinking if inside else answer).append(text)
    whole = "".join(answer).strip()
    first = _FIRST.match(whole)
    turn = re.split(_TURN, whole[first.end() if first else 0 :])[0].strip()
    turn = re.sub(r"(?is)\A<(answer|response)>((?:(?!</\1>).)*)(?:</\1>)?\Z", r"\2", turn)
    return "\n".join(filter(None, map(str.strip, thinking))), turn.strip()


def texts(content: Any) -> tuple[str | None, str]:
    """Text and thinking of a message's content: a string or, on some servers, (a list of) parts."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return (content if isinstance(content, str) else None), ""
    text, thinking = [], []
    for part in content:
        kind, inner = "text", part
        if isinstance(part, dict):
            kind = str(part.get("type") or "text")
            inner = (part.get(name) for name in ("text", kind, "summary", "content"))
            inner = next(filter(None, inner), None)
        inner, deeper = texts(inner)
        if kind in ("text", "output_text"):
            text.append(inner or "")
        elif kind.startswith(("thinking", "reasoning", "summary_text")):
            thinking.append(inner or deeper)
    return "".join(text) or None, "".join(thinking)


def only_thinking(thinking: str, finish: str, limit: int) -> Refused:
    """The refusal for a reply that has thinking but no answer, with the remedy."""
    cut = finish == "length"
    remedy = f"raise max_new_tokens ({limit})" if cut else f"finish reason {finish!r}"
    return Refused(f"only thinking, no answer: {remedy}", True, thinking)


Replies = Iterator[tuple[int, Completion | Refused]]  # (index of the prompt, its reply)


class Teacher(Protocol):
    """Anything that completes prompts.

    revision: identifies the weights. settings: for decoding. Both are part of a record's key.
    """

    revision: str
    settings: dict[str, Any]

    def rendered(self, prompt: str) -> str:
        """The prompt as the model reads it: in its chat template, if it has one (a server puts it
        there itself)."""
        return prompt

    @abstractmethod
    def tokens(self, prompt: str) -> int:
        """Number of tokens that the model reads for a prompt that is not yet rendered."""

    @abstractmethod
    def write(self, prompts: Sequence[str], seeds: Sequence[int] = ()) -> Replies:
        """Complete rendered prompts; replies may come in any order.

        seeds: one per prompt, used if the teacher samples; 0 for all by default.
        """

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Replies:
        """Choose one of each prompt's options, by log-probability or with a generated text."""
