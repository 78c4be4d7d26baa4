"""Quality checks of rationales by simple text rules; no model judges them.

Notebook 02 counts what they find; `as_read` is a rationale as students learn it (`learn_from` and
`cleaning`).
"""

import re
from collections.abc import Sequence

from tinyllm.data import release
from tinyllm.data.micro import ABSTAINS
from tinyllm.data.question import Question
from tinyllm.models.extract import mentioned
from tinyllm.prompts import STEP_BY_STEP
from tinyllm.teachers.store import Record

_CLOSERS = "[\"'”’»)\\]}*_」』]*"
_SENTENCE = rf"(?:[.!?…؟۔।]{_CLOSERS}(?=\s|$)|[。！？]{_CLOSERS})"
# A line that starts another question: `Question:`, `Q2.`, `### Question 7`, or just `Question`.
INVENTED = re.compile(
    r"(?im)^[ \t#*]*(?:example |next |another )?"
    # A bare `Exercise` or `Problem` may be an answer.
    r"(?:question|ques|q|(?:exercise|problem)(?=(?: no\.?)? ?#?\d|[ \t*]*:))"
    r"(?: no\.?)? ?#?\d*(?:[ \t*]*[:.)]|[ \t*#]*$)"
)
# One word five times in a row, or two to eight words three times.
_LOOP = re.compile(r"\b(?:(\w+ )\1{4}|((?:\w+ ){2,8})\2{2})")


def says_nothing(text: str) -> bool:
    """True if a rationale has no words besides the prompt's echo and the answer sentence."""
    rest = release.CLOSING.sub("", text).replace(STEP_BY_STEP.rstrip("."), "")
    return not re.search(r"\w", rest)


def abstains(text: str) -> bool:
    """True if a teacher only says that it does not know."""
    return text.strip() == ABSTAINS


def cut_off(text: str) -> bool:
    """True if a text ends mid-sentence; a closing `Thus, the answer is (x) TEXT` is ignored."""
    rest = release.CLOSING.sub("", text.strip()).strip()
    return bool(rest) and not re.search(rf"(?:{_SENTENCE}|[”…])$", rest)


def repeated(text: str) -> bool:
    """True if a sentence (or line) of 3 words or more occurs twice, or words repeat in a loop.

    Case, punctuation, and text from an invented question on are ignored.
    """
    text = own_words(text).casefold()
    sentences = [re.findall(r"\w+", part) for part in re.split(rf"{_SENTENCE}|\n+", text)]
    long = [tuple(words) for words in sentences if len(words) >= 3]
    return len(set(long)) < len(long) or bool(_LOOP.search(re.sub(r"\W+", " ", f"{text} ")))


def own_words(text: str) -> str:
    """A rationale without the prompt's echo, the answer sentence and invented questions."""
    text = release.CLOSING.sub("", text).strip().removeprefix(STEP_BY_STEP)
    return INVENTED.split(text, maxsplit=1)[0].strip()


def names(text: str, question: Question) -> str:
    """The only option that a rationale mentions, `gold` or `other`; `none` for none or several."""
    option = mentioned(own_words(text), question.options)
    return "none" if option is None else "gold" if option == question.answer else "other"


def holds(text: str, question: Question, cut: bool = False) -> int:
    """How many of four criteria a rationale meets: it is not empty; it is not cut off and invents
    no question; it repeats nothing; it mentions only the gold option.

    cut: its end is known to be cut off (finish reason `length`).
    """
    if abstains(text) or says_nothing(text):
        return 0
    whole = not (cut or cut_off(text) or INVENTED.search(text))
    return 1 + whole + (not repeated(text)) + (names(text, question) == "gold")


def as_read(record: Record, question: Question, part: str, cleaning: Sequence[str]) -> str:
    """A rationale after `learn_from` (part) and `cleaning`; empty if there is nothing to learn."""
    texts = {"answer": record.text, "both": f"{record.thinking}\n{record.text}"}
    texts["thinking"] = record.thinking or record.text  # the text, if there is no thinking
    return cleaned(texts[part], question, cleaning) if record.text else ""


def cleaned(text: str, question: Question, cleaning: Sequence[str]) -> str:
    """A rationale after the parameter `cleaning`, empty if it is dropped.

    repair: remove an invented question and what follows, then an unfinished last sentence, unless
        it is the only one. Texts that end with the release's answer sentence are not changed.
    The others drop a rationale, checked after the repair: drop-empty (see `says_nothing`), drop-cut
        (`cut_off`), drop-wrong (it `names` another option than gold), drop-repeated (`repeated`).
    """
    text = text.strip()
    if "repair" in cleaning and not release.CLOSING.search(text):
        text = INVENTED.split(text, maxsplit=1)[0].strip()
        whole = re.match(rf"(?s).*{_SENTENCE}", text)
        text = whole[0].strip() if whole and cut_off(text) else text
    drops = {
        "drop-empty": says_nothing(text),
        "drop-cut": cut_off(text),
        "drop-wrong": names(text, question) == "other",
        "drop-repeated": repeated(text),
    }
    return "" if any(drops.get(rule) for rule in cleaning) else text
