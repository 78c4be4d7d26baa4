"""Figures and tables: the same numbers give the same bytes, and what is drawn was counted."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from simulated import answers, facts, history, predictions, teachers

from tinyllm import figures, paper, series, stats, tables

ARMS = {"finetune": 0.5, "dss:micro:a": 0.55, "tinyllm": 0.7, "tinyllm:shuffled": 0.5}
SPLITS = {"train": [90, 110, 95, 105], "valid": [20, 30, 25, 25], "test": [40, 10, 30, 20]}


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.concat(
        [predictions(ARMS, dataset=name, n=60, rng=i) for i, name in enumerate(["obqa", "arc"])],
        ignore_index=True,
    )


def balance() -> pd.DataFrame:
    """As `data.option_balance` gives it."""
    rows = [(s, x, k) for s, n in SPLITS.items() for x, k in zip("abcd", n, strict=True)]
    table = pd.DataFrame(rows, columns=["split", "letter", "questions"])
    return table.assign(
        share=table["questions"] / table.groupby("split")["questions"].transform("sum")
    )


def lengths() -> pd.DataFrame:
    """As `data.lengths` gives it."""
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {"split": split, "id": f"q{i}", "part": part, "words": int(words)}
        for split, n in (("train", 300), ("valid", 50), ("test", 80))
        for part, mean in (("context", 0), ("question", 12), ("options", 30))
        for i, words in enumerate(draw.poisson(mean, n))
    )


def studies(x: str, values: list, **arms: float) -> pd.DataFrame:
    """Points of several studies that differ in the fact x alone."""
    arms = arms or {"finetune": 0.5, "tinyllm": 0.6}
    rows = [predictions(arms, study=f"s{i}", n=60, rng=i) for i in range(len(values))]
    known = [facts(part, **{x: value}) for part, value in zip(rows, values, strict=True)]
    return series.points(pd.concat(rows), pd.concat(known))


def curve(x: str) -> pd.DataFrame:
    """A curve against each quantity that a study may vary."""
    if x == "teachers":
        arms = {"finetune": 0.4, "dss:micro:a": 0.5, "dss:micro:b": 0.45, "tinyllm": 0.6}
        rows = predictions(arms, n=60)
        count = {"finetune": 0, "dss:micro:a": 1, "dss:micro:b": 1, "tinyllm": 2}
        known = facts(rows, teachers=count, alpha={"dss:micro:a": 1, "tinyllm": 1})
        return series.along(series.points(rows, known), x)
    values = {
        "alpha": [{"tinyllm": alpha} for alpha in (0.01, 0.1, 0.5, 1.0, 3.0)],
        "train_questions": [250, 1000, 4957],
    }
    if x in values:
        return series.along(studies(x, values[x]), x)
    sizes = [
        predictions({"finetune": 0.4 + 0.1 * i, "tinyllm": 0.5 + 0.1 * i}, student=name, n=60)
        for i, name in enumerate(["small", "base", "large"])
    ]
    known = [
        facts(part, parameters=size, train_flops=6e9 * size)
        for part, size in zip(sizes, (8e7, 2.5e8, 7.8e8), strict=True)
    ]
    points = series.along(series.points(pd.concat(sizes), pd.concat(known)), x)
    answered = teachers(sizes[0], {"hf:google/flan-t5-xl": 0.7, "hf:other/llama": 0.55})
    return series.with_teachers(points, stats.teacher_accuracy(answered))


def classes() -> pd.DataFrame:
    """Two arms on questions that all have the same options."""
    options = ("yes", "no", "maybe")
    return predictions({"finetune": 0.5, "tinyllm": 0.7}, "pubmedqa", 90, options=options)


@pytest.fixture(scope="module")
def drawn(frame) -> dict[str, tuple]:
    """Every figure with its numbers."""
    comparison, beside = stats.compare(frame), paper.compare(frame)
    curves, sizes = history(), paper.sizes()
    asked = teachers(frame, {"micro:a": 0.8, "micro:b": 0.6}, ["none", "random:2"])
    every = {**ARMS, "tinyllm-micro:a": 0.6, "tinyllm:no-examples": 0.6, "tinyllm:no-forcing": 0.55}
    ablations = stats.ablations(predictions({**every, "tinyllm:gibberish": 0.6}, n=60))
    bins, confused = figures.calibration_bins(frame), stats.confusion(classes())
    return {
        "main_results": (lambda: figures.main_results(frame), stats.results(frame)),
        "paired": (lambda: figures.paired_differences(comparison), comparison),
        "learning_curves": (lambda: figures.learning_curves(curves), curves),
        "beside": (lambda: figures.published_and_measured(beside), beside),
        "published_table": (lambda: figures.published_table(paper.table1()), paper.table1()),
        "published_gains": (lambda: figures.published_gains(paper.gains()), paper.gains()),
        "option_balance": (lambda: figures.option_balance(balance()), balance()),
        "lengths": (lambda: figures.length_histograms(lengths()), figures.length_counts(lengths())),
        "pipeline": (figures.pipeline, paper.datasets()),
        "main_and_teachers": (
            lambda: figures.main_results(frame, teachers=asked),
            stats.results(frame),
        ),
        "ablation": (lambda: figures.ablation(ablations), ablations),
        "calibration": (lambda: figures.calibration(bins), bins),
        "confusion": (lambda: figures.confusion(confused), confused),
        "published_size": (lambda: figures.accuracy_against(sizes, "parameters"), sizes),
        **{x: (lambda x=x: figures.accuracy_against(curve(x), x), curve(x)) for x in figures.AXES},
    }


NAMES = [
    "main_results",
    "paired",
    "learning_curves",
    "beside",
    "published_table",
    "published_gains",
    "option_balance",
    "lengths",
    "pipeline",
    "main_and_teachers",
    "ablation",
    "calibration",
    "confusion",
    "published_size",
    *figures.AXES,
]


def texts(figure) -> list[matplotlib.text.Text]:
    """The texts that are drawn: matplotlib also keeps labels of ticks outside the panel."""
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not (axes.axison and low <= tick.get_loc() <= high):
                    unseen |= {tick.label1, tick.label2}
    found = figure.findobj(matplotlib.text.Text)
    return [t for t in found if t.get_text().strip() and t.get_visible() and t not in unseen]


def words(figure) -> str:
    return " ".join(text.get_text() for text in texts(figure)).replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers_give_the_same_bytes(drawn, name, tmp_path):
    draw, numbers = drawn[name]
    for folder in ("one", "two"):
        figures.save(draw(), name, numbers, tmp_path / folder)
    for kind in ("png", "pdf", "csv"):
        one, two = (
            (tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("one", "two")
        )
        assert one == two, kind
        assert len(one) > 10


def test_another_process_draws_the_same_bytes(tmp_path):
    code = "from tinyllm import redraw; redraw.published()"
    for folder in ("one", "two"):
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env={"TINYLLM_FIGURES": str(tmp_path / folder), "PYTHONHASHSEED": str(len(folder))},
        )
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*")]
    assert len(files) == 4 * 3 + 3  # figures as PNG, PDF, CSV; the table as Markdown, LaTeX, CSV
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_smaller_than_7_points_or_outside_the_figure(drawn, name):
    figure = drawn[name][0]()
    with mpl.rc_context(figures.STYLE):
        figure.draw_without_rendering()
        box = figure.bbox
        for text in texts(figure):
            assert text.get_fontsize() >= 7, text.get_text()
            extent = text.get_window_extent()
            inside = box.x0 - 1 <= extent.x0 and extent.x1 <= box.x1 + 1
            assert inside and box.y0 - 1 <= extent.y0 and extent.y1 <= box.y1 + 1, text.get_text()
    assert figure.get_figwidth() in (figures.PAGE, figures.COLUMN)


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_name_marks_do_not_overlap(drawn, name):
    figure = drawn[name][0]()
    with mpl.rc_context(figures.STYLE):
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent().padded(-1.5)) for text in texts(figure)]
    for i, (one, box) in enumerate(boxes):
        for two, other in boxes[i + 1 :]:
            assert not box.overlaps(other), f"{one!r} and {two!r}"


def test_names_moved_apart_stay_between_their_bounds_in_their_order():
    places = [9.8, 9.9, 10.0, 10.0, 4.0, 0.1]
    moved = np.array(figures.style.spread(places, 1.0, 0.0, 10.0))
    assert moved.min() >= 0 and moved.max() <= 10
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= 0.998).all()
    assert moved[4] == 4.0  # nothing near
    assert max(figures.style.spread(places, 1.0)) > 10  # without bounds


def test_captions_say_n_seeds_and_interval(drawn):
    for name in ("main_results", "paired", "beside", "ablation", "calibration", "alpha"):
        caption = words(drawn[name][0]())
        assert "n = 60 test questions" in caption and "3 seeds" in caption and "95%" in caption
    assert "n: OBQA 500, ARC 1165" in words(figures.published_gains(paper.gains()))


def test_a_caption_of_one_seed_does_not_speak_of_a_mean():
    one = predictions(ARMS, n=30, seeds=[0])
    assert "mean over seeds" not in words(figures.main_results(one))
    figure = figures.paired_differences(stats.compare(one))
    assert "the spread of training is not in it" in words(figure)


def test_main_results_draws_the_estimates_and_both_baselines(frame):
    figure = figures.main_results(frame)
    shown = words(figure)
    for line in stats.results(frame).itertuples():
        assert f"{100 * line.estimate:.1f}" in shown
        assert f"chance {100 * line.chance:.1f}" in shown
        assert f"majority {100 * line.majority:.1f}" in shown
    places = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    expected = 100 * stats.results(frame).query("dataset == 'obqa'")["estimate"]
    assert sorted(places) == pytest.approx(sorted(expected))


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_main_results_has_a_panel_a_dataset(count):
    names = paper.DATASETS[:count]
    frame = pd.concat([predictions({"finetune": 0.5}, dataset=d, n=10) for d in names])
    assert sum(axis.get_visible() for axis in figures.main_results(frame).axes) == count


def test_main_results_leaves_the_row_of_an_arm_that_a_dataset_lacks_empty():
    frame = pd.concat(
        [
            predictions({"finetune": 0.5, "tinyllm": 0.6}, n=20),
            predictions({"finetune": 0.5}, dataset="arc", n=20),
        ]
    )
    first, second = figures.main_results(frame).axes
    assert len(first.containers) == 2 and len(second.containers) == 1


def test_an_arm_has_one_colour_and_arms_of_one_figure_differ():
    known = ["inference", "lora", "kd", "finetune", "tinyllm", "tinyllm:shuffled"]
    known += ["dss:micro:a", "dss:micro:b"]
    assert len({figures.color(arm) for arm in known}) == len(known)
    assert figures.color("Full fine-tuning") == figures.color("finetune")
    assert figures.color("TinyLLM") == figures.color("tinyllm")


def test_arms_stand_in_one_order_whatever_order_they_come_in():
    arms = ["tinyllm", "finetune", "dss:micro:b", "tinyllm:shuffled", "dss:micro:a", "inference"]
    expected = [
        "inference",
        "finetune",
        "dss:micro:a",
        "dss:micro:b",
        "tinyllm:shuffled",
        "tinyllm",
    ]
    assert figures.in_order(arms) == figures.in_order(arms[::-1]) == expected


def test_filled_marks_are_the_significant_ones():
    comparison = stats.compare(predictions(ARMS, n=300))
    figure = figures.paired_differences(comparison)
    marks = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    hollow = sum(line.get_markerfacecolor() == "white" for line in marks)
    assert len(marks) == len(comparison)
    assert hollow == (~comparison["significant"]).sum()
    assert 0 < hollow < len(marks)


def test_teachers_have_a_row_each_below_no_student_and_a_line_through_the_panel(frame):
    asked = teachers(frame, {"micro:a": 0.8, "micro:b": 0.6})
    figure = figures.main_results(frame, teachers=asked)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-2:] == ["teacher a, 2-shot", "teacher b, 2-shot"]
    rows = stats.results(frame, teachers=asked).query("dataset == 'obqa'")
    assert len(rows) == len(ARMS) + 2
    expected = 100 * asked[asked["dataset"].eq("obqa") & asked["teacher"].eq("micro:a")].correct
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert any(len(x) == 2 and x[0] == x[1] == pytest.approx(expected.mean()) for x in lines)
    assert "Diamonds: the teachers" in words(figure)
    assert "Diamonds" not in words(figures.main_results(frame))


def test_the_ablation_says_in_words_what_each_arm_lacks(drawn):
    shown = words(drawn["ablation"][0]())
    for text in (
        *("answers only", "teacher a alone", "without teacher a", "teachers without examples"),
        *("teachers without the answer", "other questions' rationales", "words more"),
    ):
        assert text in shown


def test_a_curve_goes_through_the_means_at_each_value():
    points = curve("teachers")
    axis = figures.accuracy_against(points, "teachers").axes[0]
    line = next(line for line in axis.lines if len(line.get_xdata()) == 3)
    singles = points.loc[points["teachers"] == 1, "estimate"]
    assert len(singles) == 2
    assert line.get_ydata()[1] == pytest.approx(100 * singles.mean())


def test_a_curve_has_its_references_as_level_lines():
    points = curve("alpha")
    assert points.loc[points["arm"] == "finetune", "alpha"].isna().all()
    axis = figures.accuracy_against(points, "alpha").axes[0]
    level = 100 * points.loc[points["arm"] == "finetune", "estimate"].iloc[0]
    assert any(set(line.get_ydata()) == {level} for line in axis.lines)
    assert axis.get_xscale() == "log"


def test_a_curve_of_nothing_and_an_unknown_axis_are_errors():
    with pytest.raises(ValueError, match="x: 'lr': allowed are alpha, train_questions"):
        figures.accuracy_against(curve("alpha"), "lr")
    with pytest.raises(ValueError, match="column 'alpha': there is no value"):
        figures.accuracy_against(curve("alpha").assign(alpha=np.nan), "alpha")


def test_calibration_writes_the_error_with_its_interval_and_draws_every_bin(frame):
    bins = figures.calibration_bins(frame)
    figure = figures.calibration(bins)
    error = stats.ece(frame).iloc[0]
    text = f"ECE {100 * error.ece:.1f} [{100 * error.low:.1f}, {100 * error.high:.1f}]"
    assert text in words(figure)
    points = [len(box[0].get_xdata()) for axis in figure.axes for box in axis.containers[1:]]
    assert sum(points) == len(bins)  # the first container of a panel holds the grey bars


def test_confusion_writes_the_share_of_each_cell():
    table = stats.confusion(classes())
    shown = words(figures.confusion(table))
    for line in table.itertuples():
        assert f"{100 * line.share:.0f}" in shown
        assert f"[{100 * line.low:.0f}, {100 * line.high:.0f}]" in shown
    with pytest.raises(ValueError, match="no classes"):
        figures.confusion(table.iloc[:0])


def test_learning_curves_work_for_one_students_own_history():
    own = history(["tinyllm"], [0]).drop(columns=["arm", "seed"])
    shown = words(figures.learning_curves(own))
    assert "One seed" in shown and "micro:a" in shown and "valid" in shown
    with pytest.raises(ValueError, match="neither accuracy nor losses"):
        figures.learning_curves(own.iloc[:0])


def test_the_loss_of_a_distribution_is_not_drawn_among_those_of_rationales():
    whole = history(["tinyllm", "kd"])
    whole.loc[whole["arm"].eq("kd") & whole["task"].str.startswith("micro"), "task"] = "options"
    axis = figures.learning_curves(whole).axes[2]
    assert axis.get_title(loc="left") == "loss of the rationales"
    drawn = {text.get_text() for text in axis.texts}
    assert drawn == {"tinyllm, micro:a", "tinyllm, micro:b"}


def test_length_counts_hold_every_question_once_a_part_and_leave_empty_parts_out():
    counts = figures.length_counts(lengths())
    assert set(counts["part"]) == {"question", "options"}
    sums = counts.groupby(["part", "split"])[["questions", "share"]].sum()
    assert sums.loc[("question", "train"), "questions"] == 300
    assert sums["share"].tolist() == pytest.approx([1] * 6)
    words = lengths().query("part == 'options' and split == 'test'")["words"]
    first = counts.query("part == 'options' and split == 'test' and questions > 0").iloc[0]
    expected = ((words >= first["left"]) & (words < first["right"])).sum()
    assert first["questions"] == expected


def test_option_balance_draws_each_share_with_its_interval():
    axis = figures.option_balance(balance()).axes[2]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([40, 10, 30, 20])
    segments = axis.collections[0].get_segments()
    low, high = stats.wilson(40, 100)
    assert segments[0][:, 1] == pytest.approx([100 * low, 100 * high])


def test_a_figure_shows_itself_in_a_notebook():
    assert figures.pipeline()._repr_png_().startswith(b"\x89PNG")


def test_drawing_changes_no_global_setting():
    before = dict(mpl.rcParams)
    figures.published_gains(paper.gains())._repr_png_()
    assert dict(mpl.rcParams) == before


# --- tables ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> tables.Table:
    clear = predictions({"finetune": 0.3, "tinyllm": 0.8, "tinyllm:shuffled": 0.31}, n=200)
    return tables.results(clear)


def test_bold_stands_only_where_the_paired_test_supports_it(table):
    assert table.bold.loc["tinyllm", "OBQA"]
    assert table.bold.to_numpy().sum() == 1  # not the baseline, the control, chance or majority
    assert not tables.results(
        predictions({"finetune": 0.5, "tinyllm": 0.5}, n=200, rng=1)
    ).bold.any(axis=None)


def test_a_significant_loss_is_not_bold():
    frame = answers({"finetune": [[1] * 60], "tinyllm": [[0] * 60]})
    assert not tables.results(frame).bold.any(axis=None)


def test_markdown_and_latex_hold_every_cell_and_the_bold(table):
    cell = table.cells.loc["tinyllm", "OBQA"]
    line = table.numbers.query("arm == 'tinyllm'").iloc[0]
    assert (
        cell == f"{100 * line['estimate']:.1f} [{100 * line['low']:.1f}, {100 * line['high']:.1f}]"
    )
    markdown, latex = tables.markdown(table), tables.latex(table, "tab:main")
    assert f"| tinyllm | **{cell}** |" in markdown
    assert rf"tinyllm & \textbf{{{cell}}} \\" in latex
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:main}", r"95\% interval"):
        assert rule in latex
    assert markdown.count("**") == 2 and latex.count(r"\textbf") == 1


def test_special_characters_are_escaped_in_latex():
    cells = pd.DataFrame({"A & B": ["50% _"]}, index=["a_b"])
    made = tables.Table(cells, cells != cells, "5 % & 6_7", cells)
    latex = tables.latex(made)
    assert r"A \& B" in latex and r"a\_b & 50\% \_" in latex and r"5 \% \& 6\_7" in latex


def test_the_published_table_is_bold_where_the_gain_exceeds_noise():
    made = tables.published()
    expected = paper.gains().query("significant_holm")
    assert made.bold.to_numpy().sum() == len(expected) > 0
    for line in expected.itertuples():
        assert made.bold.loc[f"{line.size} TinyLLM", figures.dataset_name(line.dataset)]
    assert made.cells.loc["780M TinyLLM", "mean"] == "73.88"


def test_tables_are_written_in_three_kinds_with_the_same_bytes(table, tmp_path):
    for folder in ("one", "two"):
        assert [p.suffix for p in tables.write(table, "main", tmp_path / folder)] == [
            ".md",
            ".tex",
            ".csv",
        ]
    for kind in ("md", "tex", "csv"):
        one, two = ((tmp_path / folder / f"main.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two


def test_a_table_of_two_students_is_refused(frame):
    both = pd.concat([frame, frame.assign(student="other")])
    with pytest.raises(ValueError, match="column 'student': a table holds one"):
        tables.results(both)
