"""Which option an answer names, by simple text rules.

    answer_named("The answer is (b).", options)    an answer: by an option's text or letter
    mentioned("Felt burns slowly.", options)       any text: the only option that it mentions

The first of these rules that applies to an answer decides: it is an option's text (`A-` among A+
and A-); it says `the answer is X`; its first line is an option or a letter; it begins with a letter
(`(b)`, `B.`, `b`); it mentions exactly one option (not if the text was cut off). Otherwise it names
none. Mentions are whole words or numbers (neither `1.5` nor `1:30` mentions 1), a longer option
takes precedence over a shorter one inside it, and an option directly after `not` does not count.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from tinyllm.prompts import LETTERS

# Options that are common words: they count as mentioned only at a text's start (`No, ...`).
COMMON = "yes no maybe true false none all both neither either one it a i"
# Scripts without spaces between words (Thai, Chinese, ...) or after a word (Korean).
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
SIGNS = str.maketrans("’‘“”−", "''\"\"-")
_CLAIM = re.compile(
    r"(?i)(?<!each )(?<!each answer )(?<!wrong )(?<!incorrect )"
    r"(?<!wrong answer )(?<!incorrect answer )"
    r"\b(?:answer|choice|(?:correct|best|right) option)(?: to [^.:]{1,80})?"
    r"(?:(?: is| must be):?[*_]*\s| ?:[*_]*\s?)"
)
# `B, C.` are two letters; `B, C is too cold.` is B with a reason.
_CLAUSE_END = re.compile(
    r"[.!?](?= |$)|[,;] (?!(?:or |and )?(?:\([A-Za-z]\)|[A-Z])(?:[.,;]|$| (?:and|or)\b))"
    r"| (?:because|since) "
)
_LETTER = re.compile(
    r"(?i)(?:(?:option|choice) )?(?:\(([a-z])\)|"
    r"([a-z])(?=[*_`\"']*(?:[).:](?!\w)|,? (?:because|since) |\Z)))"
    r"[).:*_`\"']*+ ?+(?!(?:or|and)\b)(?!(?:[^.,;:()]{0,80}\bor|,| and) \([a-z]\))"
)
# After a letter and its option: another letter (a list of options), or a rejection.
_LISTED = re.compile(
    r"(?i)[\s,;:*_–-]*(?:(?:and )?\(?([a-z])[).:](?!\w)"
    r"|(?:(?:is|was|seems) )?(?:wrong|incorrect)\b"
    r"|(?:is|was|does|can) ?not\b|(?:is|was|does|ca)n't\b)"
)
# `[b]`, `\boxed{b}`, `\boxed{\text{b}}`, `<answer>b</answer>`: a letter in other brackets.
_BRACKETS = re.compile(
    r"(?m)(?:\\boxed\{(?:\\text\{)?|<answer>|(?:^|(?<=: )|(?<= is ))\[)"
    r"\s*([A-Za-z])\s*(?:[]}]+|</answer>)"
)
_NEGATED = re.compile(
    r"(?i)(?:\bnot|n't|\bnever|\bnor|\bneither)(?: be| an?| the| or| \(?[a-z]\),?)* $"
)


def answer_named(text: str, options: Sequence[str], cut: bool = False) -> int | None:
    """Index of the option that an answer (cut: without its end) names; None: none or several."""
    lines = _BRACKETS.sub(r"(\1)", text.translate(SIGNS).strip())
    text, options, parts = _plain(text), [_plain(option) for option in options], []
    for match in reversed(list(_CLAIM.finditer(lines))):
        claim = lines[match.end() : match.end() + 1000].strip()
        parts += [
            re.split(r"[.!?]\s|(?<!\bor)(?<!\band)\n", claim)[0],
            _CLAUSE_END.split(_plain(claim))[0],
        ]
    first = _plain(lines.split("\n")[0])  # an option or a letter, followed by reasons
    if re.fullmatch(r"\W*\w\W*", first) or _same(first, options) is not None:
        parts.append(first)
    parts = dict.fromkeys(map(_plain, parts))  # a text in a loop has thousands of equal ones
    named = [_same(text, options), *(_named(part, options) for part in parts)]
    named.append(_named(_plain(lines), options, cut))
    return next((option for option in named if option is not None), None)


def mentioned(text: str, options: Sequence[str], letters: bool = False) -> int | None:
    """Index of the only option that a text mentions, None if it mentions none or several.

    letters: also count `(b)` as a mention of the second option; rationales may list all options.
    """
    text = _plain(text)
    places = list(_mentions(text, [_plain(option) for option in options]))
    if letters:
        marks = re.finditer(r"(?i)\(([a-z])\)", text)
        places += [(LETTERS.index(mark[1].lower()), mark.start()) for mark in marks]
    indices = {i for i, start in places if not _NEGATED.search(text[max(0, start - 60) : start])}
    return indices.pop() if len(indices) == 1 and max(indices) < len(options) else None


def _same(text: str, options: Sequence[str]) -> int | None:
    """Index of the only option with this text, exact or without case, spaces and outer marks."""
    for form in (str, str.casefold, _bare, lambda text: _bare(text).replace(" ", "")):
        same = [i for i, option in enumerate(options) if form(option) == form(text) != ""]
        if len(same) == 1:
            return same[0]
    return None


def _named(text: str, options: Sequence[str], cut: bool = False) -> int | None:
    """Index of the option that a claim is, names by a leading letter, or mentions alone."""
    same = _same(text, options)
    letter = _LETTER.match(text.lstrip("*_`\"' "))
    begins = any(start == 0 for _, start in _mentions(text, options))  # as in `C. elegans`
    if same is None and letter and not begins:
        index = LETTERS.index((letter[1] or letter[2]).lower())
        if index < len(options):
            rest = letter.string[letter.end() :]
            after = re.sub(rf"(?i)\A{re.escape(options[index])}", "", rest)
            listed = _LISTED.match(after)  # `(b) ... (a)` rather explains what is wrong with (a)
            if listed and (listed[1] or "z").lower() > LETTERS[index]:
                return None
            return index if _same(rest, options) in (None, index) else None
    return mentioned(text, options, letters=True) if same is None and not cut else same


def _mentions(text: str, options: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(index, position) of each mention of an option; options with equal texts are skipped."""
    cores = [re.sub(r"(?i)^(?:an?|the) (?=\S)", "", option).rstrip(".") for option in options]
    folded = [core.casefold() for core in cores]
    order = [index for index, core in enumerate(cores) if core and cores.count(core) == 1]
    order.sort(key=lambda index: -len(cores[index]))
    patterns = [f"({_pattern(cores[i], folded.count(folded[i]) > 1)})" for i in order]
    for match in re.finditer("|".join(patterns), text) if patterns else ():
        yield order[match.lastindex - 1], match.start()


def _pattern(core: str, exact_case: bool) -> str:
    """Regular expression that matches an option as whole words or a whole number."""
    text = re.escape(core) if exact_case or len(core) == 1 else f"(?i:{re.escape(core)})"
    if core.casefold() in COMMON.split():
        return rf"\A\W*{text}(?=[*_\"']*(?:[,.;:!]| [-–—]|\Z))"
    before = "" if re.match(f"[{UNSPACED}]", core) else r"(?<![\w+/-])"
    after = "" if re.search(f"[{UNSPACED}]$", core) else r"(?![\w+#/^-]|'t\b)"
    before += r"(?<![.,])(?<!\d:)" if core[0].isdigit() else ""
    after += r"(?![.,:]\d)" if core[-1].isdigit() else ""
    return before + text + after


def _plain(text: str) -> str:
    """Normalise the spaces, quotes and minus signs of a text."""
    return " ".join(unicodedata.normalize("NFC", text).translate(SIGNS).split())


def _bare(text: str) -> str:
    """A text in lower case, without article, outer quotes, emphasis and final full stop."""
    return re.sub(r"^(?:an?|the) (?=\S)", "", text.casefold().strip(" *_`\"'").rstrip(".!"))
