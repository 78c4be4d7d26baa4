"""The plan: it agrees with what was measured, and needs neither torch nor finished runs."""

import subprocess
import sys
from dataclasses import replace
from statistics import median

import pytest
import yaml

from tinyllm import arms, grid, paths, plan, results, runs, sizes
from tinyllm.params import ParameterError, Params

A100 = sizes.DEVICES["a100"]
NOTHING = plan.Setting(A100, rows=())  # no finished student is known
HF = "hf:google/flan-t5-xl"


@pytest.fixture(autouse=True)
def _empty_runs(tmp_path, monkeypatch, committed_results):
    """No run folder of this machine, but the results that are committed."""
    monkeypatch.setenv("TINYLLM_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("TINYLLM_DEVICE", raising=False)


def _released(**changes):
    values = {"study": "s", "dataset": "obqa", "source": "release", "student": "smollm2"}
    return Params.checked(**values | {"teachers": [HF], "arms": ["tinyllm"]} | changes)


def _grid(tmp_path, *points):
    """A grid of one parameter file, with these changes."""
    values = {"study": "s", "dataset": "obqa", "source": "release", "teachers": [HF]}
    values |= {"student": "google/flan-t5-small", "arms": ["finetune", "tinyllm"], "seeds": [0]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    file = tmp_path / "grid.yaml"
    recipe = {"params": [str(tmp_path / "one.yaml")], "points": list(points)}
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return grid.load(file)


def _by_rule(found, setting=NOTHING):
    return {line.rule: line for line in plan.lines(found, setting)}


def _stored():
    """Each stored study that has facts and a parameter file: parameters and finished students."""
    for study, dataset in results.stored_studies():
        for file in (f"params/{study}.yaml", f"params/{study}/{dataset}.yaml"):
            if (paths.ROOT / file).exists():
                params = Params.from_yaml(paths.ROOT / file)
                key = (study, dataset, params.student)
                own = [r for r in sizes.measured() if (r.study, r.dataset, r.student) == key]
                if own := [run for run in own if run.train_tokens]:
                    yield params, own


def test_the_committed_questions_are_those_of_the_release_and_of_the_micro_world(release_mirror):
    counted = sizes.statistics().to_csv(lineterminator="\n")
    file = paths.ROOT / "tinyllm" / "published" / sizes.QUESTIONS
    assert counted == file.read_text(encoding="utf-8"), "run python -m tinyllm.plan --statistics"


def test_tokens_and_operations_of_stored_students_are_within_a_factor_of_two():
    seen = set()
    for params, finished in _stored():
        for run in finished:
            cost = plan.student(params, run.arm, NOTHING)
            assert 0.5 < cost.trained / run.train_tokens < 2, run
            assert 0.5 < cost.flops / run.train_flops < 2, run
            seen.add((run.study, run.arm))
    assert {("micro", arm) for arm in ("finetune", "lora", "kd", "dss:a", "tinyllm")} <= seen


@pytest.mark.parametrize(("known", "asked"), [("finetune", "tinyllm"), ("tinyllm", "finetune")])
def test_seconds_of_one_arm_from_another_are_within_a_factor_of_two(known, asked):
    for params, finished in _stored():
        calibration = tuple(run for run in finished if run.arm == known)
        (where,) = {d for d in sizes.DEVICES.values() for run in finished if run.on(d)}
        setting = plan.Setting(where, rows=calibration)
        cost = plan.student(params, asked, setting)
        seconds = cost.flops / setting.rate(params.student, "training")
        there = median(run.train_seconds for run in finished if run.arm == asked)
        assert 0.5 < seconds / there < 2, (params.study, seconds, there)


def test_the_table_of_models_is_that_of_the_package(tmp_path):
    from tinyllm import cost, micro, models

    assert plan.MICRO_STEPS == micro.TEACHER_STEPS and plan.MICRO_BATCH == micro.TEACHER_BATCH
    for name in ("micro-t5", "micro-llama"):
        counted = cost.sizes(models.load(name)[0])["parameters"]
        assert sizes.MODELS[name] == pytest.approx(counted, rel=0.02)


def test_a_plan_needs_neither_torch_nor_runs():
    code = (
        "import sys; from tinyllm import plan; plan.main(['paper']); "
        "from tinyllm import grid; plan.resources(grid.load('paper').jobs[8]); "
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert all(rule in said.stdout for rule in (*plan.RULES, "total", "a100"))


@pytest.mark.parametrize("name", [f.stem for f in sorted((grid.FOLDER / "grid").glob("*.yaml"))])
def test_every_shipped_grid_can_be_planned(name):
    found = _by_rule(grid.load(name))
    assert found["distill"].whole.flops > 0 and found["total"].left == found["total"].whole


def test_a_student_reads_a_question_as_often_as_its_batches_do():
    split = sizes.Split(10, text=386, answer=16, options=4, rationales={"flan-t5": (76.0, 0.5)})
    teachers = ["release:flan-t5"]
    source, answer, told = (386 + sizes.PREFIX) / 4 + 1, 5, 20

    def tokens(name, student, **changes):
        params = _released(teachers=teachers, arms=[name], student=student, **changes)
        return sizes.question_tokens(params, arms.resolve(name, teachers), split)

    room = {"max_input": 512, "max_target": 64}
    t5 = "google/flan-t5-small"
    assert tokens("finetune", t5, **room) == source + answer
    assert tokens("tinyllm", t5, **room) == 1.5 * source + answer + 0.5 * told
    assert tokens("tinyllm", "smollm2", **room) == source + answer + 0.5 * (source + told)
    once = tokens("tinyllm", t5, task_prefix="decoder", **room)
    assert once == source + answer + 0.5 * told + 1.5 * sizes.PREFIX / 4
    assert tokens("finetune", t5, max_input=32, max_target=3) == 32 + 3


def test_limits_and_epochs_bound_what_is_trained_on():
    whole = sizes.training_tokens(_released(), "tinyllm")
    part = sizes.training_tokens(_released(limit={"train": 100}, epochs=12.8), "tinyllm")
    assert part == pytest.approx(whole * 100 / 4957 * 2)


def test_recorded_teachers_cost_no_tokens_and_servers_no_hours():
    served = "openai:http://localhost:1/v1#some/model"
    recorded = plan.teacher(_released(), "release:llama2", NOTHING, answers=True)
    assert (recorded.read, recorded.written, recorded.seconds) == (0, 0, 0) and recorded.disk > 0
    cost = plan.teacher(_released(teachers=[served]), served, NOTHING, answers=True)
    assert cost.read > 0 and cost.written > 0 and cost.seconds == 0


def test_a_teachers_answers_are_counted_and_kd_asks_for_train_too():
    alone = plan.teacher(_released(), HF, NOTHING, answers=False)
    answers = plan.teacher(_released(), HF, NOTHING, answers=True)
    kd = plan.teacher(_released(arms=["kd"]), HF, NOTHING, answers=True)
    assert alone.read < answers.read < kd.read
    assert alone.written == answers.written == kd.written  # options are scored


def test_rationales_are_asked_for_once_by_all_studies_that_ask_the_same(tmp_path):
    one = _by_rule(_grid(tmp_path, {}))["prompt"].whole
    two = _by_rule(_grid(tmp_path, {}, {"study": "other", "alpha": [0.1]}))["prompt"]
    assert two.jobs == 2 and two.whole.written == one.written and two.whole.disk == 2 * one.disk
    other = _by_rule(_grid(tmp_path, {}, {"study": "other", "examples": "none"}))["prompt"].whole
    assert other.written == 2 * one.written


def test_what_is_finished_is_not_left_to_do(tmp_path):
    found = _grid(tmp_path, {})
    jobs = [job for job in found.jobs if job.rule == "distill"]
    job = next(job for job in jobs if job.params.arms == ["tinyllm"])
    for folder in job.work():
        runs.write_json(folder / runs.MANIFEST, {"spec": {}, "facts": {}})
    line = _by_rule(found)["distill"]
    assert line.done == 0 and 0 < line.left.flops < line.whole.flops
    job.folder.mkdir(parents=True)
    job.done.write_text("{}", encoding="utf-8")
    assert _by_rule(found)["distill"].done == 1


def test_finished_students_correct_the_table_unless_they_trained_otherwise():
    params, finished = next(each for each in _stored() if each[0].study == "micro")
    ratio, number = sizes.correction(params, finished)
    assert number == len(finished) and ratio != 1
    assert sizes.correction(params, [replace(run, steps=7) for run in finished]) == (1.0, 0)
    twice = [replace(run, parameters=5e5) for run in finished]
    assert sizes.parameters("micro-t5", {}, twice) == 5e5
    assert sizes.parameters("micro-t5", {"micro-t5": 1e6}, twice) == 1e6


def test_a_run_on_a_device_calibrates_that_device_alone():
    params, finished = next(_stored())
    there = [replace(finished[0], device="4 x NVIDIA A100-SXM4-80GB")]
    rate, used = sizes.speed(params.student, A100, there)
    assert rate == pytest.approx(finished[0].speed / 4) and used == there
    assert sizes.speed(params.student, sizes.DEVICES["cpu"], there) == (0.0, [])


def test_questions_of_ones_own_file_are_counted(tmp_path):
    file = tmp_path / "own.jsonl"
    row = '{{"id": "{0}", "question": "What is {0}?", "options": ["a", "bcd"], "answer": "bcd"}}'
    file.write_text("\n".join(row.format(i) for i in range(40)), encoding="utf-8")
    params = _released(dataset="own", source=f"file:{file}", teachers=[], arms=["finetune"])
    found = sizes.splits(params)
    assert sum(split.questions for split in found.values()) == 40
    assert found["train"].answer == 3 and found["train"].options == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "grid: 'nowhere': no such file"),
        (["paper", "--device", "tpu"], "device: 'tpu': allowed are a100,"),
        (["paper", "--parameters", "m=many"], "--parameters 'm=many': expected MODEL=NUMBER"),
        (["paper", "--parameters", "m=-1"], "--parameters 'm=-1': expected MODEL=NUMBER"),
    ],
)
def test_what_cannot_be_planned_is_named_with_its_remedy(arguments, line):
    with pytest.raises(ParameterError) as error:
        plan.main(arguments)
    assert str(error.value).startswith(line)


def test_a_model_of_unknown_size_can_be_given_one(tmp_path):
    found = _grid(tmp_path, {"student": "some/model"})
    with pytest.raises(ParameterError, match=r"'some/model': .* --parameters some/model=3e9"):
        plan.lines(found, NOTHING)
    given = replace(NOTHING, given={"some/model": 1e8})
    assert _by_rule(found, given)["distill"].whole.flops > 0


def test_resources_ask_for_gpus_where_models_need_them(tmp_path, monkeypatch):
    big = {"student": "google/flan-t5-large", "nproc": 4, "teachers": [HF, "hf:no/known-model"]}
    for job in _grid(tmp_path, big).jobs:
        asked = plan.resources(job)
        assert set(asked) == {"gpu", "mem_mb", "runtime"}
        assert all(isinstance(value, int) for value in asked.values())
        assert asked["gpu"] == {"prompt": 1, "distill": 4}.get(job.rule, 0)
        assert asked["mem_mb"] >= 2000 and asked["runtime"] >= 10
    assert all(plan.resources(job)["gpu"] == 0 for job in grid.load("params/micro.yaml").jobs)
    monkeypatch.setenv("TINYLLM_DEVICE", "cpu")
    assert all(plan.resources(job)["gpu"] == 0 for job in _grid(tmp_path, big).jobs)


def test_resources_never_fail_for_questions_that_are_not_there_yet(tmp_path):
    own = {"dataset": "own", "source": f"file:{tmp_path}/none.jsonl", "teachers": ["hf:a/b"]}
    for job in _grid(tmp_path, own | {"student": "c/d"}).jobs:
        assert plan.resources(job)["runtime"] >= 10
