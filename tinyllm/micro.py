"""The micro world: a closed museum whose rationales carry knowledge that its answers alone do not.

Entities (robin) belong to kinds (bird), and a kind settles every attribute of its entities (birds
are shown on Monday); a seed assigns them, so nothing can be known from outside. A question asks for
one attribute of one entity, a good rationale names the entity's kind and the kind's value. Train,
valid and test share entities and attributes but no (entity, attribute) pair: an answer on test has
to be worked out through the kind, which only rationales name.

The world is a positive control (a gain must show here, or the pipeline is broken), not evidence for
the paper. Its two teachers are small language models that the study trains itself, one T5-like and
one Llama-like; each knows a part of the entities, both together all of them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    get_linear_schedule_with_warmup,
)

from tinyllm import prompts
from tinyllm.data import Example

MICRO_VERSION = 2  # raise it when the world, a model's shape or the teachers' training changes

KINDS = {  # (singular, plural): entities
    ("bird", "birds"): "robin heron owl wren finch crow swan stork eagle raven falcon magpie",
    ("tree", "trees"): "oak elm birch maple willow cedar beech larch spruce poplar alder yew",
    ("fish", "fish"): "trout salmon cod tuna carp pike herring eel perch mackerel sole haddock",
    ("tool", "tools"): "hammer saw chisel drill wrench axe spade rake shovel mallet anvil file",
    ("flower", "flowers"): "rose tulip daisy lily orchid iris poppy dahlia aster peony lilac pansy",
    (
        "gem",
        "gems",
    ): "ruby opal emerald topaz garnet sapphire diamond pearl agate onyx jasper beryl",
    ("insect", "insects"): "ant bee wasp beetle moth cricket termite locust hornet aphid gnat fly",
    ("fruit", "fruits"): "apple pear plum cherry peach mango lemon apricot fig melon grape papaya",
}
ATTRIBUTES = {  # attribute: (what is done, values)
    "day": ("shown on", "Monday Tuesday Wednesday Thursday Friday Saturday"),
    "room": ("kept in", "attic cellar hall tower library garden"),
    "keeper": ("cleaned by", "Ada Omar Lena Ivan Mei Hugo"),
    "city": ("lent to", "Paris Oslo Cairo Lima Tokyo Rome"),
    "colour": ("labelled in", "red blue green white black yellow"),
    "material": ("wrapped in", "paper silk straw linen felt wool"),
}
OPTIONS = 4
# An entity has two of its six attributes in train. With one, nothing but rationales ties attributes
# together (answers alone stay at chance); with three, answers alone suffice.
TRAIN_PAIRS_AN_ENTITY, VALID_SHARE = 2, 0.2
ROWS = {"train": 2000, "valid": 240, "test": 600}
KNOWN = {"a": slice(0, 7), "b": slice(5, 12)}  # which entities of every kind a teacher knows
KIND_OF_MODEL = {"a": "t5", "b": "llama"}
TEACHER_STEPS, TEACHER_BATCH, TEACHER_LR = 600, 32, 2e-3
# T5 tells places apart by its position biases alone. At the rate of the other weights they would
# hardly move in so few steps, and a teacher would read the in-context examples as the question.
TEACHER_BIAS_LR = 0.05
ALONE_FIRST = 0.4  # share of a teacher's steps without in-context examples, which come later
SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as in T5


@dataclass(frozen=True)
class World:
    """What is true in the museum.

    kind: entity -> (singular, plural) of its kind.
    value: kind -> attribute -> value.
    """

    kind: dict[str, tuple[str, str]]
    value: dict[tuple[str, str], dict[str, str]]

    def of(self, entity: str, attribute: str) -> str:
        """The value of an entity's attribute."""
        return self.value[self.kind[entity]][attribute]


@cache
def world(seed: int) -> World:
    """The museum of `seed`: every value of an attribute belongs to one or two kinds."""
    draw = random.Random(f"world:{seed}")
    value: dict[tuple[str, str], dict[str, str]] = {kind: {} for kind in KINDS}
    for attribute, (_, words) in ATTRIBUTES.items():
        values = words.split()
        dealt = values + draw.sample(values, len(KINDS) - len(values))
        draw.shuffle(dealt)
        for kind, each in zip(KINDS, dealt, strict=True):
            value[kind][attribute] = each
    kind = {entity: name for name, entities in KINDS.items() for entity in entities.split()}
    return World(kind, value)


def questions(seed: int) -> dict[str, list[Example]]:
    """The questions of the museum of `seed` by split (sizes: ROWS); no pair stands in two splits.

    In every split each gold letter is equally frequent and no question stands twice.
    """
    here, draw = world(seed), random.Random(f"questions:{seed}")
    pairs: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    rest = []
    for entity in here.kind:
        own = [(entity, attribute) for attribute in draw.sample([*ATTRIBUTES], len(ATTRIBUTES))]
        pairs["train"] += own[:TRAIN_PAIRS_AN_ENTITY]
        rest += own[TRAIN_PAIRS_AN_ENTITY:]
    draw.shuffle(rest)
    cut = round(VALID_SHARE * len(rest))
    pairs["valid"], pairs["test"] = rest[:cut], rest[cut:]
    return {split: _split(here, split, pairs[split], draw) for split in pairs}


def _split(
    here: World, split: str, pairs: list[tuple[str, str]], draw: random.Random
) -> list[Example]:
    """ROWS[split] different questions, about equally many a pair, in random order."""
    asked = [pairs[index % len(pairs)] for index in range(ROWS[split])]
    places = [index % OPTIONS for index in range(ROWS[split])]
    draw.shuffle(asked)
    draw.shuffle(places)
    rows: list[Example] = []
    seen = set()
    for index, (pair, place) in enumerate(zip(asked, places, strict=True)):
        while True:
            row = _ask(here, *pair, place, draw, f"{split}-{index:04d}")
            if (row.question, *row.options) not in seen:
                break
        seen.add((row.question, *row.options))
        rows.append(row)
    return rows


def _ask(
    here: World, entity: str, attribute: str, place: int, draw: random.Random, name: str
) -> Example:
    """`Which day is a robin shown on?`, with the right option at index `place`."""
    done, values = ATTRIBUTES[attribute]
    right = here.of(entity, attribute)
    options = draw.sample([value for value in values.split() if value != right], OPTIONS - 1)
    options.insert(place, right)
    return Example(name, "", f"Which {attribute} is {_a(entity)} {done}?", options, place)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def pair(example: Example) -> tuple[str, str]:
    """The (entity, attribute) that a question of this world asks for."""
    words = example.question.split()
    return words[4], words[1]


def reference_rationale(example: Example, seed: int) -> str:
    """What a perfect teacher writes: `It is a bird. Birds are shown on Monday.`

    It trains teachers and measures their rationales. Moved to another question, its first sentence
    is wrong there, but its second is still a truth about birds: shuffled rationales keep the
    knowledge that does not depend on the question, scrambled ones keep none.
    """
    entity, attribute = pair(example)
    kind, kinds = world(seed).kind[entity]
    done, gold = ATTRIBUTES[attribute][0], example.options[example.answer]
    return f"It is {_a(kind)}. {kinds.capitalize()} are {done} {gold}."


def tokenizer(eos: bool = True) -> PreTrainedTokenizerFast:
    """Words and sentence marks as tokens: all that prompts and rationales of the world are made of.

    eos: end every text with `</s>`, as T5's tokenizer does; without it a text stays open, to be
        gone on with, as with Llama's.
    """
    texts = ["Question: Options: Answer: Rationale: Answer Choices: Which is a an It are . ?"]
    texts += [prompts.STEP_BY_STEP.removesuffix("."), prompts.ANSWER_PREFIX]
    texts += [prompts.rationale_prefix(index) for index in range(9)]
    texts += [f"({letter})" for letter in prompts.LETTERS[:OPTIONS]]
    texts += [f"{kind} {kinds} {kinds.capitalize()}" for kind, kinds in KINDS]
    texts += [f"{attribute} {done} {values}" for attribute, (done, values) in ATTRIBUTES.items()]
    words = dict.fromkeys(" ".join([*texts, *KINDS.values()]).split())
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[2]))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(".", "isolated"),
            pre_tokenizers.Split("?", "isolated"),
        ]
    )
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


def student(kind: str, folder: str | Path, seed: int) -> Path:
    """Save an untrained student (`t5` or `llama`) and its tokenizer in `folder`, and return it.

    The weights are drawn from `seed`; the folder loads with AutoTokenizer and
    AutoModelForSeq2SeqLM (t5) or AutoModelForCausalLM (llama). Raises ValueError on another kind.
    """
    return _save(_untrained(kind, seed), kind, folder)


def _save(model: PreTrainedModel, kind: str, folder: str | Path) -> Path:
    model.save_pretrained(folder)
    tokenizer(eos=kind == "t5").save_pretrained(folder)
    return Path(folder)


def _untrained(kind: str, seed: int) -> PreTrainedModel:
    """A random model of width 128, some hundred thousand weights."""
    ids = {"vocab_size": len(tokenizer()), "pad_token_id": 0, "eos_token_id": 1}
    ids |= {"bos_token_id": None, "tie_word_embeddings": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "t5":
            shape = {"d_model": 128, "d_ff": 128, "d_kv": 16, "num_heads": 4, "dropout_rate": 0.0}
            shape |= {"num_layers": 2, "num_decoder_layers": 1, "decoder_start_token_id": 0}
            shape |= {"relative_attention_num_buckets": 48, "relative_attention_max_distance": 60}
            model = T5ForConditionalGeneration(T5Config(**shape, **ids))
            with torch.no_grad():
                # T5 draws both with deviation 1: an output layer that starts almost sure of random
                # words, and words so far apart that each is learned by itself, not by its kind.
                model.shared.weight.mul_(0.5)
                model.lm_head.weight.mul_(0.05)
            return model
        if kind == "llama":
            shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
            shape |= {"num_attention_heads": 4, "max_position_embeddings": 512}
            return LlamaForCausalLM(LlamaConfig(**shape, **ids))
    raise ValueError(f"{kind!r} is no micro student; allowed are t5 and llama")


def known(letter: str) -> set[str]:
    """The entities that teacher `letter` knows, as many of every kind; ValueError if none such."""
    if letter not in KNOWN:
        raise ValueError(f"micro:{letter} is no teacher; allowed are micro:a and micro:b")
    return {entity for entities in KINDS.values() for entity in entities.split()[KNOWN[letter]]}


def teacher_corpus(
    letter: str, seed: int, batch: int, alone: int
) -> Iterator[list[tuple[str, str]]]:
    """Endless batches of (prompt, continuation) that teach `letter` its part of the museum `seed`.

    The prompts are those that teachers are given later: half of a batch asks for a rationale with
    the gold letter given, a quarter without it, a quarter for the answer. A batch has one number of
    in-context examples: none in the first `alone` batches, then 0 to 2. Entities that the teacher
    does not know are absent, and so are the questions of the study's test split (their facts are
    not: knowing them makes a teacher).
    """
    here, draw = world(seed), random.Random(f"corpus:{letter}:{seed}")
    entities = sorted(known(letter))
    test = {(row.question, *sorted(row.options)) for row in questions(seed)["test"]}

    def fresh() -> Example:
        while True:
            entity, attribute = draw.choice(entities), draw.choice([*ATTRIBUTES])
            row = _ask(here, entity, attribute, draw.randrange(OPTIONS), draw, "corpus")
            if (row.question, *sorted(row.options)) not in test:
                return row

    for step in itertools.count():
        number = 0 if step < alone else draw.choice((0, 1, 2, 2))
        rows = []
        for index in range(batch):
            row, shots = fresh(), [fresh() for _ in range(number)]
            if index % 4 == 3:
                rows.append((prompts.answer_prompt(row, shots), prompts.student_answer(row)))
            else:
                prompt = prompts.teacher_prompt(row, shots, forcing=index % 4 < 2)
                rows.append((prompt, reference_rationale(row, seed)))
        yield rows


def train_teacher(
    letter: str,
    folder: str | Path,
    seed: int,
    *,
    steps: int = TEACHER_STEPS,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Path:
    """Train teacher `a` (T5-like) or `b` (Llama-like) on its part of museum `seed`, and save it.

    progress: called after every step with its number (from 1) and its loss.
    Returns `folder`, which loads as a student's does. Raises ValueError on another letter.
    """
    corpus = teacher_corpus(letter, seed, TEACHER_BATCH, round(ALONE_FIRST * steps))
    known(letter)  # a generator checks nothing before its first batch
    model = _untrained(KIND_OF_MODEL[letter], seed).train()
    biases = [p for name, p in model.named_parameters() if "relative_attention_bias" in name]
    others = [p for name, p in model.named_parameters() if "relative_attention_bias" not in name]
    groups = [{"params": others}, {"params": biases, "lr": TEACHER_BIAS_LR}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=TEACHER_LR)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    words = tokenizer(eos=False)
    for step in range(1, steps + 1):
        loss = model(**_batch(words, next(corpus), model.config.is_encoder_decoder)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress(step, loss.item())
    return _save(model.eval(), KIND_OF_MODEL[letter], folder)


def _batch(
    words: PreTrainedTokenizerFast, rows: list[tuple[str, str]], seq2seq: bool
) -> dict[str, torch.Tensor]:
    """(prompt, continuation) rows as ids [rows, tokens]; only continuations have labels."""
    end = words.eos_token_id
    reads = [words(prompt).input_ids for prompt, _ in rows]
    writes = [[*words(text).input_ids, end] for _, text in rows]
    if seq2seq:
        reads, labels = [[*ids, end] for ids in reads], writes
    else:
        labels = [[-100] * len(r) + w for r, w in zip(reads, writes, strict=True)]
        reads = [r + w for r, w in zip(reads, writes, strict=True)]
    ids = _padded(reads, words.pad_token_id)
    mask = (ids != words.pad_token_id).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": _padded(labels, -100)}


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
