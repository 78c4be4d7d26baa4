"""The store: after a kill or on a full disk, no record is lost or requested twice."""

import multiprocessing
import os
import re
import resource
import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.data.question import DataError
from tinyllm.prompts import Fitted
from tinyllm.teachers import store
from tinyllm.teachers.base import Completion, Refused
from tinyllm.teachers.store import Record

ANY = st.text(st.characters(exclude_categories=()), max_size=30)
PAIR = st.tuples(st.integers(0, 9), st.integers(0, 9))
RECORDS = st.builds(
    Record, ANY, ANY, ANY, ANY, st.none() | ANY, ANY, st.none() | PAIR,
    st.lists(ANY, max_size=2).map(tuple), PAIR,
    st.none() | st.lists(st.floats(allow_nan=False), max_size=3).map(tuple), st.none() | ANY, ANY,
)  # fmt: skip


class Echo:
    """A fake teacher that answers immediately and prefers the first option.

    text: the completion for a prompt. replies: another reply for the nth prompt, if not None.
    asked, seeds: all prompts received, and their seeds.
    """

    revision, settings = "1", {"max_new_tokens": 8}

    def __init__(self, replies=lambda n: None, text=lambda prompt: f"About {prompt!r}\u2028so."):
        self.asked, self.seeds, self.replies, self.text = [], [], replies, text

    def rendered(self, prompt):
        return prompt

    def tokens(self, prompt):
        return len(prompt.split())

    def write(self, prompts, seeds):
        for index, prompt in enumerate(prompts):
            self.asked.append(prompt)
            self.seeds.append(seeds[index])
            reply = self.replies(len(self.asked))
            yield index, reply or Completion(self.text(prompt), "stop", (9, 3))

    def answer(self, prompts, options):
        for index, texts in enumerate(options):
            self.asked.append(prompts[index])
            scores = tuple(-float(place) for place in range(len(texts)))
            yield index, Completion(texts[0], "scored", (9, 0), scores)


def fill(file, teacher, number, uri="t", prompt="prompt {}", **how):
    prompts = [Fitted(prompt.format(i), ("q1",)) for i in range(number)]
    rows = [store.request(teacher, uri, f"q{i}", prompts[i]) for i in range(number)]
    store.fill(file, teacher, rows, {}, **how)


@given(st.lists(RECORDS, max_size=6), st.binary(max_size=20).filter(lambda torn: b"\n" not in torn))
def test_records_round_trip_and_an_incomplete_last_line_is_dropped(tmp_path_factory, records, torn):
    file = tmp_path_factory.mktemp("s") / "store.jsonl"
    first = {}
    for record in records:
        if first.get(valid(record.key), replace(record, text=None)).text is None:
            first[valid(record.key)] = record  # a text replaces a refusal
    for part in (records[:3], records[3:]):
        with store.appending(file) as append:
            for record in part:
                append(record)
        with open(file, "ab") as out:
            out.write(torn)
    expected = [{n: valid(v) for n, v in vars(record).items()} for record in first.values()]
    assert [vars(record) for record in store.read(file)] == expected


def valid(value):
    """The text as valid Unicode: surrogate pairs are joined, single surrogates replaced."""
    if isinstance(value, tuple):
        return tuple(map(valid, value))
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_record_keys_depend_on_teacher_revision_prompt_settings_and_sample(tmp_path):
    plain, revised, longer = Echo(), Echo(), Echo()
    revised.revision, longer.settings = "2", {"max_new_tokens": 9}
    ways = (("t", plain), ("u", plain), ("t", revised), ("t", longer), ("t", plain))
    for place, (uri, teacher) in enumerate(ways):
        fill(tmp_path / f"{place}", teacher, 2, uri)
    fill(tmp_path / "5", plain, 2, prompt="other {}")
    assert len({row.key for file in tmp_path.iterdir() for row in store.read(file)}) == 10
    prompt = Fitted("prompt 0", ("q1",))
    keys = [store.request(plain, "t", "q0", prompt, sample=number).key for number in range(4)]
    assert keys[0] == "f753c99dab84209e389d3b1aa437c5280b80dec15390f4c097ba0868903a5ca2", "as ever"
    assert len(set(keys)) == 4


def test_refusals_are_recorded_while_others_are_answered_and_their_share_is_limited(tmp_path):
    refusing = Echo(lambda n: Refused("filter", True) if n < 5 else None)
    with pytest.raises(store.TooManyRefused, match=r"4 of 30(?s:.*)filter \(4") as error:
        fill(tmp_path / "s", refusing, 30, max_refused=0.1)
    advised = float(re.search(r"Raise it to ([\d.]+)", str(error.value))[1])  # 0.1333... rounded up
    fill(tmp_path / "s", refusing, 30, max_refused=advised)
    assert refusing.asked[30:] == ["prompt 4"], "the check that it still answers"
    refused = [r.id for r in store.read(tmp_path / "s") if r.refused == "filter"]
    assert refused == ["q0", "q1", "q2", "q3"]


ERROR, BUSY = Refused("error 500", False), Refused("error 429", False, later=True)
CREDIT = Refused("error 400: no credit", True)  # some servers report it as if for one question


@pytest.mark.parametrize(("fails", "refused"), [((1,), []), ((1, 41), ["q0"])])
def test_a_question_counts_as_refused_if_it_fails_twice_and_others_are_answered(
    tmp_path, fails, refused
):
    failing = Echo(lambda n: ERROR if n in fails else None)
    fill(tmp_path / "s", failing, 40, max_refused=0.05)
    assert [r.id for r in store.read(tmp_path / "s") if r.refused] == refused
    assert failing.asked[40] == "prompt 0", "asked a second time, after all others"


@pytest.mark.parametrize("before", [0, 20, 38])
@pytest.mark.parametrize("reply", [ERROR, BUSY, CREDIT])
def test_failures_are_not_recorded_once_nothing_is_answered(tmp_path, reply, before):
    """As when the server is down or busy, or the credit ends; before: texts of an earlier run."""
    file = tmp_path / "s"
    fill(file, Echo(), 40)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:before]))
    ends = Echo(lambda n: reply if n > 38 - before else None)
    with pytest.raises(store.Unanswered, match=rf"2 of 40.*'q38'(?s:.*){reply.reason} \(2"):
        fill(file, ends, 40, max_refused=0.05)
    assert len(store.read(file)) == 38
    fill(file, Echo(), 40)


def test_records_of_other_settings_are_reported_before_anything_is_asked(tmp_path):
    """As when two stores were merged by hand; which of them students learn from is not known."""
    longer, again = Echo(), Echo()
    longer.settings = {"max_new_tokens": 9}
    fill(tmp_path / "s", Echo(), 3)
    fill(tmp_path / "t", longer, 4)
    with open(tmp_path / "s", "ab") as out:
        out.write((tmp_path / "t").read_bytes())
    with pytest.raises(DataError, match=r"s: 4 records of other .*'q\d'.*delete these lines"):
        fill(tmp_path / "s", again, 5)
    assert not again.asked


@pytest.mark.parametrize("broken", ['{"key": "x', "[1]", '{"key": "x", "more": 1}'])
def test_a_broken_line_is_reported_with_its_number(tmp_path, broken):
    (tmp_path / "s").write_text(f"{broken}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: not a record"):
        store.read(tmp_path / "s")


def fill_in_a_process(file, size=resource.RLIM_INFINITY, kill_at=0):
    """Exit code of `fill` with a file size limit in bytes, killed at prompt number `kill_at`."""

    def reply(n):
        if n == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        fill(file, Echo(reply), 400)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def test_a_killed_and_resumed_store_equals_an_uninterrupted_one(tmp_path):
    fill(tmp_path / "whole", Echo(), 400)
    expected, file = (tmp_path / "whole").read_bytes(), tmp_path / "s"
    for kill_at, torn in ((20, 0), (140, 41), (160, 42)):
        assert fill_in_a_process(file, kill_at=kill_at) == -signal.SIGKILL
        with open(file, "ab") as out:  # a partial line, as after a kill during a write
            out.write(expected[:torn])
    rest = Echo()
    fill(file, rest, 400)
    assert file.read_bytes() == expected
    assert len(rest.asked) == 400 - 19 - 139 - 159, "nothing is asked twice"


def test_a_full_disk_keeps_complete_records_and_a_rerun_continues(tmp_path, capfd):
    file, limit = tmp_path / "s", 20_000  # the kernel raises EFBIG in the middle of a line
    assert fill_in_a_process(file, size=limit) == 1
    assert "free some space and run this again" in capfd.readouterr().err
    kept = file.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 0 < len(kept) <= limit
    fill(file, Echo(), 400)
    assert file.read_bytes().startswith(kept) and len(store.read(file)) == 400
