"""Teachers that run locally: any transformers model, decoded greedily or by sampling."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from tinyllm.models import load, score
from tinyllm.models.encode import Encoding, longest_input
from tinyllm.params import ParameterError
from tinyllm.teachers.base import Completion, Refused, Replies, Teacher, apart, only_thinking


class Draw(LogitsProcessor):
    """Samples one token per row of logits [rows, V] (no top-k or top-p) and masks all others.

    Each row has its own seed, so its text does not depend on the other rows of the batch.
    """

    def __init__(self, seeds: Sequence[int], length: int, temperature: float):
        rows = [torch.rand(length, generator=torch.Generator().manual_seed(s)) for s in seeds]
        # Scaled, so that rounding never gives 1, which is above all cumulative probabilities.
        self.draws, self.temperature = iter(torch.stack(rows, 1) * (1 - 1e-6)), temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        sums = (scores.float() / self.temperature).softmax(-1).cumsum(-1)
        draws = next(self.draws).to(sums.device)[:, None] * sums[:, -1:]
        token = torch.searchsorted(sums, draws, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class HFTeacher(Teacher):
    """A transformers model, on one GPU or, if its weights do not fit there, on all. A model with a
    chat template reads the prompt as a user's message, others as plain text.

    name: as for `models.load.load`. revision: of its weights. batch: prompts per forward pass.
    max_prompt: tokens of the longest prompt; ParameterError if the model has too few positions.
    temperature: 0 for greedy decoding.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str = "main",
        max_prompt: int = 0,
        max_new_tokens: int,
        batch: int,
        dtype: torch.dtype,
        temperature: float = 0.0,
    ):
        device, spread = load.device(), "auto" if torch.cuda.device_count() > 1 else None
        model, self.tokenizer = load.load(name, dtype=dtype, device_map=spread)
        self.model = (model if spread else model.to(device)).eval()
        self.seq2seq = bool(model.config.is_encoder_decoder)
        self.chat = bool(self.tokenizer.chat_template)
        self.revision, self.batch = revision, batch
        limit = longest_input(model.config)
        need = max_prompt if self.seq2seq else max_prompt + max_new_tokens
        if limit and need > limit:
            raise ParameterError(
                f"max_prompt: {max_prompt}: {name} has positions for {limit} tokens (decoder-only: "
                f"prompt and rationale); set max_prompt to at most {max_prompt - need + limit}"
            )
        decoding = {"max_new_tokens": max_new_tokens, "do_sample": False}
        self.settings: dict[str, Any] = decoding | {"dtype": str(model.dtype)}
        self.temperature = temperature
        if temperature:
            self.settings |= {"do_sample": True, "temperature": temperature}
        ends = model.generation_config.eos_token_id  # a chat model may end its turn with another
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = sorted({e for e in [*ends, self.tokenizer.eos_token_id] if e is not None})
        start = model.config.decoder_start_token_id if self.seq2seq else None
        special = {"pad_token_id": self.tokenizer.pad_token_id, "eos_token_id": self.ends}
        self.config = GenerationConfig(**decoding, **special, decoder_start_token_id=start)
        self.tokenizer.padding_side = "right" if self.seq2seq else "left"
        self.encoding = Encoding(self.tokenizer, self.seq2seq, start, "encoder", 0, 0)

    def rendered(self, prompt: str) -> str:
        if not self.chat:
            return prompt
        message = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )

    def tokens(self, prompt: str) -> int:
        return len(self._ids(self.rendered(prompt)))

    def _ids(self, rendered: str) -> list[int]:
        if self.chat:
            return self.encoding.tokens(rendered)
        ids = self.tokenizer(rendered).input_ids
        ends = ids[-1:] == [self.tokenizer.eos_token_id] and not self.seq2seq
        return ids[:-1] if ends else ids  # a decoder-only model continues the prompt

    def write(self, prompts: Sequence[str], seeds: Sequence[int] = ()) -> Replies:
        """Complete rendered prompts, in batches of similar length."""
        seeds = seeds or [0] * len(prompts)
        rows = [self._ids(prompt) for prompt in prompts]
        limit = self.config.max_new_tokens
        for batch in score.batches(rows, self.batch):
            ids = {"input_ids": [rows[i] for i in batch]}
            padded = self.tokenizer.pad(ids, return_tensors="pt").to(self.model.device)
            draw = None
            if self.temperature:
                draw = [Draw([seeds[i] for i in batch], limit, self.temperature)]
            out = self.model.generate(
                **padded, generation_config=self.config, logits_processor=draw
            )
            skip = 1 if self.seq2seq else padded["input_ids"].shape[1]
            for i, written in zip(batch, out[:, skip:].tolist(), strict=True):
                yield i, self._reply(prompts[i], len(rows[i]), written)

    def _reply(self, prompt: str, read: int, written: list[int]) -> Completion | Refused:
        """Decode generated ids, without padding after the end token, into a reply."""
        end = next((at for at, token in enumerate(written) if token in self.ends), None)
        length = len(written) if end is None else end + 1
        text = self.tokenizer.decode(written[:length], skip_special_tokens=True)
        thinking, text = apart(text, prompt)
        finish = "length" if end is None else "stop"
        if thinking and not text:
            return only_thinking(thinking, finish, self.config.max_new_tokens)
        return Completion(text, finish, (read, length), thinking=thinking)

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Replies:
        """The option with the highest log-probability per token (without an end token)."""
        rows = [self._ids(prompt) for prompt in prompts]
        for batch in score.batches(rows, self.batch):
            targets = [[self._target(prompts[i], rows[i], o) for o in options[i]] for i in batch]
            sources = [rows[i] for i in batch]
            means = score.log_probabilities(self.model, self.encoding, sources, targets)
            for i, scores in zip(batch, means, strict=True):
                best = options[i][scores.index(max(scores))]
                yield i, Completion(best, "scored", (len(rows[i]), 0), tuple(scores))

    def _target(self, prompt: str, row: list[int], option: str) -> list[int]:
        """Ids of an option as a continuation of the prompt; plain text needs a space before it."""
        if self.seq2seq or self.chat:
            return self.encoding.tokens(option)
        whole = self._ids(f"{prompt} {option}")
        same = whole[: len(row)] == row and len(whole) > len(row)
        return whole[len(row) :] if same else self.encoding.tokens(f" {option}")
