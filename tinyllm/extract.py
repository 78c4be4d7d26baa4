"""Which option a free text names: a model's short answer, or the rationale of a teacher.

    answer_named("The answer is (b).", options)      a text that was asked for as an answer
    argued_for(rationale, options)                   a text that argues, and may end anywhere

Both give the option's index, or None where the text names none, or several that cannot be told
apart. The rules are few, and the first that applies decides:

1. The last explicit conclusion: `the answer is X`, `Answer: X`, `X is correct`, `this is correct`
   right after X, `therefore X`, `so (x)`; X is a letter in parentheses, a bare letter that ends its
   clause, or an option's text. One that names two options at once decides nothing: None. A text
   that opens with an option as its first word (`Yes, ...`) concludes there.
2. The only option that is mentioned by its text (in an answer also by `(x)`; rationales list the
   options, so a letter there, or a text after its letter, means nothing without a conclusion). A
   negated mention does not count: `X is not`, `cannot be X`, `(a) and (b) are wrong`, `rather than
   X`. An option of which something is denied (`X does not burn`) counts, but is not the answer.
3. Rationales only, and only where none is mentioned (long options are paraphrased more often than
   copied): the only option of whose own words, those that no other option has, any is in the text,
   if at least half of them are, if it is two of them or three words of the option in all, and if
   the text negates nothing.

Rules 2 and 3 look at what is said about the question, so for a rationale an option, or a word of
it, that the question itself holds does not count, and they do not apply to a question that asks for
what is false (`not`, `except`, `least`).

Texts are compared in a normal form (case, commas, quotes and spacing dropped), as whole words, with
or without a plural `s`; where one option is part of another, the longest match wins. Options that
are function words (`yes`, `no`, `maybe`; `it`, `one`) stand in any prose, so only rule 1 believes
them. Options whose normal forms are equal are never told apart by text.

How far to trust this: 97 verdicts on the release's train splits, drawn at random, as many a dataset
and teacher, were read. A reader agreed with 41 of 44 that said gold; of those that said another
option, with 27 of 30 of FLAN-T5's, but only with 15 of 23 of LLaMA 2's, whose texts are cut off
midway (its explicit conclusions held, single mentions often did not). Where the rules give None, a
reader could tell about half the time. Irony, comparisons (wider when wet, narrower when dry) and
premises that are named and then dropped are beyond them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tinyllm import release
from tinyllm.prompts import LETTERS, STEP_BY_STEP

# Words that say nothing about an option when they stand in prose.
_WEAK = """
    yes no maybe true false not none all both neither either one some any it its itself i me you he
    him his she her we us they them this that these those what who which where when why how a an the
    and or but if of in on at to for from by with as is are was were be been do does did has have
    had can could will would may might must should there here than then so up out
"""
WEAK = frozenset(_WEAK.split())

# Where a teacher goes on to invent a further question: a line that begins `Question:`, `Q2.`,
# `### Question 7`, `Frage:`; a bare `Question` must stand alone in its line.
INVENTED = re.compile(
    r"(?im)^[ \t#*]*(?:example |next |another )?(?:question|frage|ques|exercise|problem|q)"
    r"(?: no\.?)? ?#?\d*(?:[ \t*]*[:.)]|[ \t*#]*$)"
)

# And where it goes on as the web page that it learnt from: `Comment: I think that ...`, `#14. ...`.
_PAGE = re.compile(
    r"(?im)^[ \t#*]*(?:comments?|\d+ (?:answers|comments))[ \t*]*:|^[ \t]*#+[ \t]*\d+(?:\.|[ \t]*$)"
)

# The normal form's tokens, then the marks that stand for mentions in it: `<2>` for the letter of
# option 2, `[2]` for its text, `{2}` for its text where that is a function word.
_TOKEN = re.compile(
    r"(?P<letter>\([a-z]\)|(?<![\w(])[a-z]\))|(?P<word>\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W_]+)*)"
    r"|(?P<stop>[.!?;:\n][\s.!?;:]*)"
)
_M = r"(?:<\d+>|\[\d+\]|\{\d+\})"
_ANY = rf"(?:{_M}|[a-z](?= [.:]| {_M}| ?$))"
_BE = r"(?:is|are|was|be|will be|would be|must be|should be|has to be|could only be)"
_FILL = r"(?:(?:that|the|a|an|it|option|choice|letter|answer|indeed|clearly|therefore|thus) )*"
_RIGHT = (
    r"(?:the |an? )?(?:only |most |best |one )*(?:correct|right|answer\b|accurate|suitable|"
    r"appropriate|logical|likely answer|best (?:answer|choice|option))"
)
_NOT = r"(?:not|cannot|can't|isn't|aren't|wasn't|doesn't|don't|won't|never)"
_WRONG = r"(?:incorrect|wrong|false|irrelevant|ruled out|eliminated|impossible|out\b)"
_POINT = r"(?: [.:])?(?: (?:this|that|it|which|option|choice|answer|statement))*"
_OTHER = "".join(  # `the second option is felt` lists, it does not conclude
    f"(?<!{word} )"
    for word in ("first", "second", "third", "fourth", "fifth", "next", "last", "other", "not the")
)
_TO_WHAT = r"(?: (?:to|for|that) [^.:]{1,80}?| here)?"  # the answer to the question is
_CONCLUSION = re.compile(
    rf"{_OTHER}\b(?:answer|choice|option|conclusion|solution){_TO_WHAT}"
    rf"(?: {_BE}(?: :)?| :) {_FILL}(?P<after>{_ANY})"
    rf"|\banswer (?P<short>{_ANY})(?= [.:]| ?$)"
    rf"|(?P<before>{_M}(?: {_M})?){_POINT} {_BE} (?:indeed |therefore |thus )?{_RIGHT}"
    rf"|\b(?:therefore|thus|hence|conclude that|conclude) {_FILL}(?:{_BE} )?{_FILL}(?P<hence>{_M})"
    rf"|\bso {_FILL}(?:{_BE} )?{_FILL}(?P<so><\d+>)"
)
_NEGATION_FOLLOWS = re.compile(
    rf"(?: {_M})* (?:{_NOT}|{_BE} (?:{_NOT}|{_WRONG}|neither|the wrong))"
)
_SEVERAL = re.compile(rf"{_ANY}(?: (?:or |and |and or )?{_M})*")
_NEGATED = re.compile(
    rf"(?:\b(?:{_NOT}|nor|neither|except|rather than|instead of|unlike|eliminate|rule out|discard)"
    rf" (?:be )?{_FILL}(?:{_M}(?: (?:and |or |nor )?(?={_M}))?)+)"
    rf"|(?:<\d+>(?: \[\d+\])?(?: (?:and |or )?(?=<))?)+{_POINT}"
    rf" (?:{_NOT}|{_BE} (?:{_NOT}|{_WRONG}))"
    rf"|(?:{_M} ?)+(?:[.:] )?(?:(?:this|that|it|which|option|choice|answer|statement) )*"
    rf"(?:(?:cannot|can't) be|{_BE} {_WRONG})"
    rf"|(?:\[\d+\] )+(?:{_BE} not|isn't|aren't|wasn't)\b"
)
_LISTED = re.compile(r"<\d+>(?: :)?(?: [\[{]\d+[\]}])?")
# Says something about an option, but it may speak for it as well as against it.
_DENIED = re.compile(r"\[(\d+)\] (?:(?:do|does|did|can|could|will) not|[a-z]+n't|cannot|never)\b")
_LETTER = re.compile(r"\b(?:option|choice) ([a-z])(?= (?:is|was|must|should|would) | [.:]| ?$)")
_FOR_FALSE = re.compile(r"(?i)\b(?:not|except|least|false|incorrect|cannot|never|n't)\b|n't\b")
_INDEX = re.compile(r"[<\[{](\d+)")
_MENTION = re.compile(r"[<\[](\d+)")


def own(text: str) -> str:
    """What a teacher itself says about the question.

    That is its text without the prompt's echo at the start, and without all that follows an
    invented question, an invented reader's comment or the number of a next exercise.
    """
    text = text.strip().removeprefix(STEP_BY_STEP).strip()
    return _PAGE.split(INVENTED.split(text, maxsplit=1)[0], maxsplit=1)[0].strip()


def without_closing(text: str, options: Sequence[str], answer: int) -> str:
    """A text without `Thus, the answer is (x) TEXT` at its end, where that is the gold option.

    The release appends this sentence to everything that FLAN-T5 wrote, so it says nothing about
    what the teacher argues for.
    """
    found = release.CLOSING.search(text)
    sentence = f"Thus, the answer is ({LETTERS[answer]}) {options[answer]}"
    if found and found[0].split() == sentence.split():
        return text[: found.start()].strip()
    return text


def normal(text: str) -> str:
    """The normal form in which texts are compared: lower-case tokens, a space between two.

    Tokens are words, numbers, letters in parentheses (`(a)`, also for `a)`), and `.` or `:` for
    whatever ends a clause, line ends included.
    """
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.replace("’", "'").casefold()):
        if match["letter"]:
            tokens.append(f"({match['letter'].strip('()')})")
        elif match["word"]:
            tokens.append(match["word"])
        else:
            tokens.append(":" if ":" in match["stop"] else ".")
    return " ".join(tokens)


def answer_named(text: str, options: Sequence[str]) -> int | None:
    """The option that an answer names (`(b)`, `B.`, `felt`, `The answer is (b) felt`), or None.

    Besides the rules above, in this order before them: an answer that is an option's text is that
    option; one that is or begins with a letter (`b`, `B.`, `(b) felt`, `b: felt`) names it, unless
    the text after the letter is another option's.
    """
    text = own(text)
    whole, forms = normal(text).strip(" .:"), _forms(options)
    same = [i for i, form in enumerate(forms) if form and form in (whole, _bare(whole))]
    if len(same) == 1:
        return same[0]
    whole = re.sub(r"^(?:(?:option|choice|answer) )+(?::? )?(?=\(?[a-z]\b)", "", whole)
    letter = re.match(r"\(([a-z])\)(?! (?:or|and|is|are|not)\b)|([a-z])(?= [.:]|$)", whole)
    if letter and (index := LETTERS.index(letter[1] or letter[2])) < len(options):
        rest = _bare(whole[letter.end() :].strip(" .:"))
        return None if rest in forms and forms.index(rest) != index and rest else index
    marked = _marked(normal(text), forms)
    decided, index = _concluded(text, marked, forms)
    return index if decided else _only(_NEGATED.sub(" ", marked), set(), len(options))


def argued_for(text: str, options: Sequence[str], question: str = "") -> int | None:
    """The option that a rationale argues for, or None where it cannot be told.

    question: the question proper; without it, rules 2 and 3 count what merely repeats it.
    `without_closing` should come first where a sentence with the gold answer was appended.
    """
    text = own(text)
    tokens, forms = normal(text), _forms(options)
    marked = _marked(tokens, forms)
    decided, index = _concluded(text, marked, forms)
    if decided:
        return index
    if _FOR_FALSE.search(question):
        return None
    asked = normal(question)
    given = {int(i) for i in _MENTION.findall(_marked(asked, forms))}
    for negated in _NEGATED.findall(marked):  # once `(a) is wrong`, its text is no argument
        given |= {int(i) for i in re.findall(r"<(\d+)>", negated)}
    left = _LISTED.sub(" ", _NEGATED.sub(" ", marked))
    if re.search(r"\[", marked):
        return _only(left, given, len(options))
    if re.search(rf"\b{_NOT}\b", tokens):
        return None
    return _paraphrased(tokens, forms, asked)


def _concluded(text: str, marked: str, forms: Sequence[str]) -> tuple[bool, int | None]:
    """Rule 1: whether a text concludes, and the option that its last conclusion names."""
    conclusions = list(_conclusions(marked, len(forms)))
    if conclusions:
        return True, conclusions[-1]
    opening = re.match(r"\W*(\w+)\s*(?:[,.!]|\Z)", text)
    if opening and forms.count(opening[1].casefold()) == 1:
        return True, forms.index(opening[1].casefold())
    return False, None


def _only(marked: str, given: set[int], options: int) -> int | None:
    """Rule 2: the only option marked in a text, without those that are `given`."""
    mentioned = {int(i) for i in _MENTION.findall(marked)} - given
    mentioned = {index for index in mentioned if index < options}
    denied = {int(i) for i in _DENIED.findall(marked)}
    return mentioned.pop() if len(mentioned) == 1 and not mentioned & denied else None


def _conclusions(marked: str, options: int) -> Iterator[int | None]:
    """The option of each explicit conclusion in turn, None for one that names several."""
    for match in _CONCLUSION.finditer(marked):
        several = _SEVERAL.match(marked, match.start(match.lastgroup))
        if match.lastgroup != "before" and _NEGATION_FOLLOWS.match(marked, several.end()):
            continue
        indices = {int(i) for i in _INDEX.findall(several[0])}
        if bare := re.match(r"[a-z]\b", several[0]):
            indices.add(LETTERS.index(bare[0]))
        if all(index < options for index in indices):
            yield indices.pop() if len(indices) == 1 else None


def _forms(options: Sequence[str]) -> list[str]:
    """Normal forms of options, without a leading article; empty for those that are not unique."""
    forms = [_bare(normal(option).strip(" .:")) for option in options]
    return [form if forms.count(form) == 1 else "" for form in forms]


def _bare(form: str) -> str:
    return re.sub(r"^(?:an?|the) (?=\S)", "", form)


def _marked(tokens: str, forms: Sequence[str]) -> str:
    """A normal form with each mention of an option replaced by its mark, longest options first."""
    marked = f" {tokens} "
    known = {form: index for index, form in enumerate(forms) if form}
    for form, index in list(known.items()):
        if len(form) > 2 and form not in WEAK:
            known.setdefault(form + "s", index)
            if form.endswith("s"):
                known.setdefault(form[:-1], index)
    for form in sorted(known, key=len, reverse=True):
        index = known[form]
        weak = form in WEAK or re.fullmatch(r"[a-z]", form)
        mark = f" {{{index}}} " if weak else f" [{index}] "
        for _ in range(2):  # two in a row share a space, so one pass leaves every other
            marked = marked.replace(f" {form} ", mark)
    marked = re.sub(r" (?:an?|the)(?= [\[{]\d)", "", marked)
    marked = _LETTER.sub(r"(\1)", marked)
    return re.sub(r"\(([a-z])\)", lambda m: f"<{LETTERS.index(m[1])}>", marked).strip()


def _paraphrased(tokens: str, forms: Sequence[str], asked: str) -> int | None:
    """Rule 3: the only option with words of its own in the text, if with enough of them."""
    said, given = _content(tokens), _content(asked)
    words = [_content(form) for form in forms]
    hits = []
    for index, mine in enumerate(words):
        only = mine.difference(given, *words[:index], *words[index + 1 :])
        if found := len(only & said):
            enough = 2 * found >= len(only) and (found >= 2 or len(mine & said) >= 3)
            hits.append((index, enough))
    return hits[0][0] if len(hits) == 1 and hits[0][1] else None


def content_words(text: str) -> set[str]:
    """Stems of the different words of a text that are no function words."""
    return _content(normal(text))


def _content(form: str) -> set[str]:
    """Stems of the words of a normal form that are no function words."""
    return {_stem(word) for word in form.split() if word[0].isalnum() and word not in WEAK}


def _stem(word: str) -> str:
    """A word without its plural or verb ending, roughly."""
    for ending in ("ing", "es", "ed", "s", "e"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            return word[: -len(ending)]
    return word
