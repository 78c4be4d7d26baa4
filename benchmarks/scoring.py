"""Seconds that scoring takes: all options in one pass a question, and generating the answer.

    python benchmarks/scoring.py [--questions 200] [--rounds 3] [--threads 2]

The model has the size of FLAN-T5-small (77M parameters) and random weights: what it says is no
matter here, and it never ends by itself, so each generated answer has all the tokens that were
asked for, which is the worst case. A trained student ends an answer early, hence the further
lengths. The questions are real (OpenBookQA's test split, from the paper's release). The ways run in
turn, several times, because machines are noisy; what counts are the ratios.
"""

import argparse
import time
from statistics import median

import torch
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from tinyllm import data, evaluate, models, prompts
from tinyllm.data import Example
from tinyllm.encoding import Encoding
from tinyllm.params import Params

LENGTHS = (64, 16, 8)  # tokens generated at most; the release generates 64

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--questions", type=int, default=200)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def flan_t5_small(tokenizer: PreTrainedTokenizerBase) -> T5ForConditionalGeneration:
    """A model of FLAN-T5-small's shape with random weights, for ids of `tokenizer`."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,  # for the scale of the outputs
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    # An output layer of its own, as FLAN-T5 has (transformers 5 ties it). Its scale gives logits of
    # standard deviation 1: T5's own initialisation gives 20, and rounding grows with them.
    model.lm_head = torch.nn.Linear(config.d_model, config.vocab_size, bias=False)
    torch.nn.init.normal_(model.lm_head.weight, std=config.d_model**-0.5)
    model.eval()
    return model


def prepared(count: int) -> tuple[T5ForConditionalGeneration, Encoding, list[Example]]:
    """The model, the encoding of its inputs, and `count` test questions of OpenBookQA.

    The tokenizer is MiniLM's: its ids are fewer than the model's vocabulary.
    """
    params = Params.checked(
        study="benchmark", dataset="obqa", source="release", teachers=["release:flan-t5"],
        arms=["finetune"], limit={"train": 1, "valid": 1, "test": count}, max_input=256,
    )  # fmt: skip
    examples = data.examples(data.load(params)["test"])
    _, tokenizer = models.load("minilm-ed")
    model = flan_t5_small(tokenizer)
    return model, Encoding.of(model, tokenizer, params), examples


@torch.inference_mode()
def one_by_one(
    model: T5ForConditionalGeneration, encoding: Encoding, examples: list[Example]
) -> list[list[float]]:
    """Summed log-probability of each option of each question, a whole pass an option."""
    found = []
    for example in examples:
        source = torch.tensor([encoding.source(example, prompts.ANSWER_PREFIX)])
        first = encoding.decoder_prefix(prompts.ANSWER_PREFIX)
        sums = []
        for option in example.options:
            target = [*encoding.tokens(option), encoding.tokenizer.eos_token_id]
            read = torch.tensor([[*first, *target[:-1]]])
            logits = model(input_ids=source, decoder_input_ids=read).logits[0, len(first) - 1 :]
            each = logits.log_softmax(-1)[range(len(target)), target]
            sums.append(float(each.sum()))
        found.append(sums)
    return found


def furthest(batched: list[dict], alone: list[list[float]]) -> float:
    """The largest difference of an option's summed log-probability between two ways of scoring."""
    return max(
        abs(a - b)
        for row, sums in zip(batched, alone, strict=True)
        for a, b in zip(row["logprobs"], sums, strict=True)
    )


def main() -> None:
    """Run the ways in turn and print seconds, ratios and the agreement."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, encoding, examples = prepared(options.questions)
    ways = {"scoring the options": lambda: evaluate.score_options(model, encoding, examples)}
    for length in LENGTHS:
        ways[f"generating {length} tokens"] = lambda length=length: evaluate.generate(
            model, encoding, examples, prompts.ANSWER_PREFIX, max_new_tokens=length
        )
    ways["scoring an option at a time"] = lambda: one_by_one(model, encoding, examples)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            results[name] = way()
            seconds[name].append(time.perf_counter() - start)
    base = seconds["scoring the options"]
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.0f}M parameters, {len(examples)} questions, {options.threads} threads")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, base, strict=True)]
        each = ", ".join(f"{r:.1f}" for r in ratios)
        print(f"{name:28} {median(times):6.1f} s   x {median(ratios):.1f}   ({each})")
    far = furthest(results["scoring the options"], results["scoring an option at a time"])
    print(f"largest difference of an option's log-probability: {far:.1e}")


if __name__ == "__main__":
    main()
