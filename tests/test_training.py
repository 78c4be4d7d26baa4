"""Training: the paper's loss, independent of batches, padding, accumulation and interruptions."""

import itertools
import os
import resource
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import KINDS, TASKS, Stop, make, questions, rationales
from tiny import trained as run

from tinyllm.models import load
from tinyllm.models.encode import Encoding
from tinyllm.params import Params
from tinyllm.students import train
from tinyllm.students.collate import Collator, steps_of_epoch, training_rows
from tinyllm.students.loss import MultiTask, running, task_weights, weighted_loss
from tinyllm.students.targets import Task

QUESTIONS = questions()
TEXTS = rationales(QUESTIONS)
AUTO = [TASKS[0], *(replace(task, auto=True) for task in TASKS[1:])]
ALL = [*TASKS, Task("options", "predict: ", 4.0, temperature=2.0)]
EIGHT = {"batch_size": 8, "lr": 1e-3}  # 24 questions: 3 steps per epoch
ONCE = {"epochs": 1.0, "evals": 1}


def same_weights(one, two, rtol=0.0, atol=0.0):
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=rtol, atol=atol)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_loss(model, encoding, row, task, text):
    """Summed cross-entropy of one task for one question, from the model's full logits."""
    target = torch.tensor([encoding.target(text)])
    source = encoding.source(row, task.prefix)
    if encoding.seq2seq:
        first = encoding.decoder_prefix(task.prefix)
        decoder = torch.tensor([[*first, *target[0, :-1].tolist()]])
        out = model(input_ids=torch.tensor([source]), decoder_input_ids=decoder)
        logits = out.logits[0, len(first) - 1 :]
    else:
        logits = model(input_ids=torch.tensor([source + target[0].tolist()])).logits
        logits = logits[0, len(source) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, target[0], reduction="sum")


def mixed():
    """Questions, half of them with two options, and option distributions for all but the first."""
    rows, wanted = [], {}
    for i, row in enumerate(QUESTIONS):
        two = [row.gold, row.options[row.answer - 1]]
        rows.append(replace(row, options=two, answer=0) if i % 2 else row)
        others = 0.3 / (len(rows[i].options) - 1)
        shares = [0.7 if j == rows[i].answer else others for j in range(len(rows[i].options))]
        wanted |= {row.id: shares} if i else {}
    return rows, wanted


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_multi_task_loss_and_gradient_equal_separately_computed_ones(kind, task_prefix):
    """Options use Hinton's CE(teacher_T, student_T); a logit is a log-probability per token."""
    model, _, encoding = make(kind, task_prefix)
    questions, wanted = mixed()
    rows = training_rows(questions, TEXTS, ALL, encoding, wanted)
    batch = Collator(encoding, ALL)(rows)
    sums = MultiTask(model, ALL)(batch)
    weights = torch.tensor([task.weight for task in ALL])
    loss = weighted_loss(sums, batch["counts"], weights)
    loss.backward()
    together = gradients(model)
    model.zero_grad()

    inputs, expected = set(), 0.0
    for task, task_sum, counted in zip(ALL, sums, batch["counts"].tolist(), strict=True):
        total, count = 0.0, 0
        for row in questions:
            texts = {"answer": [row.gold], "options": row.options if row.id in wanted else []}
            texts = texts.get(task.name) or [TEXTS.get(task.name, {}).get(row.id, "")]
            if not texts[0].strip():
                continue
            inputs.add((row.id, task.prefix if task_prefix == "encoder" else ""))
            losses = [plain_loss(model, encoding, row, task, text) for text in texts]
            lengths = torch.tensor([len(encoding.target(text)) for text in texts])
            if task.name == "options":
                logits = -torch.stack(losses) / lengths / task.temperature
                total = total - torch.tensor(wanted[row.id]) @ torch.log_softmax(logits, 0)
            else:
                total = total + losses[0]
            count += 1 if task.name == "options" else int(lengths)
        assert counted == count
        torch.testing.assert_close(task_sum, total, rtol=1e-5, atol=1e-4)
        expected = expected + task.weight * total / count
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, gradients(model), rtol=1e-4, atol=1e-6)
    # Padding is not counted, and tasks with the same input share one encoder pass.
    assert batch["tokens"] == sum(Collator(encoding, ALL)([row])["tokens"] for row in rows)
    assert not encoding.seq2seq or len(batch["input_ids"]) == len(inputs)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_gradient_accumulation_gives_the_same_gradient(tmp_path, monkeypatch, kind):
    kept, norms = [], set()

    def keeping(parameters, norm):
        kept.append([p.grad.clone() for p in parameters])
        norms.add(norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keeping)
    rows = QUESTIONS[:20]  # the last step holds 4 questions
    for size, passes in ((8, 1), (1, 8)):
        changes = {"batch_size": size, "accumulation": passes, **ONCE}
        *_, seen = run(tmp_path / str(size), rows, TEXTS, kind, lr=1e-9, **changes)
    assert len(kept) == 6 and norms == {1.0}  # the clipping norm
    torch.testing.assert_close(kept[:3], kept[3:], rtol=1e-4, atol=1e-6)
    model, _, encoding = make(kind)  # the gradient of the paper's loss, with the weights alpha
    batch = Collator(encoding, TASKS)([rows for (rows,) in seen[:8]])
    weights = torch.tensor([task.weight for task in TASKS])
    weighted_loss(MultiTask(model, TASKS)(batch), batch["counts"], weights).backward()
    expected = [p.grad for p in model.parameters()]
    torch.testing.assert_close(kept[0], expected, rtol=1e-4, atol=1e-6)


def test_every_step_uses_the_schedule_and_the_factor_of_its_weights(tmp_path, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def watched(self, *args, **how):
        rates.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        return step(self, *args, **how)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(tmp_path, QUESTIONS, TEXTS, lora=4, batch_size=8, lr=1e-3, warmup=0.4, **ONCE)
    ten_times = [[(pytest.approx(1e-2 * share), 0.0)] for share in (0.0, 0.5, 1.0)]
    assert rates == ten_times  # the rate of adapters


TWO_PROCESSES = """
import os, sys, torch
from test_training import plainly_trained
torch.set_num_threads(1)
model, state, _ = plainly_trained(sys.argv[1], batch_size=4, nproc=2)
torch.save([model.state_dict(), state.tokens], f"{sys.argv[1]}/end{os.environ['RANK']}.pt")
"""


def plainly_trained(folder, **changes):
    """Two epochs of 9 questions with plain SGD, so that the scale of the gradient matters."""

    def descent(model, params):
        return torch.optim.SGD([{"params": list(model.parameters()), "factor": 1.0}])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "optimizer", descent)
        patch.setattr(train, "MAX_GRAD_NORM", 1e9)
        return run(folder, QUESTIONS[:9], TEXTS, epochs=2.0, evals=2, lr=0.02, **changes)


@pytest.mark.slow
def test_one_and_two_processes_end_with_the_same_weights(tmp_path):
    """8 questions per step: in the last step of an epoch one process has none (gloo, CPU)."""
    one, state, _ = plainly_trained(tmp_path / "one", batch_size=8)
    (tmp_path / "two").mkdir()
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = [tmp_path / "train.py", tmp_path / "two"]
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    subprocess.run([*command, *script], check=True, env=os.environ | {"PYTHONPATH": path})
    for rank in (0, 1):
        weights, tokens = torch.load(tmp_path / "two" / f"end{rank}.pt", weights_only=True)
        assert tokens == state.tokens
        torch.testing.assert_close(weights, one.state_dict(), rtol=0, atol=1e-5)


def test_epochs_cover_all_questions_and_tokens_are_counted_once(tmp_path):
    rows = QUESTIONS[:10]
    _, state, seen = run(tmp_path, rows, TEXTS, **EIGHT, epochs=4.0, evals=2)
    assert [len(batch) for batch in seen] == [8, 2] * 4
    times = Counter(id(row) for batch in seen for row in batch)
    assert list(times.values()) == [4] * 10
    _, _, encoding = make("t5")
    once = Collator(encoding, TASKS)(training_rows(rows, TEXTS, TASKS, encoding))["tokens"]
    assert state.tokens == 4 * int(once)


def test_valid_is_scored_evals_times_including_the_last_step(tmp_path):
    options = {"batch_size": 1, "epochs": 1.0, "evals": 10, "valid": lambda: 0.5}
    _, state, _ = run(tmp_path, QUESTIONS[:11], TEXTS, **options)
    steps = [row["step"] for row in state.history if row["split"] == "valid"]
    assert len(steps) == 10 and steps[-1] == state.step == 11


@pytest.mark.parametrize(
    ("kind", "lora", "tasks"), [("t5", 0, AUTO), ("t5", 4, TASKS), ("llama", 0, TASKS)]
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    tmp_path, monkeypatch, kind, lora, tasks
):
    monkeypatch.setattr(train, "perf_counter", itertools.count().__next__)  # one per evaluation
    options = EIGHT | {"epochs": 4.0, "evals": 4, "lora": lora, "dropout": 0.3, "tasks": tasks}
    whole, state, _ = run(tmp_path / "whole", QUESTIONS, TEXTS, kind, **options)
    for stop in (7, 4):  # in the third epoch, and in the last one
        with pytest.raises(Stop):
            run(tmp_path / "killed", QUESTIONS, TEXTS, kind, stop_at=stop, **options)
    resumed, again, _ = run(tmp_path / "killed", QUESTIONS, TEXTS, kind, **options)
    same_weights(resumed, whole)
    assert again == state and (state.step, state.seconds) == (12, 4)


def test_epochs_cycle_through_the_samples(tmp_path):
    samples = [TEXTS, TEXTS | {"micro:a": TEXTS["micro:b"]}]
    _, _, seen = run(tmp_path, QUESTIONS, samples, **EIGHT, epochs=3.0, evals=1)
    learned = []
    for start in (0, 3, 6):  # first batch of each epoch
        rows = [row for batch in seen[start : start + 3] for row in batch]
        learned.append(sorted(row["targets"][1] for row in rows))
    assert len(seen) == 9 and learned[0] == learned[2] != learned[1]


@pytest.mark.parametrize("kind", ["step", "best"])
def test_training_resumes_from_the_checkpoint_before_a_damaged_one(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(train, "perf_counter", itertools.count().__next__)
    options = EIGHT | {"epochs": 3.0, "evals": 3}
    scores = [0.1, 0.2, 0.3, 0.1, 0.2, 0.2, 0.3]  # whole run; before the stop; after it
    options["valid"] = iter(scores).__next__
    whole, state, _ = run(tmp_path / "whole", QUESTIONS, TEXTS, **options)
    with pytest.raises(Stop):
        run(tmp_path / "torn", QUESTIONS, TEXTS, stop_at=7, **options)
    last = tmp_path / "torn" / f"{kind}-000006.pt"
    last.write_bytes(last.read_bytes()[:999])
    with pytest.warns(UserWarning, match=r"step-000006\.pt is damaged"):
        resumed, again, seen = run(tmp_path / "torn", QUESTIONS, TEXTS, **options)
    assert len(seen) == 6  # from step 3 on
    same_weights(resumed, whole)
    assert again == state


def test_new_checkpoints_are_kept_when_later_ones_are_damaged(tmp_path):
    options = EIGHT | {"epochs": 4.0, "evals": 4}
    scores = iter([0.1, 0.4, 0.3, 0.2, 0.1]).__next__
    with pytest.raises(Stop):
        run(tmp_path, QUESTIONS, TEXTS, stop_at=10, valid=scores, **options)
    assert {file.name for file in tmp_path.glob("step-*")} == {"step-000006.pt", "step-000009.pt"}
    best = tmp_path / "best-000006.pt"  # of both
    best.write_bytes(best.read_bytes()[:999])
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(Stop):
        run(tmp_path, QUESTIONS, TEXTS, stop_at=4, valid=scores, **options)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"best-000003.pt", "step-000003.pt"}  # the next run resumes from these


def test_a_full_disk_leaves_complete_checkpoints_and_names_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def valid():
        yield 0.1
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # bytes per file
        yield 0.2

    options = EIGHT | {"epochs": 3.0, "evals": 3, "valid": valid().__next__}
    try:
        with pytest.raises(OSError, match=r"best-000006\.pt: cannot be written"):
            run(tmp_path, QUESTIONS, TEXTS, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["best-000003.pt", "step-000003.pt"]  # a run can resume from these, see above


def test_auto_alpha_is_the_running_answer_loss_over_the_task_loss():
    assert task_weights(AUTO, []) == [task.weight for task in TASKS]
    means = running([], torch.tensor([6.0, 4.0, 0.0]), torch.tensor([2, 4, 0]))
    assert means == [3.0, 1.0, 0.0] and task_weights(AUTO, means) == [1.0, 3.0, 2.0]
    later = running(means, torch.tensor([3.0, 0.0, 5.0]), torch.tensor([2, 0, 1]))
    assert later == pytest.approx([2.85, 1.0, 5.0])  # the last task starts with its first loss
    assert task_weights(TASKS, means) == [task.weight for task in TASKS]


def test_early_stopping_restores_the_weights_that_were_best_on_valid(tmp_path):
    options = EIGHT | {"epochs": 6.0, "evals": 6, "patience": 2}
    scores = iter([0.1, 0.7, 0.7, 0.6, 0.9])  # the second is best; ties do not count as better
    with pytest.raises(Stop):
        run(tmp_path, QUESTIONS, TEXTS, valid=scores.__next__, stop_at=10, **options)
    model, state, _ = run(tmp_path, QUESTIONS, TEXTS, valid=scores.__next__, **options)
    assert (state.step, state.best_step, state.valid_accuracy) == (12, 6, 0.7)
    best, last = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)["weights"]
        for name in ("best-000006", "step-000012")
    )
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], best[name]) for name in best)
    assert not any(torch.equal(best[name], last[name]) for name in best)
    _, again, seen = run(tmp_path, QUESTIONS, TEXTS, **options)
    assert again == state and not seen  # a finished run is not continued


def test_a_non_finite_loss_stops_training_and_advises_a_lower_lr(tmp_path):
    with pytest.raises(FloatingPointError, match=r"lower lr \(now 1e\+30\)"):
        run(tmp_path, QUESTIONS, TEXTS, batch_size=8, lr=1e30, warmup=0.0)


def test_learning_rate_warms_up_and_decays_linearly():
    params = Params.checked(warmup=0.4, final_lr=0.1)
    shares = [train.learning_rate(step, 10, params) for step in range(11)]
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.75] + [1 - 0.15 * i for i in range(7)])


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    losses = []
    for precision in ("fp32", "tf32", "bf16"):
        options = {"batch_size": 24, "precision": precision, **ONCE}
        model, state, _ = run(tmp_path / precision, QUESTIONS, TEXTS, **options)
        product = torch.backends.cuda.matmul.fp32_precision  # the setting a GPU would use
        assert product == ("tf32" if precision == "tf32" else "ieee")
        assert all(p.dtype == torch.float32 for p in model.parameters())
        losses.append([row["value"] for row in state.history if row["metric"] == "loss"])
    assert losses[1] == losses[0] != losses[2]  # tf32 affects only GPUs
    assert losses[2] == pytest.approx(losses[0], rel=0.02)


def test_epochs_contain_each_question_once_in_an_order_set_by_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(10, 500, (643, 3))
    orders = {}
    for seed, epoch in ((3, 1), (3, 2), (4, 1)):
        groups = steps_of_epoch(lengths, 8, seed, epoch)
        assert [len(group) for group in groups] == [8] * 80 + [3]
        orders[seed, epoch] = np.concatenate(groups).tolist()
        assert sorted(orders[seed, epoch]) == list(range(643))
    assert orders[3, 2] != orders[3, 1] != orders[4, 1]
    assert np.concatenate(steps_of_epoch(lengths, 8, 3, 1)).tolist() == orders[3, 1]
    groups = steps_of_epoch(lengths, 8, 3, 0)
    alike = np.mean([lengths[group].std(0) for group in groups])
    assert alike < 0.8 * lengths.std(0).mean()  # similar lengths, so little padding
    tokens = [lengths[group].sum() for group in groups]
    assert tokens[0] == max(tokens)  # the largest step comes first: out of memory shows at once


def test_plain_attention_gives_the_same_loss_and_gradient(minilm_file):
    outcomes = []
    for kind in ("sdpa", "eager"):
        model, tokenizer = load.load("minilm-ed")
        if kind == "eager":
            load.plain_attention(model, 256)
        parts = model.encoder, model.decoder
        assert {part.config._attn_implementation for part in parts} == {kind}
        encoding = Encoding.of(model.eval(), tokenizer, Params.checked(task_prefix="encoder"))
        batch = Collator(encoding, TASKS)(training_rows(QUESTIONS[:4], TEXTS, TASKS, encoding))
        loss = weighted_loss(MultiTask(model, TASKS)(batch), batch["counts"], torch.ones(3))
        loss.backward()
        outcomes.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(*outcomes, rtol=1e-3, atol=1e-4)
