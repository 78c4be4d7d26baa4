"""Teachers behind an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, llama.cpp, ...

    openai:http://127.0.0.1:8000/v1#MODEL               chat completions, the server's template
    openai:http://127.0.0.1:8000/v1/completions#MODEL   text completions, the prompt as it is

The key comes from the environment variable OPENAI_API_KEY alone (local servers need none). The
`openai` client repeats what may pass (429, 5xx, time-outs, lost connections) up to RETRIES times,
and waits as long as Retry-After says. Then the question stays unanswered, and a rerun asks it
again. What would be refused again (a content filter, a prompt that is too long) is a final refusal.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import openai

from tinyllm.arms import Server
from tinyllm.params import ParameterError
from tinyllm.teachers.base import Completion, Refused, Replies, apart, only_thinking

TIMEOUT = 300.0  # seconds that a request may take
RETRIES = 6  # about 25 seconds of waiting, unless the server asks for more
IN_A_ROW = 10  # questions without an answer, after which the others are not asked
PASSING = {408, 409, 425, 429}
FOR_ALL = {  # no question would fare better
    401: "set OPENAI_API_KEY to a key that it accepts",
    403: "set OPENAI_API_KEY to a key that it accepts",
    404: "check the address and model's name",
}
REMEDIES = {  # of a connection error: the first kind that is among its causes
    ssl.SSLCertVerificationError: "set SSL_CERT_FILE to the file of the server's certificate",
    ssl.SSLError: "if this port speaks plain http, write http:// in the teacher's URI",
    ConnectionRefusedError: "is the server running, on this port?",
    openai.APITimeoutError: f"no reply in {TIMEOUT:.0f} s: lower teacher_batch",
    Exception: "check the address; if the server speaks https, write https:// in the URI",
}


class ServerTeacher:
    """A model behind an OpenAI-compatible server.

    name: `URL#MODEL`. batch: requests at a time. server: what it takes that others do not;
        ParameterError where its context cannot hold prompt and completion.
    temperature: where the server has none of its own; above 0, a seed is sent with each request.
    """

    revision = ""  # a server does not tell; what it wrote is the record

    def __init__(
        self,
        name: str,
        *,
        max_new_tokens: int,
        batch: int,
        max_prompt: int = 0,
        temperature: float = 0.0,
        server: Server | None = None,
    ):
        url, _, self.model = name.partition("#")
        self.chat = not re.search(r"(?<!/chat)/completions/?$", url)
        self.url = re.sub(r"(/chat)?/completions/?$", "", url)
        self.key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client = openai.OpenAI(
            base_url=self.url, api_key=self.key, max_retries=RETRIES, timeout=TIMEOUT
        )
        server = server or Server()
        if server.system and not self.chat:
            raise ParameterError(
                f"servers: system: {self.url}/completions reads no system message; leave it out"
            )
        if server.context and max_prompt + max_new_tokens > server.context:
            raise ParameterError(
                f"max_prompt: {max_prompt}: with max_new_tokens, more than {self.model}'s context "
                f"of {server.context} tokens; set max_prompt to at most "
                f"{server.context - max_new_tokens}, or lower max_new_tokens"
            )
        self.settings: dict[str, Any] = {server.limit: max_new_tokens}
        self.seeded = temperature > 0 and server.temperature == 0
        if self.seeded or server.temperature is not None:
            self.settings["temperature"] = temperature if self.seeded else server.temperature
        if server.extra:
            self.settings["extra_body"] = server.extra
        if server.system:
            self.settings["system"] = server.system
        self.max_new_tokens, self.batch = max_new_tokens, batch

    def rendered(self, prompt: str) -> str:
        """The prompt as it is sent; the server puts it into a chat model's template."""
        return prompt

    def tokens(self, prompt: str) -> int:
        """An estimate of a prompt's tokens, rather too high: the server's tokenizer is not known.

        A token per started three ASCII letters of a word, per other ASCII character that is no
        space, and per UTF-8 byte of all other characters.
        """
        words = sum(-(-len(word) // 3) for word in re.findall(r"[A-Za-z]+", prompt))
        signs = len(re.findall(r"[^A-Za-z \x80-\U0010ffff]", prompt))
        return words + signs + len(re.sub(r"[\x00-\x7f]", "", prompt).encode("utf-8", "replace"))

    def write(self, prompts: Sequence[str], seeds: Sequence[int] = ()) -> Replies:
        """Complete prompts, `batch` requests at a time; each reply is given as it comes.

        RuntimeError at once where the server would refuse every request (no such model, wrong key,
        wrong certificate). The rest are not asked after IN_A_ROW failures in a row; final refusals
        are failures until there is an answer.
        """
        pool = ThreadPoolExecutor(self.batch)
        pairs = enumerate(zip(prompts, seeds or [0] * len(prompts), strict=True))
        futures = {pool.submit(self._ask, *pair): i for i, pair in pairs}
        failures, answered = 0, False
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    reason = "not asked: the server stopped answering"
                    yield futures[future], Refused(reason, final=False)
                    continue
                reply = future.result()
                yield futures[future], reply
                if isinstance(reply, Completion):
                    failures, answered = 0, True
                elif not (reply.final and answered):
                    failures += 1
                if failures == max(self.batch, IN_A_ROW):
                    for other in futures:
                        other.cancel()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Replies:
        """What the server writes for each prompt, up to a blank line: what follows is invented.

        (Few servers give a prompt's log-probabilities.)
        """
        for index, reply in self.write(prompts):
            if isinstance(reply, Completion):
                reply = replace(reply, text=reply.text.split("\n\n")[0].strip())
            yield index, reply

    def _ask(self, prompt: str, seed: int) -> Completion | Refused:
        create, asked = self.client.completions.create, self.settings | {"prompt": prompt}
        system = asked.pop("system", None)
        if self.chat:
            create = self.client.chat.completions.create
            messages = [("system", system), ("user", asked.pop("prompt"))]
            asked["messages"] = [{"role": role, "content": text} for role, text in messages if text]
        asked |= {"seed": seed} if self.seeded else {}
        try:
            return self._read(create(model=self.model, **asked))
        except openai.APIStatusError as error:
            status, line = error.status_code, self._line(error)
            if status not in FOR_ALL:
                return Refused(line, final=status < 500 and status not in PASSING)
            remedy = FOR_ALL[status]
        except openai.APIConnectionError as error:
            causes = [error]
            while cause := causes[-1].__cause__ or causes[-1].__context__:
                causes.append(cause)
            kind = next(k for k in REMEDIES if any(isinstance(cause, k) for cause in causes))
            line, remedy = self._line(causes[-1]), REMEDIES[kind]
            if kind is not ssl.SSLCertVerificationError:
                return Refused(f"{line}; {remedy}", final=False)
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            return Refused(self._line(error), final=False)
        raise RuntimeError(f"openai:{self.url}#{self.model}: {line}; {remedy}")

    def _read(self, reply: Any) -> Completion | Refused:
        """A reply as a completion; servers leave out much, and the client does not check them."""
        choices = getattr(reply, "choices", None)
        if not choices:
            return Refused(f"the reply is no completion: {str(reply)[:100]!r}", final=False)
        finish = choices[0].finish_reason or "stop"
        message = getattr(choices[0], "message", None) if self.chat else choices[0]
        content = getattr(message, "content" if self.chat else "text", None)
        inside, text = apart(_texts(content, "text"))
        thoughts = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
        thoughts += [_texts(content, "thinking") if isinstance(content, list) else "", inside]
        thoughts = [part.strip() for part in thoughts if isinstance(part, str)]
        thinking = "\n".join(dict.fromkeys(filter(None, thoughts)))
        if not text and thinking:
            return only_thinking(thinking, finish, self.max_new_tokens)
        if not text and finish == "length":
            reason = f"no text within max_new_tokens ({self.max_new_tokens}); raise max_new_tokens"
            return Refused(reason, True)
        if not text and not isinstance(content, str):
            refusal = getattr(message, "refusal", None) or "no text"
            return Refused(f"{refusal} (finish reason {finish!r})", True)
        usage = getattr(reply, "usage", None)
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        return Completion(text, finish, tokens, thinking=thinking)

    def _line(self, error: BaseException) -> str:
        """An error in one line, without the key, which some servers repeat."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return (text.replace(self.key, "***") if self.key != "none" else text)[:300]


def _texts(content: Any, kind: str) -> str:
    """A message's content; the parts of one kind where a server sends a list of parts."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [part.get(kind) for part in content if isinstance(part, dict)]
    return "".join(_texts(part, "text") for part in parts)
