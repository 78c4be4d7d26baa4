"""Tokenisation: inputs of encoder and decoder from a question, a task's prefix and a target.

Encoder-decoder students: the encoder reads `prefix question` (task_prefix encoder, the paper's way)
or `question` (task_prefix decoder, where the decoder reads the prefix instead). Decoder-only
students read one sequence: the prefix, the question and the target, or the question, the prefix and
the target. If an input is too long, its context is cut, never the question or an option.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tinyllm import prompts
from tinyllm.data.question import Question
from tinyllm.params import ParameterError, Params

IGNORED = -100  # label of a position without a target, as in torch's cross-entropy


@dataclass
class Encoding:
    """Turns questions and targets into token ids for one model.

    start: the decoder's first token; None for decoder-only models.
    limit: number of positions of the model; None if positions are relative (T5).
    cut_inputs, cut_targets: the questions whose context (id, key), or target (id), had to be cut.
    """

    tokenizer: PreTrainedTokenizerBase
    seq2seq: bool
    start: int | None
    task_prefix: str
    max_input: int
    max_target: int
    limit: int | None = None
    cut_inputs: set[tuple[str, str]] = field(default_factory=set)
    cut_targets: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        probe, bare = self.tokenizer("x").input_ids, self.tokens("x")
        before = probe.index(bare[0])
        self.lead = probe[:before]
        # Special tokens that a tokenizer appends (T5's </s>, BERT's [SEP]) end an encoder's input.
        # In a decoder-only sequence they are left out, since the target follows.
        self.tail = probe[before + len(bare) :] if self.seq2seq else []
        self.separator = [] if self.seq2seq else self.tokens("\n")

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, params: Params) -> Self:
        """The encoding for a loaded model, with the settings in `params`."""
        seq2seq = bool(model.config.is_encoder_decoder)
        start = model.config.decoder_start_token_id if seq2seq else None
        sizes = params.max_input, params.max_target, longest_input(model.config)
        return cls(tokenizer, seq2seq, start, params.task_prefix, *sizes)

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text alone, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def source(self, question: Question, prefix: str) -> list[int]:
        """Input ids of a question for the task with `prefix`, at most `max_input` long."""
        before, after = self._around(question, prefix)
        context = self.tokens(question.context) if question.context else []
        room = self.max_input - len(before) - len(after)
        if room < 0:
            raise ParameterError(
                f"max_input: {self.max_input}: question {question.id!r} with its options needs "
                f"{self.max_input - room} tokens without context; set max_input to at least that"
            )
        if len(context) > room:
            self.cut_inputs.add((question.id, question.key()))  # ids repeat between splits
        return [*before, *context[:room], *after]

    def _around(self, question: Question, prefix: str) -> tuple[list[int], list[int]]:
        """Token ids before and after a question's context, the only part that may be cut."""
        head = self.tokens(prefix) if self.task_prefix == "encoder" else []
        # Without a gap, a byte-level tokenizer would merge words of the context and the question.
        gap = "\n" if question.context else ""
        tail = [*self.tokens(gap + prompts.student_question(question)), *self.separator]
        ends = self.tokens(prefix) if not self.seq2seq and self.task_prefix == "decoder" else []
        return [*self.lead, *head], [*tail, *ends, *self.tail]

    def check(self, questions: Sequence[Question], prefixes: Sequence[str]) -> dict[str, int]:
        """Check that the model can read these questions; call it before a long training run.

        Returns counts: `questions`, `unknown` (with a token that the tokenizer does not know) and
        `tied` (two options have the same tokens, so scores cannot distinguish them).
        Raises ParameterError if a question with its options is longer than `max_input`, or if a
        parameter needs more positions than the model has.
        """
        longest = max(prefixes, key=lambda prefix: len(self.tokens(prefix)))
        options = [len(self.tokens(option)) for row in questions for option in row.options]
        room = self._check_limit(len(self.decoder_prefix(longest)), max(options, default=0) + 1)
        need = [sum(map(len, self._around(question, longest))) for question in questions]
        most, long = max(need, default=0), sum(n > self.max_input for n in need)
        if long:
            remedy = f"set max_input to at least {most}"
            if room and most > room:
                remedy = f"this model has room for {room} tokens, so use another student"
            raise ParameterError(
                f"max_input: {self.max_input}: {long} of {len(need)} questions with their options "
                f"are longer (up to {most} tokens), and only context is ever cut; {remedy}"
            )
        counts = {"questions": len(questions), "unknown": 0, "tied": 0}
        unknown = self.tokenizer.unk_token_id
        for question in questions:
            options = [tuple(self.tokens(option)) for option in question.options]
            text = self.tokens(f"{question.context} {question.question}")
            counts["tied"] += len(set(options)) < len(options)
            counts["unknown"] += unknown is not None and any(unknown in x for x in (text, *options))
        return counts

    def _check_limit(self, prefix: int, option: int) -> int | None:
        """Maximum number of tokens of an input; None if there is no limit.

        prefix, option: tokens of the decoder's prefix, and of the longest option.
        Raises ParameterError if parameters need more positions than the model has.
        """
        if self.limit is None:
            return None
        writes = {"max_target": self.max_target, "the longest option": option}
        if self.seq2seq:  # the last token is not read
            sizes = {"max_input": (self.max_input, self.limit)}
            sizes |= {name: (size, self.limit - prefix + 1) for name, size in writes.items()}
        else:  # one sequence holds both
            total = {name: self.max_input + size for name, size in writes.items()}
            sizes = {f"max_input + {name}": (size, self.limit) for name, size in total.items()}
        for name, (size, most) in sizes.items():
            if size > most:
                raise ParameterError(
                    f"{name}: {size}: this model has positions for {self.limit} tokens; "
                    f"{name} may be at most {most}"
                )
        return self.limit if self.seq2seq else self.limit - max(writes.values())

    def target(self, text: str, question_id: str = "") -> list[int]:
        """Target ids of a text and the end token, cut to at most `max_target` ids."""
        ids = self.tokens(text)
        if len(ids) >= self.max_target:
            self.cut_targets.add(question_id)
            return ids[: self.max_target]
        return [*ids, self.tokenizer.eos_token_id]

    def decoder_prefix(self, prefix: str) -> list[int]:
        """Ids that an encoder-decoder model's decoder reads before the target."""
        return [self.start, *(self.tokens(prefix) if self.task_prefix == "decoder" else [])]

    def normal(self, text: str) -> str:
        """A text for exact match: encoded and decoded, in lower case and with single spaces.

        T5's vocabulary has no braces, `<` or newlines, so both compared texts lose them.
        """
        back = self.tokenizer.decode(self.tokens(text), skip_special_tokens=True)
        return " ".join(back.split()).casefold()


def longest_input(config: PreTrainedConfig) -> int | None:
    """Number of positions of a model; None if positions are relative."""
    encoder = getattr(config, "encoder", None)
    limits = [getattr(c, "max_position_embeddings", None) for c in (config, encoder)]
    return next((limit for limit in limits if isinstance(limit, int)), None)


def pad(rows: list[list[int]], value: int) -> list[list[int]]:
    """Pad rows with `value` on the right to equal length."""
    width = max((len(row) for row in rows), default=0)
    return [row + [value] * (width - len(row)) for row in rows]


@contextmanager
def projecting_only(model: PreTrainedModel, wanted: torch.Tensor) -> Iterator[None]:
    """Context manager: the output layer computes logits only where `wanted` [n, D] is True.

    The logits then have shape [wanted.sum(), vocabulary], which saves work for large vocabularies.
    """
    owner = model.decoder if model.config.model_type == "encoder-decoder" else model
    head = owner.get_output_embeddings()
    handle = head.register_forward_pre_hook(
        lambda _, given: (given[0][wanted.to(given[0].device)],)
    )
    try:
        yield
    finally:
        handle.remove()
