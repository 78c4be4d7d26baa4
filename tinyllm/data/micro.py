"""The micro world: a closed museum whose rationales carry knowledge that its answers alone do not.

Entities (robin) belong to kinds (bird), and a kind settles every attribute of its entities (birds
are shown on Monday); a seed assigns the values, so nothing can be known from outside. A question
asks for one attribute of one entity; a rationale names the entity's kind, and nothing more. In
train, every entity has ONE of its six attributes; valid and test ask for the other five. An answer
there has to be worked out through the kind, which only rationales name.

The world is a positive control (a gain must show here, or the pipeline is broken), not evidence for
the paper. Its two teachers are small language models that the study trains itself. Each knows the
kinds of one half of the entities and abstains on the others, which then have no target from it.
(Teachers that guessed a kind instead would contradict each other.)
"""

import random
from functools import cache

from tinyllm.data.question import Question

VERSION = 3  # increase it when the world, a model's shape or the teachers' training changes

KINDS = {  # kind: its entities, 24 of each, no name in two kinds
    "bird": "robin heron owl wren finch crow swan stork eagle raven falcon magpie "
    "sparrow pigeon dove gull parrot pelican ostrich penguin thrush starling kingfisher cuckoo",
    "tree": "oak elm birch maple willow cedar beech larch spruce poplar alder yew "
    "ash pine fir hawthorn chestnut walnut sycamore hazel juniper cypress hornbeam baobab",
    "fish": "trout salmon cod tuna carp pike herring eel perch mackerel sole haddock "
    "sardine anchovy halibut sturgeon bream flounder barracuda snapper tilapia minnow catfish "
    "turbot",
    "tool": "hammer saw chisel drill wrench axe spade rake shovel mallet anvil file "
    "screwdriver sickle scythe crowbar hoe trowel pickaxe clamp hacksaw lathe hatchet sander",
    "flower": "rose tulip daisy lily orchid iris poppy dahlia aster peony lilac pansy "
    "violet carnation daffodil sunflower marigold geranium petunia begonia hyacinth crocus "
    "snowdrop primrose",
    "gem": "ruby opal emerald topaz garnet sapphire diamond pearl agate onyx jasper beryl "
    "amethyst turquoise zircon peridot citrine aquamarine moonstone carnelian spinel tourmaline "
    "sunstone bloodstone",
}
KIND = {entity: kind for kind, entities in KINDS.items() for entity in entities.split()}
ATTRIBUTES = {  # attribute: (what is done, values)
    "day": ("shown on", "Monday Tuesday Wednesday Thursday Friday Saturday"),
    "room": ("kept in", "attic cellar hall tower library garden"),
    "keeper": ("cleaned by", "Ada Omar Lena Ivan Mei Hugo"),
    "city": ("lent to", "Paris Oslo Cairo Lima Tokyo Rome"),
    "colour": ("labelled in", "red blue green white black yellow"),
    "material": ("wrapped in", "paper silk straw linen felt wool"),
}
OPTIONS = 4
VALID_SHARE = 0.2  # of the pairs that are not in train
ROWS = {"train": 1728, "valid": 288, "test": 576}  # 12, 2 and 1 questions per pair
KNOWN = {"a": slice(0, 12), "b": slice(12, 24)}  # which entities of every kind a teacher knows
ABSTAINS = "I do not know."  # what a teacher writes on an entity whose kind it does not know
World = dict[str, dict[str, str]]  # what is true: kind -> attribute -> value


@cache
def world(seed: int) -> World:
    """The museum of `seed`: every kind has its own value of each attribute."""
    draw = random.Random(f"world:{seed}")
    values: World = {kind: {} for kind in KINDS}
    for attribute, (_, words) in ATTRIBUTES.items():
        for kind, word in zip(KINDS, draw.sample(words.split(), len(KINDS)), strict=True):
            values[kind][attribute] = word
    return values


@cache
def questions(seed: int) -> dict[str, list[Question]]:
    """The questions of the museum of `seed` by split.

    Train, valid and test share entities and attributes, but no (entity, attribute) pair. In every
    split the gold letters are equally frequent and no question occurs twice.
    """
    museum, draw = world(seed), random.Random(f"questions:{seed}")
    train, rest = [], []
    for names in KINDS.values():
        for index, entity in enumerate(draw.sample(names.split(), len(names.split()))):
            # With two attributes per entity in train, answers alone would suffice: entities that
            # share both values are of one kind.
            start = index % len(ATTRIBUTES)
            first, *others = [*ATTRIBUTES][start:] + [*ATTRIBUTES][:start]
            train.append((entity, first))
            rest += [(entity, attribute) for attribute in others]
    draw.shuffle(rest)
    cut = round(VALID_SHARE * len(rest))
    pairs = {"train": train, "valid": rest[:cut], "test": rest[cut:]}
    return {split: _split(museum, split, pairs[split], draw) for split in pairs}


def _split(
    museum: World, split: str, pairs: list[tuple[str, str]], draw: random.Random
) -> list[Question]:
    """ROWS[split] different questions, about equally many per pair, in random order."""
    asked = [pairs[index % len(pairs)] for index in range(ROWS[split])]
    places = [index % OPTIONS for index in range(ROWS[split])]
    draw.shuffle(asked)
    draw.shuffle(places)
    rows: dict[tuple[str, ...], Question] = {}
    for pair, place in zip(asked, places, strict=True):
        name, size = f"{split}-{len(rows):04d}", len(rows)
        while len(rows) == size:
            row = ask(museum, *pair, place, draw, name)
            rows.setdefault((row.question, *row.options), row)
    return list(rows.values())


def ask(
    museum: World, entity: str, attribute: str, place: int, draw: random.Random, name: str
) -> Question:
    """`Which day is a robin shown on?`, with the right option at index `place`."""
    done, values = ATTRIBUTES[attribute]
    right = museum[KIND[entity]][attribute]
    options = draw.sample([value for value in values.split() if value != right], OPTIONS - 1)
    options.insert(place, right)
    return Question(name, "", f"Which {attribute} is {_a(entity)} {done}?", options, place)


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def pair(row: Question) -> tuple[str, str]:
    """The (entity, attribute) that a question of this world asks for."""
    words = row.question.split()
    return words[4], words[1]


def reference_rationale(row: Question) -> str:
    """What a perfect teacher writes: `It is a bird.`"""
    entity, _ = pair(row)
    return f"It is {_a(KIND[entity])}."


@cache
def known(letter: str) -> frozenset[str]:
    """The entities whose kind teacher `letter` (a or b) knows."""
    return frozenset(name for names in KINDS.values() for name in names.split()[KNOWN[letter]])


def teacher_rationale(letter: str, row: Question) -> str:
    """What teacher `letter` is trained to write: the reference, or that it does not know."""
    return reference_rationale(row) if pair(row)[0] in known(letter) else ABSTAINS
