"""What rationales are worth: facts of single texts, tables of any store, the release's counts."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from tinyllm import audit, extract, paths, release
from tinyllm.data import Example
from tinyllm.figures import style
from tinyllm.figures.audit import HEADS, audit_numbers, rationale_audit

BIRD = Example("q", "", "Which of these flies?", ["a stone", "a wren"], 1)


@pytest.mark.parametrize(("text", "cut"), [
    ("It is a bird.", False), ('He said "yes."', False), ("Really? (Yes!)", False),
    ("Sun warms. Thus, the answer is (d) plants", False), ("It is a", True),
    ("Birds fly. So", True),
    ("Sun warms and. So Thus, the answer is (d) plants", True), ("", False), (" \n", False),
])  # fmt: skip
def test_cut_off_means_mid_sentence(text, cut):
    assert audit.cut_off(text) is cut


@pytest.mark.parametrize(("text", "found"), [
    ("A wren flies.\nQuestion:\nWhat swims?", True), ("A wren flies.\n\n### Q3. What swims?", True),
    ("A wren flies.\n#\nQuestion\nWhat", True), ("Question: What flies?", True),
    ("The question: what flies? A wren.", False), ("Let Q: x be true.", False), ("Q", True),
    ("Quails fly.\nQuestionable, but so.", False), ("", False),
])  # fmt: skip
def test_an_invented_question_begins_a_line(text, found):
    assert audit.invents(text) is found


@pytest.mark.parametrize(("text", "found"), [
    ("A wren flies. Birds do. A wren flies!", True), ("A wren flies.\na  wren flies", True),
    ("It is, it is, it is, it is what it is.", True), ("6 6 6 6 6", True),
    ("Yes. Yes. A wren flies.", False), ("A wren flies. A wren flies high.", False),
    ("Very, very good birds fly far and wide.", False), ("", False),
    ("A wren flies. Thus, the answer is (b) A wren flies.", False),
    ("A wren flies.\nQuestion: A wren flies. A wren flies.", False),
])  # fmt: skip
def test_a_sentence_said_twice_or_a_loop_is_a_repetition(text, found):
    assert audit.repeats(text) is found


@pytest.mark.parametrize(("text", "found"), [
    ("Let's think step by step. сайт It is a bird.", True), ("It is 鳥.", True), ("It is ղ.", True),
    ("Let's think step by step. Ñ\x81Ð°Ð¹Ñ\x82 It flies.", True),  # the same as the first, misread
    ("Der Vogel fliegt und wir sehen, dass er nicht ist.", True),
    ("Los dos son más que una.", True), ("Les oiseaux sont dans une cage.", True),
    ("Let's think step by step. sierpany A wren flies.", True), ("Unterscheidung of birds.", True),
    ("TNFα and µm, Ω and Å; Sjögren’s syndrome, naïve café.", False),
    ("The van der Waals force; de novo; a la carte.", False), ("Birds 𝑓ly at 5 ℃, x² + ½.", False),
    ("It was Ã¼ber.", False), ("Hinweise are hints; we say hints.", True),
    ("A German word is Unterscheidung, a Polish month is kwiecień.", False), ("", False),
])  # fmt: skip
def test_other_scripts_and_languages_are_noticed_but_not_greek_or_names(text, found):
    assert audit.foreign(text) is found


def test_facts_of_missing_and_empty_rationales_are_nothing_else():
    assert audit.facts(None, BIRD) == audit.Facts(missing=True)
    for text in ("", " \n", "Let's think step by step.", "Thus, the answer is (b) a wren"):
        assert audit.facts(text, BIRD) == audit.Facts(empty=True)


def test_facts_judge_the_rationale_without_the_appended_answer():
    facts = audit.facts("Stones fly. Stones fly. Thus, the answer is (b) a wren", BIRD)
    assert facts == audit.Facts(words=4, verdict="other")  # two words are too short to repeat
    assert audit.argues_for_other("A stone flies. Thus, the answer is (b) a wren", BIRD)
    assert not audit.argues_for_other("The answer is (b).", BIRD)
    assert not audit.argues_for_other("It may be either.", BIRD)


def store() -> tuple[list[Example], dict[str, dict[str, str | None]]]:
    """Questions of a closed world, a good teacher and a bad one."""
    birds = ["wren", "robin", "heron", "swan", "crane", "finch", "eagle", "gull", "tern", "rook"]
    examples = [
        Example(f"q{i}", "", f"Which flies, number {i}?", ["a stone", f"the {bird}"], 1)
        for i, bird in enumerate(birds)
    ]
    good = {f"q{i}": f"The {bird} beats its {bird}ish wings." for i, bird in enumerate(birds)}
    bad = dict.fromkeys(good)
    bad |= {"q1": "", "q2": "A stone falls", "q3": "The swan has white wings", "q4": "сайт"}
    bad |= {"q5": "The finch sings.\nQuestion: Who else?", "q6": "Eagles hunt. "}
    del bad["q9"]
    return examples, {"good": good, "bad": bad}


def test_the_table_counts_every_question_once_in_its_verdict():
    table = audit.table(*store()).set_index("teacher")
    assert table.loc["good", ["rows", "gold", "untold"]].tolist() == [10, 10, 0]
    bad = table.loc["bad"]
    assert bad[["missing", "empty", "cut_off", "invents", "foreign"]].tolist() == [4, 1, 3, 1, 1]
    assert bad[["gold", "other", "untold"]].tolist() == [3, 1, 1]
    parts = ["missing", "empty", *audit.VERDICTS]
    assert (table[parts].sum(axis=1) == table["rows"]).all()
    assert (table["words_q25"] <= table["words"]).all()


def test_a_teacher_that_wrote_nothing_has_no_length_and_no_verdict():
    examples, _ = store()
    row = audit.table(examples, {"mute": {}}).iloc[0]
    assert row["missing"] == row["rows"] == 10 and np.isnan(row["words"])
    assert not audit.shares(audit.table(examples, {"mute": {}})).isna().any().any()


def test_shares_are_of_all_questions_and_inside_their_intervals():
    shares = audit.shares(audit.table(*store())).set_index(["teacher", "measure"])
    assert shares.loc[("bad", "cut_off"), "share"] == 0.3
    assert ((shares["low"] <= shares["share"]) & (shares["share"] <= shares["high"])).all()
    assert shares.loc[("bad", "cut_off"), ["low", "high"]].tolist() == pytest.approx(
        [0.108, 0.603], abs=1e-3
    )


def test_overlap_is_above_chance_where_two_teachers_say_the_same():
    examples, texts = store()
    pair = {"good": texts["good"], "also": {i: f"{t} It flies." for i, t in texts["good"].items()}}
    line = audit.overlap(examples, pair).iloc[0]
    assert line["teachers"] == "good | also" and line["rows"] == 10
    assert line["overlap"] > line["chance"] > 0  # `wings` and `beats` are shared by all
    assert line["low"] <= line["overlap"] <= line["high"]
    alike = audit.overlap(examples, {"good": texts["good"], "same": texts["good"]}).iloc[0]
    assert alike["overlap"] == 1 > alike["chance"]
    assert audit.overlap(examples, {"good": texts["good"], "mute": {}}).empty


def test_chance_never_pairs_a_question_with_itself_and_is_drawn_alike():
    examples, texts = store()
    two = {"good": texts["good"], "same": {i: t for i, t in texts["good"].items() if i in "q0 q1"}}
    assert audit.overlap(examples, two).iloc[0]["chance"] < 1
    again = [audit.overlap(examples, {"good": texts["good"], "bad": texts["good"]}) for _ in "ab"]
    pd.testing.assert_frame_equal(*again)


# --- the release ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(mirror) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYLLM_RELEASE_DIR", str(mirror))
        return audit.recorded()


def test_counts_agree_with_what_is_known_of_the_release(recorded):
    """PAPER.md, careful reader 3 and 4; PROVENANCE.md, counts."""
    flan, llama = (recorded[recorded["teacher"] == name].set_index("dataset")
                   for name in release.TEACHERS)  # fmt: skip
    rows = {
        "obqa": 4957,
        "arc": 1117,
        "piqa": 16113,
        "riddle": 3510,
        "pubmedqa": 500,
        "bioasq": 976,
    }
    assert flan["rows"].to_dict() == llama["rows"].to_dict() == rows
    assert llama.loc["piqa", "missing"] == 16113
    missing = {"obqa": 29, "arc": 4, "riddle": 21, "pubmedqa": 0, "bioasq": 18}
    others = llama.drop("piqa")
    assert others["missing"].to_dict() == missing
    assert flan["missing"].to_dict() == {
        "obqa": 2, "arc": 12, "piqa": 4, "riddle": 12, "pubmedqa": 2, "bioasq": 1
    }  # fmt: skip
    cut = others["cut_off"] / others["rows"]
    assert cut.between(0.67, 0.935).all()
    assert (flan["cut_off"] / flan["rows"] < 0.03).all()
    assert others.loc["obqa", "invents"] / 4957 == pytest.approx(0.37, abs=0.02)
    assert (flan["invents"] == 0).all()
    assert flan["words"].between(16, 23).all()
    assert (others["foreign"] > 0).sum() >= 4 and (flan["foreign"] == 0).all()
    assert (others["empty"] > 0).all()


def test_verdicts_on_the_release_add_up_and_seldom_go_against_the_forced_answer(recorded):
    parts = recorded[["missing", "empty", *audit.VERDICTS]].sum(axis=1)
    assert (parts == recorded["rows"]).all()
    written = recorded[recorded["missing"] < recorded["rows"]]
    assert len(written) == 11 and (written["other"] < 0.5 * written["gold"]).all()
    flan = recorded[(recorded["teacher"] == "flan-t5") & (recorded["dataset"] != "pubmedqa")]
    assert (flan["gold"] > 0.38 * flan["rows"]).all() and (
        flan["other"] < 0.05 * flan["rows"]
    ).all()


def test_the_stored_table_is_what_the_release_gives(recorded):
    stored = (paths.ROOT / "results" / audit.FILE).read_text(encoding="utf-8")
    assert recorded.to_csv(index=False, float_format="%.6g", lineterminator="\n") == stored


def test_recorded_texts_without_the_closing_sentence_are_not_judged_by_it(release_mirror):
    row = release.release_examples("obqa", "valid")[0]
    text = f"It is so. Thus, the answer is ({'abcd'[row.answer]}) {row.options[row.answer]}"
    assert extract.argued_for(text, row.options) == row.answer
    assert audit.verdict(text, row) == "untold"


# --- the figure ----------------------------------------------------------------------------------


def numbers() -> pd.DataFrame:
    """Two datasets of two teachers, one of whom wrote nothing for the second dataset."""
    examples, texts = store()
    half = {"good": texts["good"], "bad": {}}
    parts = [("obqa", texts), ("piqa", half)]
    table = pd.concat([audit.table(examples, t).assign(dataset=d, split="train") for d, t in parts])
    overlap = audit.overlap(examples, texts).assign(dataset="obqa", split="train")
    return audit_numbers(table, overlap)


def single() -> pd.DataFrame:
    """One study's three teachers, as notebook 02 has them; one has a long name."""
    examples, texts = store()
    uri = "openai:http://127.0.0.1:8000/v1#a-model-with-a-long-name"
    texts = {"micro:a": texts["good"], "micro:b": texts["bad"], uri: texts["good"]}
    return audit_numbers(audit.table(examples, texts), audit.overlap(examples, texts))


@pytest.mark.parametrize("made", [numbers, single])
def test_the_figure_is_the_same_bytes_twice_and_from_its_own_csv(made, tmp_path):
    drawn = made()
    for folder in ("one", "two"):
        style.save(rationale_audit(drawn), "audit", drawn, tmp_path / folder)
        drawn = pd.read_csv(tmp_path / "one" / "audit.csv")
    for kind in ("png", "pdf", "csv"):
        one, two = ((tmp_path / folder / f"audit.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two, kind


@pytest.mark.parametrize("made", [numbers, single])
def test_no_label_of_the_figure_is_small_cut_or_over_another(made):
    figure = rationale_audit(made())
    with mpl.rc_context(style.STYLE):
        figure.draw_without_rendering()
        hidden = {
            tick.label1
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        texts = [t for t in figure.findobj(Text) if t.get_text() and t not in hidden]
        boxes = [
            (t.get_text(), t.get_window_extent().padded(-1.5)) for t in texts if t.get_visible()
        ]
    assert figure.get_figwidth() == style.PAGE and all(t.get_fontsize() >= 7 for t in texts)
    whole = figure.bbox.padded(1)
    for index, (text, box) in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 <= whole.y1, text
        for other, place in boxes[index + 1 :]:
            assert not box.overlaps(place), f"{text!r} and {other!r}"


def test_the_figure_draws_what_was_counted():
    figure = rationale_audit(numbers())
    assert len(figure.axes) == 8  # verdicts, five shares, length, overlap
    shown = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "none written" in shown and "OBQA" in shown and "n = 10" in shown
    for axes, measure in zip(figure.axes[1:], HEADS, strict=False):
        drawn = numbers()
        shares = drawn[drawn["measure"] == measure]["value"]
        written = [text.get_text() for text in axes.texts]
        assert all(f"{100 * share:.0f}" in written for share in shares if share < 1)
    bars = [bar.get_width() for group in figure.axes[0].containers for bar in group]
    assert sum(bars) == pytest.approx(400)  # each of four lines adds up to 100%


def test_nothing_here_imports_torch():
    code = (
        "import sys; import tinyllm.audit, tinyllm.figures.audit; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
