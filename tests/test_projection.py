"""The output layer: seen only where there are targets; in pieces it gives what it gives whole."""

from __future__ import annotations

import pytest
import torch
from tiny import make
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from tinyllm import models, projection
from tinyllm.encoding import IGNORED

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SIZE |= {"num_attention_heads": 4, "vocab_size": 91}
BERT = SIZE | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def encoder_decoder():
    """A tiny model of `minilm-ed`'s kind."""
    torch.manual_seed(0)
    config = BertConfig(is_decoder=True, add_cross_attention=True, **BERT)
    return EncoderDecoderModel(
        encoder=BertModel(BertConfig(**BERT), add_pooling_layer=False),
        decoder=BertLMHeadModel(config),
    )


def model_of(kind):
    if kind == "encoder-decoder":
        return encoder_decoder()
    model = make(kind.removesuffix("-lora"), "encoder")[0]
    return models.adapt(model, "tiny", 4) if kind.endswith("-lora") else model


def asked(model):
    """Labels [5, 6], some of them absent, and a call of the model for its logits."""
    draw = torch.Generator().manual_seed(1)
    size = model.get_input_embeddings().num_embeddings
    ids, labels = (torch.randint(2, size, (5, 6), generator=draw) for _ in range(2))
    labels[0, 2:] = labels[3] = IGNORED
    more = {"decoder_input_ids": labels.clamp(min=0)} if model.config.is_encoder_decoder else {}
    return labels, lambda: model(input_ids=ids, use_cache=False, **more).logits


def gradients(model, loss):
    model.zero_grad()
    (loss / 7).backward()
    found = model.named_parameters()
    return {name: p.grad.clone() for name, p in found if p.grad is not None}


@pytest.mark.parametrize("kind", ["t5", "llama", "llama-lora", "encoder-decoder"])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_cross_entropy_in_pieces_is_that_of_all_logits(kind, piece, monkeypatch):
    monkeypatch.setattr(projection, "PIECE", piece)
    model = model_of(kind)
    labels, run = asked(model)
    logits = run()
    plain = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    wanted = gradients(model, plain)
    shapes = []
    pieces = projection._Pieces.apply
    monkeypatch.setattr(
        projection._Pieces, "apply", lambda *given: shapes.append(given[0].shape) or pieces(*given)
    )
    loss = projection.cross_entropy(model, run, labels)
    assert [shape[0] for shape in shapes] == [20]  # in pieces, and only where there are labels
    torch.testing.assert_close(loss, plain)
    found = gradients(model, loss)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=name)
    torch.testing.assert_close(run(), logits)  # the layer is as it was


def test_a_second_backward_pass_is_refused_and_never_wrong():
    model = model_of("t5")
    loss = projection.cross_entropy(model, *reversed(asked(model)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()


def test_without_any_label_the_loss_and_its_gradient_are_zero():
    model = model_of("llama")
    labels, run = asked(model)
    loss = projection.cross_entropy(model, run, torch.full_like(labels, IGNORED))
    assert loss == 0
    assert all((each == 0).all() for each in gradients(model, loss).values())


def test_large_logits_overflow_nothing():
    model = model_of("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1e4
    labels, run = asked(model)
    assert torch.isfinite(projection.cross_entropy(model, run, labels))


def test_a_call_that_fails_leaves_the_layer_as_it_was():
    model = model_of("t5")
    labels, run = asked(model)
    before = run()
    with pytest.raises(ZeroDivisionError):
        projection.cross_entropy(model, lambda: run() / (1 // 0), labels)
    torch.testing.assert_close(run(), before)


def capped():
    """A model that changes its logits after the output layer."""
    torch.manual_seed(0)
    config = Gemma2Config(
        head_dim=8, num_key_value_heads=4, final_logit_softcapping=0.01, pad_token_id=0, **SIZE
    )
    return Gemma2ForCausalLM(config)


def test_logits_that_a_model_changes_after_its_output_layer_are_left_whole():
    model = capped().eval()
    labels, run = asked(model)
    wanted = labels != IGNORED
    plain = torch.nn.functional.cross_entropy(run()[wanted], labels[wanted], reduction="sum")
    torch.testing.assert_close(projection.cross_entropy(model, run, labels), plain)


def test_in_autocast_logits_are_made_whole():
    model = model_of("t5")
    labels, run = asked(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = projection.cross_entropy(model, run, labels)
        wanted = labels != IGNORED
        logits = run()
        assert logits.dtype == torch.bfloat16
    plain = torch.nn.functional.cross_entropy(
        logits[wanted].float(), labels[wanted], reduction="sum"
    )
    torch.testing.assert_close(loss, plain)
