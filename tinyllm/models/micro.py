"""Models of the micro world: a word-level tokenizer and small randomly initialised models."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tinyllm import prompts
from tinyllm.data.micro import ABSTAINS, ATTRIBUTES, KINDS, OPTIONS

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as in T5


def tokenizer(eos: bool = True) -> PreTrainedTokenizerFast:
    """Word-level tokenizer for the words and sentence marks of the world's texts and prompts.

    eos: end every text with `</s>`, as T5's tokenizer does and Llama's does not.
    """
    texts = ["Question: Options: Answer: Rationale: Answer Choices: Which is a an It . ?"]
    texts += [ABSTAINS.replace(".", " ."), prompts.STEP_BY_STEP.removesuffix(".")]
    texts += [prompts.ANSWER_PREFIX, *(prompts.rationale_prefix(index) for index in range(9))]
    texts += [f"({letter})" for letter in prompts.LETTERS[:OPTIONS]]
    texts += [*KINDS, *KINDS.values()]
    texts += [f"{attribute} {done} {values}" for attribute, (done, values) in ATTRIBUTES.items()]
    words = dict.fromkeys(" ".join(texts).split())
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[2]))
    marks = [pre_tokenizers.Split(mark, "isolated") for mark in ".?"]
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), *marks])
    fast.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # no space before . and ?
    if eos:
        fast.post_processor = processors.TemplateProcessing(
            single=f"$A {SPECIAL[1]}", special_tokens=[(SPECIAL[1], 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token=SPECIAL[2],
        padding_side="right" if eos else "left",
        model_max_length=512,
    )


def untrained(kind: str, seed: int, layers: int = 1) -> PreTrainedModel:
    """A model (`t5` or `llama`) of width 128 with a few hundred thousand random weights."""
    ids = {"vocab_size": len(tokenizer()), "pad_token_id": 0, "eos_token_id": 1}
    ids |= {"bos_token_id": None, "tie_word_embeddings": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "t5":
            shape = {"d_model": 128, "d_ff": 256, "d_kv": 8, "num_heads": 8, "dropout_rate": 0.0}
            shape |= {"num_layers": layers, "num_decoder_layers": 1, "decoder_start_token_id": 0}
            shape |= {"relative_attention_num_buckets": 48, "relative_attention_max_distance": 60}
            model = T5ForConditionalGeneration(T5Config(**shape, **ids))
            with torch.no_grad():
                # transformers ties T5's output layer to the embeddings, so both factors scale one
                # matrix. Its standard deviation of 1 would make it almost certain of random words.
                model.shared.weight.mul_(0.7 if layers == 1 else 0.5)
                model.lm_head.weight.mul_(0.05)
            return model
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": layers}
        shape |= {"num_attention_heads": 4, "max_position_embeddings": 512}
        return LlamaForCausalLM(LlamaConfig(**shape, **ids))


def save(model: PreTrainedModel, kind: str, folder: str | Path) -> None:
    """Save a model and its tokenizer, so that `from_pretrained` loads them from the folder."""
    transformers.utils.logging.disable_progress_bar()  # not needed for files of a megabyte
    model.save_pretrained(folder)
    tokenizer(eos=kind == "t5").save_pretrained(folder)
