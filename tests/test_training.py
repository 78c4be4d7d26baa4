"""Training: the loss is what the paper says, whatever the batch, padding, accumulation or stop."""

import copy
import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tiny import KINDS, TASKS, WITH_OPTIONS, make, probabilities, questions, rationales, trainer
from transformers import TrainerCallback

from tinyllm import cost, models, prompts, sizes, training
from tinyllm.batches import Collator, LengthGroups, training_rows
from tinyllm.params import Params
from tinyllm.training import MultiTask


@pytest.fixture(scope="module")
def examples():
    return questions()


@pytest.fixture(scope="module")
def texts(examples):
    return rationales(examples)


def plain_loss(model, encoding, example, task, text):
    """One task's summed cross-entropy for one question, the long way: the model's own loss."""
    target = torch.tensor([encoding.target(text)])
    source = encoding.source(example, task.prefix)
    if encoding.seq2seq:
        first = encoding.decoder_prefix(task.prefix)
        decoder = torch.tensor([[*first, *target[0, :-1].tolist()]])
        out = model(input_ids=torch.tensor([source]), decoder_input_ids=decoder)
        logits = out.logits[0, len(first) - 1 :]
    else:
        logits = model(input_ids=torch.tensor([source + target[0].tolist()])).logits
        logits = logits[0, len(source) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, target[0], reduction="sum")


def tasks_texts(example, texts):
    yield TASKS[0], prompts.student_answer(example)
    for task in TASKS[1:]:
        text = texts[task.name].get(example.id, "")
        if text.strip():
            yield task, text


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_multi_task_loss_and_gradient_are_the_sum_of_separate_ones(
    kind, task_prefix, examples, texts
):
    model, _, encoding = make(kind, task_prefix)
    rows = training_rows(examples, texts, TASKS, encoding)
    batch = Collator(encoding, TASKS)(rows)
    module = MultiTask(model, TASKS)
    sums = module(**batch)
    weights = torch.tensor([task.weight for task in TASKS])
    loss = (weights * sums / batch["counts"]).sum()
    loss.backward()
    together = {n: p.grad.clone() for n, p in model.named_parameters()}

    model.zero_grad()
    counts = dict.fromkeys([task.name for task in TASKS], 0)
    separate = dict.fromkeys(counts, 0.0)
    for example in examples:
        for task, text in tasks_texts(example, texts):
            counts[task.name] += len(encoding.target(text))
            separate[task.name] = separate[task.name] + plain_loss(
                model, encoding, example, task, text
            )
    assert batch["counts"].tolist() == list(counts.values())
    expected = sum(t.weight * separate[t.name] / counts[t.name] for t in TASKS)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_padding_and_order_change_no_loss(kind, task_prefix, examples, texts):
    model, _, encoding = make(kind, task_prefix)
    rows = training_rows(examples, texts, TASKS, encoding)
    module, collate = MultiTask(model, TASKS), Collator(encoding, TASKS)
    whole = module(**collate(rows))
    mixed = module(**collate(rows[::-1]))
    alone = sum(module(**collate([row])) for row in rows)
    torch.testing.assert_close(whole, mixed, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-4)


def test_rows_without_a_rationale_add_nothing(examples, texts):
    model, _, encoding = make("t5", "encoder")
    rows = training_rows(examples, texts, TASKS, encoding)
    without = [row for row in rows if row["targets"][2] is None]
    assert len(without) == 9  # every third, and the one with white space alone
    batch = Collator(encoding, TASKS)(without)
    assert batch["counts"][2] == 0
    assert MultiTask(model, TASKS)(**batch)[2] == 0


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_accumulation_gives_the_same_gradient(tmp_path, examples, texts, batch_size, accumulation):
    """transformers#47688: loss and gradient used to come out `accumulation` times too large."""
    weights = []
    for size, passes in ((8, 1), (batch_size, accumulation)):
        t = trainer(
            tmp_path / str(size), examples, texts,
            batch_size=size, accumulation=passes, epochs=1.0, evals=1, lr=1e-3, warmup=0.0,
        )  # fmt: skip
        gradients = []
        clip = t.accelerator.clip_grad_norm_
        t.accelerator.clip_grad_norm_ = lambda p, n, kept=gradients, clip=clip, t=t: (
            kept.append([q.grad.clone() for q in t.model.parameters()]),
            clip(p, n),
        )[1]
        t.train()
        weights.append(gradients)
    assert len(weights[0]) == len(weights[1]) == 3  # 24 questions, 8 a step
    for once, several in zip(weights[0][0], weights[1][0], strict=True):
        torch.testing.assert_close(once, several, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(tmp_path, examples, texts):
    options = dict(batch_size=8, epochs=4.0, evals=4, lr=1e-3)
    whole = trainer(tmp_path / "whole", examples, texts, **options)
    whole.train()

    class Stop(Exception):
        pass

    stopped = trainer(tmp_path / "stopped", examples, texts, **options)
    step = stopped.training_step

    def stopping(*args, **kwargs):
        if stopped.state.global_step == 7:  # between two checkpoints
            raise Stop
        return step(*args, **kwargs)

    stopped.training_step = stopping
    with pytest.raises(Stop):
        stopped.train()
    resumed = trainer(tmp_path / "stopped", examples, texts, **options)
    assert resumed.last_checkpoint().endswith("checkpoint-6")
    resumed.train(resume_from_checkpoint=resumed.last_checkpoint())
    assert resumed.state.global_step == whole.state.global_step == 12
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    pd.testing.assert_frame_equal(pd.DataFrame(resumed.history), pd.DataFrame(whole.history))
    assert resumed.tokens == whole.tokens


def test_a_loss_that_is_not_finite_stops_with_what_to_change(tmp_path, examples, texts):
    t = trainer(tmp_path, examples, texts, batch_size=8, epochs=1.0, evals=1, lr=0.5)
    with torch.no_grad():
        next(t.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 0: lower lr \(now 0.5\)"):
        t.train()


def test_the_best_checkpoint_by_valid_is_kept(tmp_path, examples, texts):
    t = trainer(tmp_path, examples, texts, batch_size=8, epochs=3.0, evals=3, lr=1e-3)
    right = iter([3, 7, 5])  # of 8, at the three scorings
    kept = []

    def scorer():
        kept.append(copy.deepcopy(t.model.state_dict()))
        count = next(right)
        return [{"choice": int(i >= count), "gold": 0} for i in range(8)]

    t.scorer = scorer
    t.train()
    assert t.state.best_metric == 7 / 8
    for name, value in t.model.state_dict().items():
        torch.testing.assert_close(value, kept[1][name], rtol=0, atol=0)


def test_steps_end_with_a_scoring_of_valid():
    for rows in (5, 100, 4957):
        for evals in (1, 3, 4, 7):
            params = Params.checked(batch_size=32, epochs=3.0, evals=evals)
            steps, every = training.steps_of(params, rows)
            assert steps % every == 0
            assert 1 <= steps // every <= evals


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_the_loss_over_options_is_hintons_for_every_question(kind, task_prefix, examples, texts):
    """Separately: CE(teacher_T || student_T), the student's logits log-probabilities a token."""
    model, _, encoding = make(kind, task_prefix)
    wanted = probabilities(examples)
    rows = training_rows(examples, texts, WITH_OPTIONS, encoding, wanted)
    batch = Collator(encoding, WITH_OPTIONS)(rows)
    assert batch["counts"][2] == len(wanted) == len(examples) - 1
    answer, options = WITH_OPTIONS[0], WITH_OPTIONS[2]
    expected = 0.0
    for example in examples[1:]:
        losses = [plain_loss(model, encoding, example, answer, text) for text in example.options]
        lengths = torch.tensor([len(encoding.target(text)) for text in example.options])
        student = torch.log_softmax(-torch.stack(losses) / lengths / options.temperature, 0)
        expected = expected - (torch.tensor(wanted[example.id]) * student).sum()
    expected.backward()
    separate = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = MultiTask(model, WITH_OPTIONS)(**batch)[2]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, separate[name], rtol=1e-4, atol=1e-5)
    collate, module = Collator(encoding, WITH_OPTIONS), MultiTask(model, WITH_OPTIONS)
    alone = sum(module(**collate([row])) for row in rows)
    torch.testing.assert_close(module(**collate(rows[::-1])), alone, rtol=1e-5, atol=1e-4)


def test_questions_with_fewer_options_share_a_batch_with_others(examples, texts):
    model, _, encoding = make("t5", "encoder")
    wanted, cut = probabilities(examples), list(examples)
    for i, e in enumerate(examples):
        if i % 2:
            two = [e.options[e.answer], e.options[e.answer - 1]]
            cut[i] = replace(e, options=two, answer=0)
            wanted[e.id] = [0.6, 0.4]
    rows = training_rows(cut, texts, WITH_OPTIONS, encoding, wanted)
    collate, module = Collator(encoding, WITH_OPTIONS), MultiTask(model, WITH_OPTIONS)
    together = module(**collate(rows))
    assert torch.isfinite(together).all()
    alone = sum(module(**collate([row])) for row in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("task_prefix", "inputs"), [("encoder", 2), ("decoder", 1)])
def test_tasks_with_one_input_share_one_encoder_pass(task_prefix, inputs, examples, texts):
    """Answer and options have the same prefix; in decoder mode all tasks have the same input."""
    _, _, encoding = make("t5", task_prefix)
    rows = training_rows(examples, texts, WITH_OPTIONS, encoding, probabilities(examples))
    batch = Collator(encoding, WITH_OPTIONS)(rows)
    assert batch["input_ids"].shape[0] == inputs * len(examples)


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_tokens_are_counted_without_padding(kind, task_prefix, examples, texts):
    _, _, encoding = make(kind, task_prefix)
    rows = training_rows(examples, texts, TASKS, encoding)
    collate = Collator(encoding, TASKS)
    whole = collate(rows)
    seen = sum(int(m.sum()) for n, m in whole.items() if n.startswith(("mask_", "attention_mask")))
    if kind == "t5":
        written = [p for e in examples for p in tasks_texts(e, texts)]
        prefix = {t.name: len(encoding.decoder_prefix(t.prefix)) for t in TASKS}
        seen += sum(len(encoding.target(text)) - 1 + prefix[t.name] for t, text in written)
    assert int(whole["tokens"]) == seen
    assert int(whole["tokens"]) == sum(int(collate([row])["tokens"]) for row in rows)


def test_training_counts_all_its_tokens_and_their_cost(tmp_path, examples, texts):
    t = trainer(tmp_path, examples, texts, batch_size=8, epochs=2.0, evals=2, lr=1e-3)
    t.train()
    once = int(Collator(t.data_collator.encoding, TASKS)(t.train_dataset)["tokens"])
    assert t.tokens == 2 * once
    assert sizes.train_flops(1000, 1000, t.tokens) == 6 * 1000 * t.tokens
    assert sizes.train_flops(1000, 10, t.tokens) == (4 * 1000 + 2 * 10) * t.tokens


def test_peak_memory_counts_what_was_given_back():
    cost.start_peak()
    before = cost.peaks()["peak_rss_gb"]
    torch.ones(50_000_000).sum()  # 0.2 GB
    assert cost.peaks()["peak_rss_gb"] >= before + 0.15


class _Rates(TrainerCallback):
    """Keeps the learning rate of every step."""

    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, **options):
        self.seen.append(options["optimizer"].param_groups[0]["lr"])


def test_the_rate_rises_to_its_peak_and_falls_linearly(tmp_path, examples, texts):
    t = trainer(
        tmp_path, examples, texts, batch_size=3, epochs=1.25, evals=1, lr=1e-3, warmup=0.4
    )  # fmt: skip
    rates = _Rates()
    t.add_callback(rates)
    t.train()
    rising = [0.0, 0.25, 0.5, 0.75]
    falling = [1 - i / 6 for i in range(6)]
    expected = [1e-3 * share for share in rising + falling]
    assert rates.seen == pytest.approx(expected)


def test_a_large_gradient_is_clipped_to_norm_1(tmp_path, examples, texts):
    t = trainer(tmp_path, examples, texts, batch_size=24, epochs=1.0, evals=1, lr=1e-3)
    t.weights = t.weights * 100
    norms = []
    step = t.create_optimizer().step

    def stepping(*args, **kwargs):
        grads = [p.grad.flatten() for p in t.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))
        return step(*args, **kwargs)

    t.optimizer.step = stepping
    t.train()
    assert norms == pytest.approx([1.0], rel=1e-3)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_checkpointing_changes_memory_and_no_gradient(tmp_path, kind, examples, texts):
    gradients = []
    for checkpointing in (False, True):
        t = trainer(tmp_path, examples, texts, kind=kind, checkpointing=checkpointing)
        batch = t.data_collator(t.train_dataset)
        t.model.train()
        assert t.model.model.is_gradient_checkpointing == checkpointing
        t.compute_loss(t.model, batch, num_items_in_batch=batch["counts"]).backward()
        gradients.append([p.grad for p in t.model.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-7)


def test_bf16_is_used_where_it_is_asked_for_and_auto_is_fp32_without_a_gpu(
    tmp_path, monkeypatch, examples, texts
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.precision("auto") == models.precision("fp32") == torch.float32
    losses = []
    for precision in ("fp32", "tf32", "bf16"):
        t = trainer(
            tmp_path / precision, examples, texts, batch_size=24, epochs=1.0, evals=1,
            precision=precision,
        )  # fmt: skip
        t.train()
        assert t.args.bf16 == (precision == "bf16")
        product = torch.backends.cuda.matmul.fp32_precision  # as a GPU would find it
        assert product == ("tf32" if precision == "tf32" else "ieee")
        assert all(p.dtype == torch.float32 for p in t.model.parameters())
        losses.append([row["value"] for row in t.history if row["metric"] == "loss"])
    assert losses[1] == losses[0]  # tf32 is of GPUs alone
    assert losses[2] != losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=0.02)


def test_who_asks_for_bf16_where_it_is_emulated_is_warned_and_told_what_to_set(monkeypatch):
    able = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    with pytest.warns(UserWarning, match="precision: bf16: .* set precision: fp32"):
        assert models.precision("bf16") == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.precision("fp32")
        for unit in ("avx512_bf16", "amx_bf16"):
            able[unit] = True
            models.precision("bf16")
            able[unit] = False
        able["architecture"] = "aarch64"
        models.precision("bf16")


def test_batches_are_alike_in_all_lengths_and_an_epoch_holds_every_question_once():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 500, (643, 3), generator=draw).tolist()
    sampler = LengthGroups(lengths, 8, seed=3)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(643))
    assert orders[0] != orders[1]
    again = LengthGroups(lengths, 8, seed=3)
    again.set_epoch(1)
    assert list(again) == orders[1]
    assert list(LengthGroups(lengths, 8, seed=4)) != orders[0]

    def steps(order):
        return [torch.tensor([lengths[i] for i in order[at : at + 8]]) for at in range(0, 640, 8)]

    def padded(order):
        rows = steps(order)
        return sum(8 * int(row.max(0).values.sum()) for row in rows) / sum(map(sum, lengths))

    plain = padded(range(643))
    by_total = padded(sorted(range(643), key=lambda i: sum(lengths[i])))
    assert padded(orders[0]) < 1.35 < 1.45 < by_total < plain
    tokens = [int(row.sum()) for row in steps(orders[0])]
    assert tokens[0] == max(tokens)  # memory that will not do runs out at once
    assert tokens != sorted(tokens, reverse=True)


def test_training_stops_early_when_valid_no_longer_gains(tmp_path, examples, texts):
    t = trainer(
        tmp_path, examples, texts, batch_size=8, epochs=6.0, evals=6, lr=1e-3, patience=2
    )  # fmt: skip
    right = iter([3, 5, 5, 4, 8, 8])  # of 8: no gain at the third and fourth scoring

    def scorer():
        count = next(right)
        return [{"choice": int(i >= count), "gold": 0} for i in range(8)]

    t.scorer = scorer
    t.train()
    assert t.state.global_step == 4 * 3
    assert (t.state.best_metric, t.state.best_global_step) == (5 / 8, 2 * 3)


def test_out_of_memory_is_answered_with_what_to_lower():
    params = Params.checked(batch_size=16, accumulation=2)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**17)  # more than any machine has
    remedy = "lower batch_size (now 16) and raise accumulation (now 2)"
    assert remedy in training.memory_remedy(params, caught.value)
    assert remedy in training.memory_remedy(params, torch.OutOfMemoryError("CUDA out of memory"))
    assert training.memory_remedy(params, RuntimeError("shapes do not match")) is None


@pytest.mark.parametrize(("kind", "task_prefix"), KINDS)
def test_lora_trains_adapters_only_and_learns(tmp_path, kind, task_prefix, examples, texts):
    t = trainer(
        tmp_path, examples, texts, kind=kind, task_prefix=task_prefix, lora=4,
        batch_size=24, epochs=32.0, evals=4, lr=3e-3,
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in t.model.named_parameters()}
    t.train()
    after = dict(t.model.named_parameters())
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    adapters = {n for n in before if "lora_" in n}
    assert moved == adapters and 0 < len(adapters) < len(before)
    assert {n for n, p in after.items() if p.requires_grad} == adapters
    for task in TASKS:
        losses = [r["value"] for r in t.history if (r["task"], r["metric"]) == (task.name, "loss")]
        assert losses[-1] < 0.98 * losses[0]
    assert set(t.model.state_dict()) == adapters  # what a checkpoint keeps


def test_a_resumed_run_with_lora_ends_where_an_uninterrupted_one_ends(tmp_path, examples, texts):
    options = dict(lora=4, batch_size=8, epochs=2.0, evals=2, lr=1e-2)
    whole = trainer(tmp_path / "whole", examples, texts, **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", examples, texts, **options)
    stopped.add_callback(_StopAt(3))
    stopped.train()
    resumed = trainer(tmp_path / "stopped", examples, texts, **options)
    resumed.train(resume_from_checkpoint=resumed.last_checkpoint())
    assert resumed.state.global_step == whole.state.global_step == 6
    assert resumed.tokens == whole.tokens
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class _StopAt(TrainerCallback):
    """Ends training after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **options):
        control.should_training_stop = state.global_step >= self.step
