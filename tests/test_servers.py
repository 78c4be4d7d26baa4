"""Teachers on a server: a real server gives the same texts as `hf:`, a faulty one loses nothing."""

import itertools
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest
from transformers import AutoTokenizer

from tinyllm import runs
from tinyllm.data import load as data
from tinyllm.models import load
from tinyllm.models import micro as models
from tinyllm.params import Params
from tinyllm.teachers import ask, base, store
from tinyllm.teachers import openai as servers

CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def small(uri, **changes):
    """A study of a few micro questions with one teacher; its questions are stored."""
    values = {"limit": {"train": 12, "valid": 4, "test": 6}, "arms": ["finetune"]}
    values |= {"teacher_batch": 4, "max_new_tokens": 16, "max_prompt": 2000, "teachers": [uri]}
    params = Params.checked(**values | changes)
    data.save(data.load(params), params)
    return params


@pytest.fixture(autouse=True)
def quick(own_folders, monkeypatch):
    """Few retries and short waits keep the tests fast; no API key from the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(servers, "RETRIES", 2)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.05)


def records(params):
    return ask.records(params, params.teachers[0])


def stored(params):
    """The records stored so far, even if the store is unfinished."""
    return store.read(ask.Job(params, params.teachers[0]).file)


def hash_of(text):
    return runs.digest(text)[:8]


# A faulty server: a real HTTP server on 127.0.0.1 with artificial replies ------------------------

BODIES = {
    "half": ("application/json", '{"id": "1", "choices": [{"ind'),
    "empty": ("application/json", '{"id": "1", "choices": []}'),
    "html": ("text/html", "<html>busy</html>"),
    "stream": ("text/event-stream", "data: {}\n\n"),
    "null": ("application/json", '{"choices": [null], "usage": "none"}'),
    "error": ("application/json", '{"error": {"message": "no provider"}}'),
    "bytes": ("application/json", '{"choices": [{"message": {"content": "a \udcff."}}]}'),
}


class Faulty(ThreadingHTTPServer):
    """Answers `OK HASH`; `faults` gives the fault, if any, for the nth try of a question."""

    daemon_threads = True

    def __init__(self, faults=lambda question, tries: None, tls=None):
        super().__init__(("127.0.0.1", 0), Reply)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.faults, self.tries, self.keys, self.bodies = faults, Counter(), set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http{'s' * bool(tls)}://127.0.0.1:{self.server_address[1]}/v1"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Reply(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        server = self.server
        server.bodies.append(body)
        server.tries[question] += 1
        server.keys.add(self.headers["Authorization"])
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": f"OK {hash_of(question)}."}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        reply["choices"] = [choice]
        status, text, headers = 200, json.dumps(reply), {"Content-Type": "application/json"}
        fault = server.faults(question, server.tries[question])
        if isinstance(fault, tuple):
            status, text = fault
        elif isinstance(fault, int):
            status, text = fault, json.dumps({"error": {"message": f"fault {self.headers}"}})
        elif isinstance(fault, dict):  # changes to the choice
            message = choice["message"] | fault.get("message", {})
            text = json.dumps(reply | {"choices": [choice | fault | {"message": message}]})
        elif fault in BODIES:
            headers["Content-Type"], text = BODIES[fault]
        elif fault == "slow":
            time.sleep(1.5)
        elif fault == "hang up":
            self.connection.close()
            return
        self.send_response(status)
        text = text.encode(errors="surrogateescape")
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def asked(faults=lambda question, tries: None, **changes):
    """A study that has prompted a faulty server, and that server."""
    with Faulty(faults) as server:
        params = small(f"openai:{server.url}#m", **changes)
        ask.ask_all(params)
    return params, server


def some(share, fault):
    """Returns the fault for this share of the questions, at every try."""
    return lambda question, tries: fault if int(hash_of(question), 16) % 100 < 100 * share else None


@pytest.mark.parametrize("fault", [429, 503, "slow", "hang up"])
def test_transient_faults_are_retried_without_loss(monkeypatch, fault):
    monkeypatch.setattr(servers, "TIMEOUT", 0.5)
    params, server = asked(lambda question, tries: fault if tries <= 2 else None)
    assert set(server.tries.values()) == {3} and len(records(params)) == 12
    assert all(r.text == f"OK {hash_of(r.prompt)}." for r in records(params))


BROKEN = {"finish_reason": "error", "message": {"content": "So it"}}
LASTING = [500, 498, 499, "half", "empty", "html", "stream", "null", "error", BROKEN]


@pytest.mark.parametrize("fault", LASTING)
def test_lasting_faults_are_reported_and_a_rerun_requests_only_the_missing(fault):
    with Faulty(some(0.34, fault)) as server:
        params = small(f"openai:{server.url}#m")
        with pytest.raises(store.Unanswered, match=r"of 12 questions got no answer") as error:
            ask.ask_all(params)
        missing = 12 - len(stored(params))
        assert 0 < missing < 12 and f"{missing} of 12" in str(error.value)
        said = BODIES.get(str(fault), " ")[-1].strip()
        assert said[:20] in str(error.value)
        server.faults = lambda question, tries: None
        server.tries.clear()
        ask.ask_all(params)
        assert list(server.tries.values()) == [1] * missing
        assert len(records(params)) == 12


def one_bad(fault, **changes):
    """A study, its server, which has this fault at one question, and that question's prompt."""
    server = Faulty()
    params = small(f"openai:{server.url}#m", max_refused=0.1, **changes)
    teacher = ask.load_teacher(params, params.teachers[0])
    bad = ask.jobs(params)[0].requests(teacher)[5].prompt
    server.faults = lambda question, tries: fault if question == bad else None
    return params, server, bad


GUIDELINES = (403, '{"code": "no permission", "error": "Content violates usage guidelines."}')
BLOCKED = (403, "<html><title>Attention Required! | Cloudflare</title></html>")
ODD = {"finish_reason": "error", "error": {"code": 403, "message": "flagged"}}
PART = (200, '{"error": {"code": 502}, "choices": [{"message": {"content": "So it"}}]}')
AGAIN = [502, 504, 424, GUIDELINES, BLOCKED, ODD, PART, "hang up", "slow"]


@pytest.mark.parametrize("fault", AGAIN)
def test_one_question_that_fails_twice_counts_as_refused(monkeypatch, fault):
    monkeypatch.setattr(servers, "TIMEOUT", 0.5)
    params, server, bad = one_bad(fault)
    with server:
        ask.ask_all(params)
    assert [r.prompt for r in records(params) if r.refused] == [bad]


LIMIT = {"code": 429, "message": "rate limit"}
OVERLOAD = (200, '{"error": {"code": 503}}')


@pytest.mark.parametrize("fault", [429, 503, OVERLOAD, {"error": LIMIT}])
def test_a_rate_limit_never_counts_as_a_refusal(fault):
    params, server, _ = one_bad(fault)
    with server:
        for _ in range(3):
            with pytest.raises(store.Unanswered, match="1 of 12"):
                ask.ask_all(params)
        server.faults = lambda question, tries: None
        ask.ask_all(params)
    assert not [r for r in records(params) if r.refused]


def test_questions_that_were_not_asked_never_count_as_refused():
    with Faulty() as server:
        number = itertools.count()
        server.faults = lambda question, tries: 401 if next(number) else None
        limit = {"train": 400, "valid": 4, "test": 4}
        params = small(f"openai:{server.url}#m", limit=limit, max_refused=1.0)
        with pytest.raises(RuntimeError, match="401"):
            ask.ask_all(params)
        [first] = [record.prompt for record in stored(params)]
        server.faults = lambda question, tries: None if question == first else 403
        server.tries.clear()
        with pytest.raises(store.Unanswered, match="not asked"):
            ask.ask_all(params)
        refused = [record.prompt for record in stored(params) if record.refused]
        assert 0 < len(refused) < 399
        assert {server.tries[prompt] for prompt in refused} == {2}, "each was asked twice"


REASONS = {
    "stop": ["stop", "end_turn", "eos_token", "null", None],
    "length": ["length", "MAX_TOKENS", "model_length", "model_context_window_exceeded",
               "incomplete"],
    "refused": ["content_filter: SAFETY", "sensitive", "RECITATION", "guardrail_intervened",
                "refusal"],
    "failed": ["network_error", "abort", "cancelled", "insufficient_system_resource"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "reason"), [(kind, reason) for kind in REASONS for reason in REASONS[kind]]
)
def test_finish_reasons_of_different_servers_are_understood_by_their_words(kind, reason):
    params, server, _ = one_bad({"finish_reason": reason, "message": {"content": "So it"}})
    with server:
        ask.ask_all(params)
    [reply] = [r for r in records(params) if r.text in ("So it", None)]
    wanted = {"stop": str(reason or "stop"), "failed": "refused"}.get(kind, kind)
    assert reply.finish == wanted
    assert ("it stopped before the end" in str(reply.refused)) == (kind == "failed")


TEXT = {"type": "text", "text": "OK."}
THINKING = {
    "tags": {"content": "<think>\nHm.\n</think>\n\nOK."},
    "opened by the template": {"content": "Hm.\n</think>\nOK."},
    "empty block": {"content": "<think>\n\n</think>\n\nOK."},
    "field": {"content": "OK.", "reasoning_content": "Hm."},
    "field of another name": {"content": "OK.", "reasoning": "Hm."},
    "parts": {"content": [{"type": "thinking", "thinking": "Hm."}, TEXT]},
    "nested": {"content": [{"type": "thinking", "thinking": [TEXT | {"text": "Hm."}]}, TEXT]},
    "reasoning part": {"content": [{"type": "reasoning", "text": "Hm."}, TEXT]},
    "field of parts": {"content": "OK.", "reasoning": {"content": [TEXT | {"text": "Hm."}]}},
    "details": {"content": TEXT, "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
    "twice": {"content": "OK.", "reasoning": "Hm.", "thinking": "Hm."},
    "no thinking": {"content": [TEXT, {"type": "image_url", "image_url": {"url": "x"}}, 7, {}]},
}


@pytest.mark.parametrize("form", THINKING)
def test_thinking_is_stored_separately_and_learn_from_selects_the_target(form):
    params, _ = asked(lambda question, tries: {"message": THINKING[form]})
    thinking = "" if form in ("empty block", "no thinking") else "Hm."
    assert {(r.text, r.thinking) for r in records(params)} == {("OK.", thinking)}
    wanted = {"answer": "OK.", "thinking": thinking or "OK.", "both": f"{thinking}\nOK.".strip()}
    for part, text in wanted.items():
        learned = ask.rationales(params.model_copy(update={"learn_from": part}), params.teachers[0])
        assert set(learned.values()) == {text}


OSS = "<|channel|>"


@pytest.mark.parametrize(("text", "prompt", "parts"), [
    ("Sure!\n<think>because dogs (cut", "", ("because dogs (cut", "Sure!")),
    ("<think>a</think> b <think>c</think> <think>d (cut", "", ("a\nc\nd (cut", "b")),
    ("<Think type='x'>a</THINK> b", "", ("a", "b")), ("[THINK]a[/THINK]b", "", ("a", "b")),
    ("a (cut", "Question\n<think>\n", ("a (cut", "")),
    ("I think so, [thought] it <b>.", "", ("", "I think so, [thought] it <b>.")),
    ("<think>a <think>b</think> c</think>d", "", ("a\nb\nc", "d")),
    ("a</think>b</think>c <think>e</think>d", "", ("a\nb\ne", "c d")),
    ("◁think▷a◁/think▷b", "", ("a", "b")), ("a◁/think▷b", "", ("a", "b")),
    ("<|channel>thought\na\n<channel|>b<turn|>", "", ("a", "b")),
    ("<|channel>thought\na (cut", "", ("a (cut", "")),
    ("<think>a</think>\n<answer>\nb\n</answer>", "", ("a", "b")),
    ("<response>b (cut", "", ("", "b (cut")),
    ("<answer>b</answer> c", "", ("", "<answer>b</answer> c")),
    (f"{OSS}analysis<|message|>a<|end|><|start|>assistant{OSS}final<|message|>b", "", ("a", "b")),
    (f"{OSS}analysis<|message|>a (cut", "", ("a (cut", "")),
    ("<|im_start|>assistant\n<think>a</think>b<|im_end|>\nuser\nMore?", "", ("a", "b")),
    ("<s>b</s></s>", "", ("", "b")), ("b<｜end▁of▁sentence｜>", "", ("", "b")),
    ("a <s>b</s> c", "", ("", "a <s>b</s> c")),
    ("analysisA.assistantfinalb", "", ("A.", "b")), ("analysis of a", "", ("", "analysis of a")),
])  # fmt: skip
def test_irregular_thinking_blocks_are_removed_from_the_answer(text, prompt, parts):
    assert base.apart(text, prompt) == parts


@pytest.mark.parametrize("form", [
    "<think>Not {0}.\n\n</think>\n\n{1}", "Let us see {0}.\n\nThe answer is (b).",
    "Question: Which?\n\nAnswer: {1}\n\nQuestion: And now?\nAnswer: {0}",
])  # fmt: skip
def test_chat_answers_are_extracted_from_different_reply_formats(form):
    def reply(question, tries):
        options = [line[4:] for line in question.splitlines() if line.startswith("(")]
        return {"message": {"content": form.format(*options)}}

    with Faulty(reply) as server:
        params = small(f"openai:{server.url}#m", examples="none")
        ask.answer_all(params)
    assert set(ask.answers(params)["choice"]) == {1}


# Settings of one server ---------------------------------------------------------------------------


def test_server_settings_are_sent_and_give_a_separate_store():
    custom = {"limit": "max_completion_tokens", "temperature": None, "system": "Be brief."}
    custom |= {"extra": {"reasoning_effort": "low"}}
    with Faulty() as server:
        uri = f"openai:{server.url}#m"
        for settings in ({}, {uri: {"temperature": 0.3}}, {uri: custom}):
            ask.ask_all(small(uri, servers=settings, temperature=0.7))
        ask.answer_all(small(uri, temperature=0.7))
    plain, warm, new, answer = (server.bodies[12 * i] for i in range(4))
    assert (plain["max_tokens"], plain["temperature"], warm["temperature"]) == (16, 0.7, 0.3)
    assert len({body.get("seed") for body in server.bodies[:12]} - {None}) == 12
    assert "seed" not in warm | new | answer and answer["temperature"] == 0, "greedy answers"
    assert new["max_completion_tokens"] == 16 and new["reasoning_effort"] == "low"
    assert not {"max_tokens", "temperature", "system"} & set(new)
    assert new["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(("settings", "named"), [
    ({"extra": {"credentials": "s3cret"}}, "OPENAI_API_KEY"),
    ({"extra": {"x": "gsk_s3cret"}}, "OPENAI_API_KEY"),
    ({"extra": {"user": "xai-s3cret"}}, "OPENAI_API_KEY"),
    ({"extra": {"session_token": "s3cret"}}, "OPENAI_API_KEY"),
    ({"extra": {"X-API-Key": "s3cret"}}, "OPENAI_API_KEY"),
    ({"extra": {"headers": {"Authorization": "s3cret"}}}, "OPENAI_API_KEY"),
    ({"extra": {"x": ["sk-s3cret"]}}, "OPENAI_API_KEY"),
    ({"extra": {"hf_token": "s3cret"}}, "OPENAI_API_KEY"),
    ({"tokens": "s3cret"}, "tokens"), ({"temperature": "s3cret"}, "temperature"),
    ({"extra": {"messages": ["s3cret"]}}, "messages"), ({"extra": {"x": date.today()}}, "JSON"),
])  # fmt: skip
def test_invalid_server_settings_are_rejected_without_printing_secrets(settings, named):
    uri = "openai:http://127.0.0.1:9/v1#m"
    with pytest.raises(ValueError, match=named) as error:
        Params.checked(teachers=[uri], arms=["finetune"], servers={uri: settings})
    assert "s3cret" not in str(error.value)


def test_a_server_context_must_fit_prompt_and_completion():
    uri = "openai:http://127.0.0.1:9/v1#m"
    with pytest.raises(ValueError, match="at most 984"):
        ask.ask_all(small(uri, servers={uri: {"context": 1000}}))


LENGTH = {"finish_reason": "length", "message": {"content": None, "reasoning_content": "Hm."}}
CUT = {"finish_reason": "length", "message": {"content": "<think>Hm."}}
FINAL = [
    (400, "BadRequestError"),
    ((422, '{"detail": "seed?"}'), "seed?"),
    ((400, '{"error": {"message": "bad \\ud83d."}}'), "bad ?."),
    ((403, '{"error": {"message": "your input was flagged"}}'), "flagged"),
    ((500, '{"error": {"message": "Context size exceeded"}}'), "Context size"),
    ({"message": {"content": None, "refusal": "I cannot."}}, "I cannot."),
    ({"finish_reason": "content_filter", "message": {"content": "So it"}}, "content_filter"),
    ({"finish_reason": "MAX_TOKENS", "message": {"content": ""}}, "raise max_new_tokens"),
    (LENGTH, "raise max_new_tokens"),
    (CUT, "raise max_new_tokens"),
]


@pytest.mark.parametrize(("fault", "reason"), FINAL)
def test_final_refusals_are_recorded_and_only_server_errors_are_retried(fault, reason):
    params, server, bad = one_bad(fault)
    with server:
        ask.ask_all(params)
        again = fault[0] == 500 if isinstance(fault, tuple) else False
        assert server.tries[bad] == (3 if again else 1), "no retry of what is final"
    [refused] = [record for record in records(params) if record.refused]
    assert reason in refused.refused and refused.text is None and refused.prompt == bad
    assert refused.thinking == ("Hm." if fault in (LENGTH, CUT) else "")
    kept = ask.rationales(params, params.teachers[0])
    assert len(kept) == 11 and refused.id not in kept


@pytest.mark.parametrize(("status", "said"), [(400, "BadRequest"), (403, "set OPENAI_API_KEY to")])
def test_a_server_that_refuses_every_request_is_abandoned_and_nothing_stored(status, said):
    """Also a wrong key (403), since an error 403 may be about one question only."""
    with Faulty(lambda question, tries: status) as server:
        params = small(f"openai:{server.url}#m", limit={"train": 400, "valid": 4, "test": 4})
        with pytest.raises(store.Unanswered, match=rf"400 of 400(?s:.*){said}"):
            ask.ask_all(params)
        assert sum(server.tries.values()) < 400 and stored(params) == []


@pytest.mark.parametrize(("fault", "text"), [
    ({"message": {"content": "half \ud83d, whole \ud83d\ude00"}}, "half \ufffd, whole 😀"),
    ("bytes", "a \ufffd."),
])  # fmt: skip
def test_invalid_unicode_is_replaced_and_recorded(fault, text):
    params, _ = asked(lambda question, tries: fault)
    assert {record.text for record in records(params)} == {text}
    folder = ask.Job(params, params.teachers[0]).file.parent
    assert len(runs.read_manifest(folder)["facts"]["invalid_text"]) == 12


# Connections: each error names its cause and the remedy -------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl makes no certificate here")
    return folder


def test_a_self_signed_certificate_works_once_ssl_cert_file_is_set(monkeypatch, certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with Faulty(tls=tls) as server:
        params = small(f"openai:{server.url}#m")
        with pytest.raises(RuntimeError, match=r"self-signed certificate.*SSL_CERT_FILE"):
            ask.ask_all(params)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        ask.ask_all(params)
        plain = small(f"openai:{server.url.replace('https', 'http')}#m", study="plain")
        with pytest.raises(store.Unanswered, match="write https://"):
            ask.ask_all(plain)
    assert len(records(params)) == 12


def test_https_to_an_http_port_and_a_closed_port_give_clear_errors():
    with Faulty() as server:
        uri = f"openai:{server.url.replace('http', 'https')}#m"
        with pytest.raises(store.Unanswered, match=r"WRONG_VERSION_NUMBER.*write http://"):
            ask.ask_all(small(uri))
    uri = f"openai:http://127.0.0.1:{free_port()}/v1#m"
    with pytest.raises(store.Unanswered, match="refused; is the server running"):
        ask.ask_all(small(uri, teacher_batch=2))


def test_a_host_that_never_accepts_a_connection_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(servers, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for other in waiting:  # the queue is full, so the system ignores further connections
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        with pytest.raises(store.Unanswered, match="check the address"):
            ask.ask_all(small(f"openai:http://127.0.0.1:{full.getsockname()[1]}/v1#m"))
        for other in waiting:
            other.close()


def test_requests_in_flight_when_credit_ends_are_stored_and_not_repeated():
    with Faulty() as server:
        last = iter(range(12))
        server.faults = lambda question, tries: 402 if next(last) == 5 else "slow"
        params = small(f"openai:{server.url}#m")
        with pytest.raises(RuntimeError, match="402"):
            ask.ask_all(params)
        assert len(stored(params)) == sum(server.tries.values()) - 1 >= 5
        server.faults = lambda question, tries: None
        ask.ask_all(params)
        assert sorted(server.tries.values()) == [1] * 11 + [2]


def test_connection_errors_mention_a_configured_proxy(monkeypatch):
    with Faulty() as server:
        params = small(f"openai:{server.url}#m", teacher_batch=2)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        with pytest.raises(store.Unanswered, match="NO_PROXY"):
            ask.ask_all(params)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        ask.ask_all(params)


@pytest.mark.parametrize(("variable", "value"), [
    ("SSL_CERT_FILE", "no.pem"), ("http_proxy", "no://x"),
    ("OPENAI_API_KEY", "“sk-secret”"), ("OPENAI_API_KEY", "sk-secret\nsk-other"),
])  # fmt: skip
def test_unusable_environment_variables_are_named_without_a_key(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable.upper()) as error:
        ask.ask_all(small("openai:http://127.0.0.1:9/v1#m"))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "OPENAI_API_KEY"), (402, "add credit"), (404, "model's name")]
)
def test_key_credit_and_model_errors_end_at_once_with_the_remedy(status, remedy):
    with Faulty(lambda question, tries: status) as server:
        with pytest.raises(RuntimeError, match=remedy):
            ask.ask_all(small(f"openai:{server.url}#m"))
        assert max(server.tries.values()) == 1


def test_the_api_key_is_sent_but_never_written_to_files_or_messages(monkeypatch, tmp_path):
    key = "sk-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", f"{key}\n")  # with the line end of a file
    with Faulty(some(0.34, 400)) as server:  # the error message repeats the headers
        params = small(f"openai:{server.url}#m")
        with pytest.raises(store.TooManyRefused) as refused:
            ask.ask_all(params)
        assert server.keys == {f"Bearer {key}"}
        ask.ask_all(params.model_copy(update={"max_refused": 1.0}))
    assert "***" in str(refused.value) and key not in str(refused.value)
    for file in (tmp_path / "runs").rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


def test_a_text_completion_that_was_cut_at_a_blank_line_is_whole(monkeypatch):
    teacher = servers.ServerTeacher("http://h/v1/completions#m", max_new_tokens=9, batch=1)
    written = [base.Completion(text, "length") for text in ("It is so.\n\nQ", "It is")]
    monkeypatch.setattr(teacher, "write", lambda prompts: enumerate(written))
    replies = [(reply.text, reply.finish) for _, reply in teacher.answer(["", ""], [])]
    assert replies == [("It is so.", "stop"), ("It is", "length")]


@pytest.mark.parametrize(("written", "answer"), [
    ("Exercise", "Exercise"), ("Question.\n\nIt is asked.", "Question.\n\nIt is asked."),
    ("So it is:\n\n**Exercise**", "So it is:\n\n**Exercise**"), ("Yes\n\nExercise 2: Why?", "Yes"),
])  # fmt: skip
def test_an_answer_is_cut_at_an_invented_question_but_not_at_a_word(monkeypatch, written, answer):
    teacher = servers.ServerTeacher("http://h/v1#m", max_new_tokens=9, batch=1)
    completion = base.Completion(written, "stop")
    monkeypatch.setattr(teacher, "write", lambda prompts: enumerate([completion]))
    assert [reply.text for _, reply in teacher.answer([""], [])] == [answer]


# The estimate of a prompt's tokens ----------------------------------------------------------------

TEXTS = [
    "Question: Which day is a robin shown on?\nOptions:\n(a) Monday\n(b) Tuesday\nAnswer: (b)",
    "哪一种动物会飞？选项：(a) 鱼 (b) 知更鸟。 أي حيوان يستطيع الطيران؟ Какое животное? किस 😀🚀🧪",
    "IL-6, TNFα (p<0.001; n=1,234) x = {'a': [3.14159]}; 5'-ATGCCGTAA-3' µg/mL ±0.05 $%^&* ====",
]


def test_the_token_estimate_is_not_below_the_count_of_a_real_tokenizer(smollm2_file):
    folder, name = smollm2_file.parent, smollm2_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    teacher = servers.ServerTeacher("http://h/v1#m", max_new_tokens=1, batch=1)
    for text in TEXTS:
        count = len(tokenizer(text, add_special_tokens=False).input_ids)
        assert count <= teacher.tokens(text) <= 4 * count + 8


# A real server ------------------------------------------------------------------------------------


@contextmanager
def serving(model):
    """Runs `transformers serve` with one model within the block; yields its URL."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += f"--port {port} --host 127.0.0.1 --device cpu --dtype float32".split()
    process = subprocess.Popen(command)
    try:
        for _ in range(240):
            assert process.poll() is None, "the server did not start"
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=1).status_code == 200:
                    break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_a_real_server_and_hf_give_the_same_completion_and_chat_texts(tmp_path):
    text, chat = tmp_path / "text", tmp_path / "chat"
    models.save(models.untrained("llama", 0), "llama", text)
    model, tokenizer = load.load(str(text))
    tokenizer.chat_template = CHAT
    load.save(model, tokenizer, chat)
    for folder, end in ((text, "v1/completions"), (chat, "v1")):
        direct = small(f"hf:{folder}", max_prompt=400)
        ask.ask_all(direct)
        with serving(folder) as url:
            uri = f"openai:{url}/{end}#{folder}"
            served = direct.model_copy(update={"teachers": [uri]})
            ask.ask_all(served)
        same = [[(r.id, r.text, r.finish, r.tokens) for r in records(p)] for p in (direct, served)]
        assert sorted(same[0]) == sorted(same[1])
        assert len({record.text for record in records(direct)}) > 3


@pytest.mark.parametrize(("key", "shown"), [("Moderation", "a ***"), ("flagged", "a flagged")])
def test_reasons_of_refusals_show_no_key_except_short_placeholders(monkeypatch, key, shown):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    faults = [{"message": {"content": "", "refusal": f"a {key}"}}, (403, f"a {key}")]
    for number, fault in enumerate([*faults, {"finish_reason": f"refusal of a {key}"}]):
        params, server, _ = one_bad(fault, study=f"s{number}")
        with server:
            ask.ask_all(params)
        [reason] = [r.refused for r in records(params) if r.refused]
        assert shown in reason and (key in reason) == (key in shown)
