"""Teachers: large (here: real, sometimes small) language models that write rationales.

A teacher is named by a URI:
    micro:a, micro:b          the micro world's two models, trained by the study itself
    release:flan-t5, release:llama2   the recorded rationales of the paper's release
    hf:MODEL                  any transformers model: hub id, folder, alias or GGUF file
    openai:URL#MODEL          any OpenAI-compatible server (see tinyllm.servers)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from tinyllm import evaluate, micro, models, paths, release, runs
from tinyllm.encoding import Encoding
from tinyllm.params import ParameterError, Params


@dataclass(frozen=True)
class Completion:
    """What a teacher wrote. finish: `stop`, `length` or `scored`. tokens: of the prompt, and
    written. scores: log-probability a token of each option, where it was asked to answer."""

    text: str
    finish: str
    tokens: tuple[int, int] | None = None
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a prompt got no answer, although it was asked repeatedly."""

    reason: str


Answers = Iterator[tuple[int, Completion | Failure]]


class Teacher(Protocol):
    """Anything that completes prompts.

    revision: identifies the weights. settings: how it decodes. Both are part of a record's key.
    """

    revision: str
    settings: dict[str, Any]

    def rendered(self, prompt: str) -> str:
        """The prompt as the model reads it, in a chat model's template."""
        ...

    def tokens(self, prompt: str) -> int:
        """How many tokens the model reads for a prompt that is not yet rendered."""
        ...

    def write(self, prompts: Sequence[str]) -> Answers:
        """Complete rendered prompts: (index, completion) in whatever order they come."""
        ...

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Answers:
        """Choose among each prompt's options, by log-probability or by what is written."""
        ...


class HFTeacher:
    """A transformers model, encoder-decoder or decoder-only, that decodes greedily.

    Chat models (those with a chat template) get the prompt as a user's message, others as text.
    batch: prompts a forward pass.
    """

    def __init__(
        self, name: str, *, revision: str = "", max_new_tokens: int, batch: int, dtype: torch.dtype
    ):
        spread = "auto" if torch.cuda.device_count() > 1 else None  # one model over several GPUs
        model, self.tokenizer = models.load(name, dtype=dtype, device_map=spread)
        self.model = (model if spread else model.to(models.device())).eval()
        self.seq2seq = bool(model.config.is_encoder_decoder)
        self.chat = bool(self.tokenizer.chat_template)
        self.revision = revision or getattr(model.config, "_commit_hash", None) or "main"
        self.batch = batch
        self.settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
        ends = model.generation_config.eos_token_id  # a chat model may end its turn by another one
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = sorted({e for e in [*ends, self.tokenizer.eos_token_id] if e is not None})
        self.config = GenerationConfig(
            **self.settings,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.ends,
            decoder_start_token_id=model.config.decoder_start_token_id if self.seq2seq else None,
        )
        self.tokenizer.padding_side = "right" if self.seq2seq else "left"
        start = model.config.decoder_start_token_id if self.seq2seq else -1
        self.encoding = Encoding(self.tokenizer, self.seq2seq, start, "encoder", 0, 0)

    def rendered(self, prompt: str) -> str:
        """The prompt in the model's chat template, or as it is."""
        if not self.chat:
            return prompt
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )

    def tokens(self, prompt: str) -> int:
        """Tokens of a prompt as the model reads it."""
        return len(self._ids([self.rendered(prompt)])[0])

    def _ids(self, rendered: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer(
            list(rendered), add_special_tokens=not self.chat, return_token_type_ids=False
        ).input_ids
        if self.seq2seq:
            return rows
        end = self.tokenizer.eos_token_id  # a decoder-only model goes on from the prompt
        return [ids[:-1] if not self.chat and ids[-1] == end else ids for ids in rows]

    def _batches(self, rows: Sequence[list[int]]) -> Iterator[list[int]]:
        """Indices a batch, longest rows first, so that there is little padding.

        The first batch is the one that is not full: a run that goes on where it was stopped forms
        the batches that were still to come.
        """
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), rows[i]))
        first = len(order) % self.batch
        cuts = [0, *range(first or self.batch, len(order) + 1, self.batch)]
        for start, end in pairwise(cuts):
            yield order[start:end]

    @torch.inference_mode()
    def write(self, prompts: Sequence[str]) -> Answers:
        """Complete rendered prompts, batches of about equal length at a time."""
        rows = self._ids(prompts)
        for at in self._batches(rows):
            yield from zip(at, self._write([rows[i] for i in at]), strict=True)

    def _write(self, rows: list[list[int]]) -> list[Completion]:
        batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.model.device)
        try:
            out = self.model.generate(**batch, generation_config=self.config)
        except torch.OutOfMemoryError:
            raise ParameterError(
                f"teacher_batch: {self.batch}: does not fit the device's memory; lower it"
            ) from None
        skip = 1 if self.seq2seq else batch["input_ids"].shape[1]
        completions = []
        for read, written in zip(rows, out[:, skip:].tolist(), strict=True):
            end = next((i for i, token in enumerate(written) if token in self.ends), None)
            length = len(written) if end is None else end + 1
            text = self.tokenizer.decode(written[:length], skip_special_tokens=True).strip()
            finish = "length" if end is None else "stop"
            completions.append(Completion(text, finish, (len(read), length)))
        return completions

    @torch.inference_mode()
    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Answers:
        """The option with the highest log-probability a token (no end token is counted)."""
        rows = self._ids(prompts)
        for at in self._batches(rows):
            targets = [self._target(prompts[i], rows[i], text) for i in at for text in options[i]]
            owner = torch.tensor([q for q, i in enumerate(at) for _ in options[i]])
            sums = evaluate.log_probabilities(
                self.model, self.encoding, [rows[i] for i in at], targets, owner
            )
            each = [total / len(ids) for total, ids in zip(sums, targets, strict=True)]
            start = 0
            for i in at:
                scores = tuple(each[start : start + len(options[i])])
                start += len(scores)
                best = max(range(len(scores)), key=scores.__getitem__)
                yield i, Completion(options[i][best], "scored", (len(rows[i]), 0), scores)

    def _target(self, prompt: str, row: list[int], option: str) -> list[int]:
        """Ids of an option as the model would go on: after text, a space stands before it."""
        if self.seq2seq or self.chat:
            return self.encoding.tokens(option)
        whole = self._ids([f"{prompt} {option}"])[0]
        same = whole[: len(row)] == row and len(whole) > len(row)
        return whole[len(row) :] if same else self.encoding.tokens(f" {option}")


def load(params: Params, uri: str) -> Teacher:
    """The teacher that a URI names, ready to write."""
    kind, _, name = uri.partition(":")
    how: dict[str, Any] = {"max_new_tokens": params.max_new_tokens, "batch": params.teacher_batch}
    if kind == "openai":
        from tinyllm.servers import ServerTeacher

        return ServerTeacher(name, **how)
    dtype = models.precision(params.precision)
    if kind == "micro":
        folder = micro_teacher(params, name)
        return HFTeacher(str(folder / "model"), revision=runs.inputs(folder), dtype=dtype, **how)
    if kind == "hf":
        revision = models.content(name).get("weights", "")
        return HFTeacher(name, revision=revision, dtype=dtype, **how)
    raise ValueError(f"teachers: {uri!r} cannot be prompted")


def weights(uri: str) -> dict[str, Any]:
    """What is known of a teacher's weights before it is loaded, for a spec."""
    kind, _, name = uri.partition(":")
    if kind == "micro":
        return {"micro": micro.MICRO_VERSION}
    return models.content(name) if kind == "hf" else {}


def prepare(params: Params) -> None:
    """Train the study's micro teachers that are not there yet, `workers` side by side."""
    letters = [uri.partition(":")[2] for uri in params.teachers if uri.startswith("micro:")]
    todo = [letter for letter in letters if not micro_teacher_is_there(params, letter)]
    if todo:
        # One thread each: models so small only wait for one another on several.
        workers = min(params.workers, len(todo))
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start_worker) as pool:
            list(pool.map(micro_teacher, [params] * len(todo), todo))


def _start_worker() -> None:
    runs.end_with_parent()
    torch.set_num_threads(1)


def micro_teacher_is_there(params: Params, letter: str) -> bool:
    """True if the micro teacher is trained already; StaleRun if it is one of other parameters."""
    return runs.shared(*_micro_teacher(params, letter))


def micro_teacher(params: Params, letter: str) -> Path:
    """Run folder of a micro teacher, trained now if it is not there yet."""
    folder, spec = _micro_teacher(params, letter)
    if not runs.shared(folder, spec):
        with runs.recording(folder, spec) as facts:
            micro.train_teacher(letter, folder / "model", params.data_seed)
            facts["content"] = runs.sha256(folder / "model" / "model.safetensors")
    return folder


def _micro_teacher(params: Params, letter: str) -> tuple[Path, dict[str, Any]]:
    """A micro teacher's run folder and spec."""
    folder = paths.study(params.study, params.dataset) / "teachers" / letter
    spec = {"stage": "micro teacher", "version": micro.MICRO_VERSION, "letter": letter}
    return folder, spec | params.spec("data_seed")


def recorded(dataset: str, uri: str) -> dict[str, str | None]:
    """Rationale by training question id that the release holds of a teacher, None where none."""
    name = uri.removeprefix("release:")
    if name not in release.TEACHERS:
        raise ValueError(f"teachers: {uri!r}: allowed are release:flan-t5 and release:llama2")
    column = release.TEACHERS.index(name)
    rows = release.release_examples(dataset, "train")
    written = release.release_rationales(dataset, "train")
    return {row.id: texts[column] for row, texts in zip(rows, written, strict=True)}
