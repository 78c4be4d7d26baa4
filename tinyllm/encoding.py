"""What goes into encoder and decoder: the tokens of a question, a task's prefix and a target.

Encoder-decoder students: the encoder reads `prefix question` (task_prefix encoder, the paper's way)
or `question` (task_prefix decoder, where the decoder reads the prefix instead). Decoder-only
students read one sequence: the prefix, the question and the target, or the question, the prefix and
the target. Where an input is too long its context is cut, never the question or an option.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinyllm import prompts
from tinyllm.data import Example
from tinyllm.params import ParameterError, Params

IGNORED = -100  # label of a position without a target, as in torch's cross-entropy


@dataclass
class Encoding:
    """Turns questions and targets into token ids for one model.

    seq2seq: True for encoder-decoder models.
    start: the decoder's first token (encoder-decoder models only).
    cut_inputs, cut_targets: ids of the questions whose context, or target, had to be cut.
    """

    tokenizer: PreTrainedTokenizerBase
    seq2seq: bool
    start: int
    task_prefix: str
    max_input: int
    max_target: int
    cut_inputs: set[str] = field(default_factory=set)
    cut_targets: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        probe = self.tokenizer("x").input_ids
        bare = self.tokens("x")
        at = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self.lead = probe[:at]
        # What a tokenizer appends (T5's </s>, BERT's [SEP]) closes an encoder's input; in a
        # decoder-only sequence the target follows there.
        self.tail = probe[at + len(bare) :] if self.seq2seq else []
        self.separator = [] if self.seq2seq else self.tokens("\n")

    @classmethod
    def of(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, params: Params
    ) -> Encoding:
        """The encoding for a loaded model, as `params` wants it."""
        seq2seq = bool(model.config.is_encoder_decoder)
        return cls(
            tokenizer,
            seq2seq,
            model.config.decoder_start_token_id if seq2seq else -1,
            params.task_prefix,
            params.max_input,
            params.max_target,
        )

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text alone, without special tokens."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def source(self, example: Example, prefix: str) -> list[int]:
        """Input ids of a question for the task with `prefix`, at most `max_input` long."""
        before, after = self._around(example, prefix)
        room = self.max_input - len(before) - len(after)
        if room < 0:
            raise ParameterError(
                f"max_input: {self.max_input}: question {example.id!r} with its options needs "
                f"{len(before) + len(after)} tokens before any context; set max_input to at least "
                "that"
            )
        context = self.tokens(example.context) if example.context else []
        if len(context) > room:
            self.cut_inputs.add(example.id)
        return [*before, *context[:room], *after]

    def _around(self, example: Example, prefix: str) -> tuple[list[int], list[int]]:
        """What stands before and after a question's context, which alone may be cut."""
        head = self.tokens(prefix) if self.task_prefix == "encoder" else []
        tail = [*self.tokens(prompts.student_question(example)), *self.separator]
        ends = self.tokens(prefix) if not self.seq2seq and self.task_prefix == "decoder" else []
        return [*self.lead, *head], [*tail, *ends, *self.tail]

    def check_room(self, examples: Sequence[Example], prefixes: Sequence[str]) -> None:
        """ParameterError if any question with its options is longer than `max_input`.

        It says how many are, and what would be enough for all of them.
        """
        longest = max(prefixes, key=lambda prefix: len(self.tokens(prefix)))
        need = [sum(map(len, self._around(example, longest))) for example in examples]
        if (most := max(need, default=0)) > self.max_input:
            raise ParameterError(
                f"max_input: {self.max_input}: {sum(n > self.max_input for n in need)} of "
                f"{len(need)} questions with their options are longer, and only context is ever "
                f"cut; set max_input to at least {most}"
            )

    def target(self, text: str, example_id: str = "") -> list[int]:
        """Target ids of a text, closed by the end token, at most `max_target` long."""
        ids = self.tokens(text)
        if len(ids) >= self.max_target:
            self.cut_targets.add(example_id)
            return ids[: self.max_target]
        return [*ids, self.tokenizer.eos_token_id]

    def decoder_prefix(self, prefix: str) -> list[int]:
        """Ids that the decoder reads before the target (encoder-decoder models)."""
        return [self.start, *(self.tokens(prefix) if self.task_prefix == "decoder" else [])]

    def normal(self, text: str) -> str:
        """A text as the tokenizer gives it back, without case and spacing, for exact match.

        T5's vocabulary has no braces, `<` or newlines: both sides lose them before they are
        compared.
        """
        back = self.tokenizer.decode(self.tokens(text), skip_special_tokens=True)
        return " ".join(back.split()).casefold()


def pad(rows: list[list[int]], value: int, *, left: bool = False) -> list[list[int]]:
    """Rows of one length, filled with `value` at the right (or left)."""
    width = max((len(row) for row in rows), default=0)
    fill = [[value] * (width - len(row)) for row in rows]
    return [f + r if left else r + f for f, r in zip(fill, rows, strict=True)]


@contextmanager
def projecting_only(model: PreTrainedModel, wanted: torch.Tensor) -> Iterator[None]:
    """Within the block the output layer sees only the positions where `wanted` [n, D] is True.

    The logits then have shape [wanted.sum(), vocabulary]: for a large vocabulary the projection is
    most of a small student's work.
    """
    if hasattr(model, "get_base_model"):  # peft's wrapper
        model = model.get_base_model()
    owner = model.decoder if model.config.model_type == "encoder-decoder" else model
    head = owner.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, given: (given[0][wanted],))
    try:
        yield
    finally:
        handle.remove()
