"""Teachers behind an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, llama.cpp, ….

    openai:http://127.0.0.1:8000/v1#MODEL               chat completions, the server's template
    openai:http://127.0.0.1:8000/v1/completions#MODEL   text completions, the prompt as it is

The key comes from the environment variable OPENAI_API_KEY alone (local servers need none); it
stands in no manifest and no message. Requests run `teacher_batch` at a time. What may pass (429,
5xx, time-outs, lost connections, broken replies) is tried again with growing waits, or after the
time that the server's Retry-After names; what lasts becomes a Failure of that question.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any

import openai
import tenacity

from tinyllm.teachers import Answers, Completion, Failure

TIMEOUT = 300.0  # seconds a request may take
TRIES = 6
WAIT = tenacity.wait_exponential_jitter(initial=1, max=30)  # in all about half a minute
LONGEST_RETRY_AFTER = 600.0  # seconds
LETTERS_A_TOKEN = 3  # the server's tokenizer is not known here; rather too many tokens than too few
PASSING = {408, 409, 425, 429}
FOR_ALL = {401, 403, 404, 405}  # no other question would fare better


class BrokenReply(Exception):
    """A reply that is no completion."""


class ServerTeacher:
    """A model behind an OpenAI-compatible server, asked greedily (temperature 0).

    name: `URL#MODEL`. batch: requests at a time.
    """

    revision = ""  # a server does not tell; what it wrote is the record

    def __init__(self, name: str, *, max_new_tokens: int, batch: int):
        url, _, self.model = name.partition("#")
        self.chat = not re.search(r"(?<!/chat)/completions/?$", url)
        self.url = re.sub(r"(/chat)?/completions/?$", "", url)
        self.key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(
            base_url=self.url, api_key=self.key, max_retries=0, timeout=TIMEOUT
        )
        self.settings: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0}
        self.batch = batch

    def rendered(self, prompt: str) -> str:
        """The prompt as it is sent; a chat model's template is the server's affair."""
        return prompt

    def tokens(self, prompt: str) -> int:
        """An upper estimate of the prompt's tokens."""
        return -(-len(prompt) // LETTERS_A_TOKEN)

    def write(self, prompts: Sequence[str]) -> Answers:
        """Complete prompts, `batch` requests at a time, each as soon as it is answered.

        RuntimeError at once where the server refuses every request (no such model, wrong key). If
        it leaves `batch` questions in a row unanswered, the rest are not asked and fail too.
        """
        stop = Event()
        pool = ThreadPoolExecutor(self.batch)
        try:
            asked = {pool.submit(self._ask, p, stop): i for i, p in enumerate(prompts)}
            in_a_row = 0
            for future in as_completed(asked):
                if future.cancelled():
                    continue
                said = future.result()
                yield asked[future], said
                in_a_row = in_a_row + 1 if isinstance(said, Failure) else 0
                if in_a_row == max(self.batch, 3):
                    stop.set()
                    for other, index in asked.items():
                        if other.cancel():
                            yield index, Failure("not asked: the server had stopped answering")
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Answers:
        """What the server writes for each prompt: few servers give a prompt's log-probabilities.

        The text up to the first blank line counts: what follows is the next question, invented.
        """
        for index, said in self.write(prompts):
            if isinstance(said, Completion):
                text = said.text.split("\n\n")[0].strip()
                said = Completion(text, said.finish, said.tokens)
            yield index, said

    def _ask(self, prompt: str, stop: Event) -> Completion | Failure:
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=_wait,
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            reraise=True,
        )
        try:
            return tries(self._once, prompt)
        except openai.APIStatusError as error:
            if error.status_code in FOR_ALL:
                raise RuntimeError(self._refused(error)) from None
            return Failure(self._said(error))
        except (openai.OpenAIError, BrokenReply, json.JSONDecodeError) as error:
            return Failure(self._said(error))

    def _once(self, prompt: str) -> Completion:
        if self.chat:
            reply = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": prompt}], **self.settings
            )
        else:
            reply = self.client.completions.create(model=self.model, prompt=prompt, **self.settings)
        choices = getattr(reply, "choices", None)  # a reply that is no JSON comes as plain text
        if not choices:
            raise BrokenReply("a reply without any choice")
        message = getattr(choices[0], "message", None) if self.chat else choices[0]
        text = getattr(message, "content" if self.chat else "text", None)
        if not isinstance(text, str):
            raise BrokenReply("a choice without text")
        usage = getattr(reply, "usage", None)
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        return Completion(text.strip(), choices[0].finish_reason or "stop", tokens)

    def _said(self, error: Exception) -> str:
        """An error in one line, without the key, which some servers repeat."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return text.replace(self.key, "***")[:300] if self.key != "none" else text[:300]

    def _refused(self, error: openai.APIStatusError) -> str:
        remedy = (
            "set the environment variable OPENAI_API_KEY to a key that this server knows"
            if error.status_code in (401, 403)
            else "check the address (it mostly ends in /v1) and the model's name"
        )
        return f"openai:{self.url}#{self.model}: {self._said(error)}; {remedy}"


def _passes(error: BaseException) -> bool:
    """True for what may be better the next time."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or error.status_code in PASSING
    passing = (openai.APIConnectionError, openai.APIResponseValidationError, BrokenReply)
    return isinstance(error, (*passing, json.JSONDecodeError))


def _wait(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what Retry-After says, else longer each time."""
    error = state.outcome.exception() if state.outcome else None
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    try:
        return min(max(0.0, float(headers["retry-after"])), LONGEST_RETRY_AFTER)
    except (KeyError, ValueError):  # absent, or a date
        return WAIT(state)
