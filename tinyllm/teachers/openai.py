"""Teachers behind an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, llama.cpp, ...

    openai:http://127.0.0.1:8000/v1#MODEL               chat completions, the server's template
    openai:http://127.0.0.1:8000/v1/completions#MODEL   text completions, the prompt as it is

The key is read from the environment variable OPENAI_API_KEY only (local servers need none). The
`openai` client retries temporary errors (429, 5xx, timeouts, lost connections) up to RETRIES times,
and waits for the time in Retry-After if that is at most two minutes. After that the question stays
unanswered, and is asked again (`store.fill`). Errors that would recur (content filter) are final.
"""

import json
import os
import re
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import openai

from tinyllm.arms import Server
from tinyllm.params import ParameterError
from tinyllm.teachers.base import Completion, Refused, Replies, Teacher, apart, only_thinking, texts
from tinyllm.teachers.quality import INVENTED

TIMEOUT, CONNECT = 300.0, 20.0  # seconds that a request may take, and its connection
RETRIES = 6  # about 25 seconds of waiting, unless the server asks for more
FIRST = 20  # stop after so many refused questions without any answer
FINAL = {400, 413, 414, 422, 431, 451}  # statuses that reject one question, not all
BUSY = {429, 503, 529}  # statuses of a server that is overloaded
FLAGGED = re.compile(r"(?i)flagged|moderation|content (policy|filter)")  # 403 for one question
TOO_LONG = re.compile(r"(?i)context (size|length|window)|prompt.* too long")  # llama.cpp: a 500
PROXY = "If HTTP_PROXY is set, NO_PROXY must contain a local host"
KEY, ADDRESS = "set OPENAI_API_KEY to a key that it accepts", "check the address and model's name"
THINKING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")  # first one counts
FILTERED = "filter|safety|sensitive|recitation|guardrail|refus"  # words in finish reasons
CUT = "length|max_|window|incomplete"  # or else
BROKEN = "error|abort|cancel|timeout|insufficient"  # or else; all other reasons: a whole text
FOR_ALL = {401: KEY, 402: "add credit to the account", 404: ADDRESS, 405: ADDRESS, 407: PROXY}
REMEDIES = {  # for connection errors: the first class found among their causes
    ssl.SSLCertVerificationError: "set SSL_CERT_FILE to the file of the server's certificate",
    ssl.SSLError: "if this port uses plain http, write http:// in the teacher's URI",
    ConnectionRefusedError: f"is the server running, on this port? {PROXY}",
    socket.gaierror: "no such host: check the address",
    openai.APITimeoutError: f"no connection in {CONNECT:.0f} s, or no reply in {TIMEOUT:.0f} s: "
    "check the address, or lower teacher_batch",
    Exception: "check the address; if the server uses https, write https:// in the URI",
}


class ServerTeacher(Teacher):
    """A model behind an OpenAI-compatible server.

    name: `URL#MODEL`. batch: parallel requests. server: request settings of this server
        (`arms.Server`); ParameterError if its context is too short for prompt and completion.
    temperature: used if `server` sets none; above 0, a seed is sent with each request.
    """

    revision = ""  # a server may load another model under this name, which the store cannot see

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
        self.key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        if not (self.key.isascii() and self.key.isprintable()):
            raise ParameterError("OPENAI_API_KEY: contains invalid characters; copy it again")
        try:
            limits = {"max_retries": RETRIES, "timeout": openai.Timeout(TIMEOUT, connect=CONNECT)}
            self.client = openai.OpenAI(base_url=self.url, api_key=self.key, **limits)
        except Exception as error:  # invalid port, missing certificate file, no SOCKS package
            raise ParameterError(
                f"teachers: openai:{name}: {self._line(error)}; check this address and the "
                "variables SSL_CERT_FILE, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
            ) from None
        server = server or Server()
        if server.system and not self.chat:
            raise ParameterError(f"servers: system: {self.url}/completions takes none; remove it")
        if server.context and max_prompt + max_new_tokens > server.context:
            most = server.context - max_new_tokens
            raise ParameterError(
                f"max_prompt: {max_prompt}: together with max_new_tokens it exceeds {self.model}'s "
                f"context of {server.context} tokens; "
                + (f"set max_prompt to at most {most}" if most > 0 else "lower max_new_tokens")
            )
        self.settings: dict[str, Any] = {server.limit: max_new_tokens}
        self.seeded = temperature > 0 and server.temperature == 0
        if self.seeded or server.temperature is not None:
            self.settings["temperature"] = temperature if self.seeded else server.temperature
        further = {"extra_body": server.extra, "system": server.system}
        self.settings |= {name: value for name, value in further.items() if value}
        self.max_new_tokens, self.batch = max_new_tokens, batch

    def tokens(self, prompt: str) -> int:
        """A prompt's tokens, for usual texts a high estimate: the server's tokenizer is not known.

        One token per three ASCII letters of a word (rounded up), per other ASCII character except
        spaces, and per UTF-8 byte of all other characters.
        """
        words = sum(-(-len(word) // 3) for word in re.findall(r"[A-Za-z]+", prompt))
        signs = len(re.findall(r"[^A-Za-z \x80-\U0010ffff]", prompt))
        return words + signs + len(re.sub(r"[\x00-\x7f]", "", prompt).encode("utf-8", "replace"))

    def write(self, prompts: Sequence[str], seeds: Sequence[int] = ()) -> Replies:
        """Complete prompts, `batch` requests in parallel; replies are yielded as they arrive.

        Raises RuntimeError, after the running requests, if the server would reject every request
        (unknown model, wrong key or certificate). The rest are not sent if `batch` (at least 3)
        questions in a row get no answer, or if the first `batch` (at least FIRST) are refused.
        """
        pool = ThreadPoolExecutor(self.batch)
        pairs = enumerate(zip(prompts, seeds or [0] * len(prompts), strict=True))
        futures = {pool.submit(self._ask, *pair): i for i, pair in pairs}
        in_a_row, refused, answered, hopeless = 0, 0, False, None
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    reason = "not asked: the server stopped answering"
                    yield futures[future], Refused(reason, final=False, later=True)
                    continue
                try:
                    reply = future.result()
                except RuntimeError as error:  # running requests may still be answered, and billed
                    hopeless = hopeless or error
                    for other in futures:
                        other.cancel()
                    continue
                yield futures[future], reply
                answered = answered or isinstance(reply, Completion)
                final = isinstance(reply, Refused) and reply.final
                refused = 0 if answered else refused + final
                in_a_row = 0 if isinstance(reply, Completion) or final else in_a_row + 1
                if in_a_row == max(self.batch, 3) or refused == max(self.batch, FIRST):
                    for other in futures:
                        other.cancel()
            if hopeless:
                raise hopeless
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> Replies:
        """The text generated for each prompt, since few servers score given options.

        A text completion is cut at the first blank line. A chat reply is cut only at an invented
        question, because its answer may be in the last paragraph.
        """
        for index, reply in self.write(prompts):
            end = INVENTED if self.chat else re.compile("\n\n")
            # From 1: at the start, `Question` may be the answer.
            if isinstance(reply, Completion) and (match := end.search(reply.text, 1)):
                finish = reply.finish if self.chat else "stop"  # it is whole
                reply = replace(reply, text=reply.text[: match.start()].strip(), finish=finish)
            yield index, reply

    def _ask(self, prompt: str, seed: int) -> Completion | Refused:
        calls, asked = self.client.completions, {"prompt": prompt}
        if self.chat:
            calls = self.client.chat.completions
            messages = [("system", self.settings.get("system")), ("user", prompt)]
            asked = {"messages": [{"role": r, "content": text} for r, text in messages if text]}
        asked |= {name: value for name, value in self.settings.items() if name != "system"}
        asked |= {"seed": seed} if self.seeded else {}
        try:
            reply = calls.with_raw_response.create(model=self.model, **asked)
            return self._read(reply.http_response.text)  # invalid bytes are replaced
        except openai.APIStatusError as error:
            status, body = error.status_code, error.response.text
            if status in FOR_ALL:
                raise self._hopeless(error, FOR_ALL[status]) from None
            final = status in FINAL or (status == 500 and TOO_LONG.search(body) is not None)
            final = final or (status == 403 and FLAGGED.search(body) is not None)
            remedy = f"; {KEY}" if status == 403 and not final else ""
            return Refused(self._line(error) + remedy, final, later=status in BUSY)
        except openai.APIConnectionError as error:
            causes = [error]
            while cause := causes[-1].__cause__ or causes[-1].__context__:
                causes.append(cause)
            kind = next(k for k in REMEDIES if any(isinstance(cause, k) for cause in causes))
            if kind is ssl.SSLCertVerificationError:
                raise self._hopeless(causes[-1], REMEDIES[kind]) from None
            return Refused(f"{self._line(causes[-1])}; {REMEDIES[kind]}", final=False)
        except (openai.OpenAIError, ValueError) as error:
            return Refused(self._line(error), final=False)

    def _read(self, body: str) -> Completion | Refused:
        """Parse a reply; fields may be missing, and the body may not be a completion at all."""
        try:
            reply = json.loads(body.removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            reply = None
        choice = _at(reply, "choices", 0)
        error = _at(reply, "error") or _at(choice, "error")
        early = str(_at(error, "code")) in map(str, BUSY)
        if not isinstance(choice, dict):
            return Refused(f"no completion: {self._shown(body)!r}", final=False, later=early)
        finish = self._shown(str(choice.get("finish_reason") or "stop")).lower()
        filtered = re.search(FILTERED, finish)
        finish = "length" if re.search(CUT, finish) and not filtered else finish
        if error or (re.search(BROKEN, finish) and not filtered):
            cause = self._shown(str(error or "it stopped before the end"))
            return Refused(f"finish reason {finish!r}: {cause}", final=False, later=early)
        message = _at(choice, "message") if self.chat else choice
        text, thinking = texts(_at(message, "content" if self.chat else "text"))
        fields = ["".join(filter(None, texts(_at(message, name)))) for name in THINKING]
        inside, text = apart(text) if isinstance(text, str) else ("", text)
        fields = [*next(map(apart, filter(None, fields)), ()), thinking, inside]
        thinking = "\n".join(dict.fromkeys(field.strip() for field in fields if field.strip()))
        if not text and thinking:
            return only_thinking(thinking, finish, self.max_new_tokens)
        if not text and finish == "length":
            return Refused(f"no text: raise max_new_tokens ({self.max_new_tokens})", True)
        refusal = self._shown(str(_at(message, "refusal") or ""))
        if not isinstance(text, str) or filtered or (refusal and not text):
            refusal = refusal or ("only part of a text" if text else "no text")
            return Refused(f"{refusal} (finish reason {finish!r})", True, thinking)
        tokens = tuple(_at(reply, "usage", f"{name}_tokens") for name in ("prompt", "completion"))
        known = all(isinstance(count, int) for count in tokens)
        return Completion(text.strip(), finish, tokens if known else None, thinking=thinking)

    def _hopeless(self, error: BaseException, remedy: str) -> RuntimeError:
        return RuntimeError(f"openai:{self.url}#{self.model}: {self._line(error)}; {remedy}")

    def _line(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, openai.APIStatusError) and " - " not in text:
            text += f" - {error.response.text}"  # the client shows only an error's message
        return self._shown(text)

    def _shown(self, text: str) -> str:
        """A server's text on one line, shortened, with the key masked (some servers repeat it)."""
        text = " ".join(text.encode(errors="replace").decode().split())
        secret = len(self.key) >= 8  # shorter ones are placeholders, which any text may contain
        return (text.replace(self.key, "***") if secret else text)[:300]


def _at(value: Any, *path: str | int) -> Any:
    """The value at a path in parsed JSON; None if there is none."""
    for name in path:
        try:
            value = value[name]
        except (LookupError, TypeError):
            return None
    return value
