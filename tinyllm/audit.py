"""What teachers' rationales are worth: facts of each text, and tables of them.

    facts(text, example)        one text
    table(examples, texts)      a row a teacher
    overlap(examples, texts)    a row a pair of teachers
    recorded()                  a row a dataset and teacher, over what the paper's release holds

    verdicts()                  a row a test question and teacher of the release

    python -m tinyllm.audit     writes results/rationale_audit.csv, rationale_overlap.csv and
                                rationale_verdicts.parquet

`texts` is what any teachers wrote: by teacher, by question id, None (or no entry) where one wrote
nothing. Everything is decided by rules that are written here and in `tinyllm.extract`; no model
judges. The predicates (`cut_off`, `invents`, `repeats`, `foreign`, `argues_for_other`) are what the
parameter `cleaning` filters by.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binom

from tinyllm import extract, paths, release, results, stats
from tinyllm.data import Example
from tinyllm.paper import DATASETS
from tinyllm.prompts import STEP_BY_STEP

Texts = Mapping[str, Mapping[str, str | None]]

FILE, OVERLAP_FILE = "rationale_audit.csv", "rationale_overlap.csv"
# Counts of `table`. The last five add up to its rows.
TROUBLES = ("cut_off", "invents", "repeats", "foreign")
VERDICTS = ("gold", "other", "untold")
MEASURES = (*TROUBLES, *VERDICTS, "empty", "missing")

SHORTEST = 3  # words of a sentence whose repetition counts
LONGEST_LOOP = 8  # words
FOREIGN_WORDS = 3  # different function words of one other language

# Function words that English prose and biomedical names do not use.
_FUNCTION_WORDS = {
    "German": "und nicht ist sind wir uns wird wurde einen einem einer eine dass für auch oder "
    "schritt aus dem zum zur",
    "French": "les une dans pour avec est sont nous vous qui mais cette ces aux il elle très",
    "Spanish": "los las una para con por pero como está esta este más son que muy del el",
}
# LLaMA 2 often begins, right after the prompt's `Let's think step by step.`, with a Polish,
# German or Spanish word or the stump of one, and goes on in English: most often the name of a
# month (sierpień, kwiecień, październik, styczeń), mended English on German (`Einzelness`).
_STUMP = re.compile(
    r"(?i)(?:sierp|kwiet|paździer|stycz|listopad|szóst|octubre|ottobre|"
    r"einzeln|unterscheidung|hinweis|begriffe?|geprüf|prüf|zwar|nahm\b)"
)
_CLAUSE_END = re.compile(r"[.!?]+(?:\s|$)|\n+")


@dataclass(frozen=True)
class Facts:
    """What is to be said about one rationale.

    missing: there is none. empty: it only repeats the prompt. cut_off, invents, repeats, foreign:
    see the functions of these names. words: its length without the sentence that the release
    appends to FLAN-T5's; 0 where missing or empty. verdict: `gold`, `other` or `untold`, the option
    that it argues for; empty where missing or empty.
    """

    missing: bool = False
    empty: bool = False
    cut_off: bool = False
    invents: bool = False
    repeats: bool = False
    foreign: bool = False
    words: int = 0
    verdict: str = ""


def facts(text: str | None, example: Example) -> Facts:
    """The facts of one teacher's text about one question; None where the teacher wrote none."""
    if text is None:
        return Facts(missing=True)
    if release.says_nothing(text):
        return Facts(empty=True)
    own = extract.without_closing(text, example.options, example.answer)
    return Facts(
        cut_off=cut_off(text),
        invents=invents(text),
        repeats=repeats(text),
        foreign=foreign(text),
        words=len(own.split()),
        verdict=verdict(text, example),
    )


def verdict(text: str, example: Example) -> str:
    """Which option a rationale argues for: `gold`, `other`, or `untold` where that cannot be told.

    A closing sentence with the gold answer, which the release appends, is left out: the rationale
    itself is judged.
    """
    own = extract.without_closing(text, example.options, example.answer)
    argued = extract.argued_for(own, example.options, example.question)
    if argued is None:
        return "untold"
    return "gold" if argued == example.answer else "other"


def argues_for_other(text: str, example: Example) -> bool:
    """True if a rationale argues for an option that is not gold; False where it cannot be told."""
    return verdict(text, example) == "other"


def cut_off(text: str) -> bool:
    """True if a text ends mid-sentence: with something, but not with `.`, `!` or `?`.

    A closing `Thus, the answer is (x) TEXT` is whole without a full stop, so what is before counts.
    """
    own = release.CLOSING.sub("", text.strip()).strip()
    return bool(own) and not re.search(r"[.!?][\"')\]]*$", own)


def invents(text: str) -> bool:
    """True if a text goes on to invent a further question (a line `Question:`, `Q2.`, ...)."""
    return bool(extract.INVENTED.search(text))


def repeats(text: str) -> bool:
    """True if a sentence (a line, of 3 words or more) stands twice, or words go round in a loop.

    A loop is a run of up to 8 words that follows itself twice or more, and of 5 words in all. Only
    what precedes an invented question is looked at. Case and punctuation do not count.
    """
    own = release.CLOSING.sub("", extract.own(text))
    seen = set()
    for sentence in _CLAUSE_END.split(own):
        words = tuple(re.findall(r"\w+", sentence.casefold()))
        if len(words) >= SHORTEST:
            if words in seen:
                return True
            seen.add(words)
    return _loops(re.findall(r"\w+", own.casefold()))


def _loops(words: Sequence[str]) -> bool:
    for size in range(1, LONGEST_LOOP + 1):
        run = 0
        for before, word in zip(words, words[size:], strict=False):
            run = run + 1 if before == word else 0
            if run >= max(2 * size, 4):
                return True
    return False


def foreign(text: str) -> bool:
    """True if a text, which ought to be English, holds another script or another language.

    Another script: any letter that is neither Latin nor Greek (Greek is common in biomedical
    English, as are the micro sign and letters of formulas). Another language: three different
    German, French or Spanish function words, or, right after the prompt's echo, one of the Polish
    and German words with which LLaMA 2 often begins. UTF-8 that was read as Latin-1 (all of the
    release's riddle records were) is read aright first. Other Latin words in the middle of an
    English text are not noticed.
    """
    text = _decoded(text)
    if not text.isascii() and any(map(_other_script, set(text))):
        return True
    if _STUMP.match(text.strip().removeprefix(STEP_BY_STEP).lstrip()):
        return True
    words = set(re.findall(r"[^\W\d_]+", text.casefold()))
    return any(len(words & known) >= FOREIGN_WORDS for known in _function_words().values())


@cache
def _function_words() -> dict[str, set[str]]:
    return {language: set(words.split()) for language, words in _FUNCTION_WORDS.items()}


@cache
def _other_script(letter: str) -> bool:
    plain = unicodedata.normalize("NFKC", letter)[0]  # a micro sign is a Greek letter, and so on
    known = ("LATIN", "GREEK", "MODIFIER", "COMBINING")
    return plain.isalpha() and not unicodedata.name(plain, "").startswith(known)


def _decoded(text: str) -> str:
    """A text in which runs of UTF-8 bytes that were read as Latin-1 are characters again."""

    def mended(run: re.Match) -> str:
        try:
            return run[0].encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            return run[0]

    return re.sub("[\u0080-\u00ff]{2,}", mended, text)


# --- tables ------------------------------------------------------------------------------------


def table(examples: Sequence[Example], texts: Texts) -> pd.DataFrame:
    """A row a teacher: what its rationales for these questions are worth.

    Columns: teacher; rows (questions); counts of rationales: missing, empty, cut_off, invents,
    repeats, foreign, and, of those neither missing nor empty, gold, other and untold; words_q25,
    words (median), words_q75 (of those, nan where there are none). One rationale may have several
    troubles. `shares` gives the counts as shares with their intervals.
    """
    lines = []
    for teacher, written in texts.items():
        all_facts = [facts(written.get(example.id), example) for example in examples]
        words = [one.words for one in all_facts if one.verdict]
        line: dict = {"teacher": teacher, "rows": len(all_facts)}
        for measure in ("missing", "empty", *TROUBLES):
            line[measure] = sum(getattr(one, measure) for one in all_facts)
        for measure in VERDICTS:
            line[measure] = sum(one.verdict == measure for one in all_facts)
        quartiles = np.percentile(words, [25, 50, 75]) if words else [np.nan] * 3
        lines.append(line | dict(zip(("words_q25", "words", "words_q75"), quartiles, strict=True)))
    return pd.DataFrame(lines)


def shares(audit: pd.DataFrame, measures: Iterable[str] = MEASURES) -> pd.DataFrame:
    """The counts of `table` or `recorded` as shares of all questions, a row a measure.

    Columns: what tells the rows of `audit` apart (dataset, split, teacher), measure, count, rows,
    share, low, high (Wilson's 95% interval).
    """
    keys = [key for key in ("dataset", "split", "teacher") if key in audit]
    lines = []
    for row in audit.to_dict("records"):
        for measure in measures:
            count, rows = row[measure], row["rows"]
            low, high = stats.wilson(count, rows)
            line = {key: row[key] for key in keys} | {"measure": measure, "count": count}
            lines.append(line | {"rows": rows, "share": count / rows, "low": low, "high": high})
    return pd.DataFrame(lines)


def overlap(examples: Sequence[Example], texts: Texts, seed: int = 0) -> pd.DataFrame:
    """How alike two teachers' rationales of the same question are, a row a pair of teachers.

    Likeness is Jaccard's: of the different content words that either uses, the share that both do
    (function words and endings left out; the prompt's echo, an appended answer and what follows an
    invented question too). Columns: teachers (`a | b`), rows (questions for which both wrote
    something), q25, overlap (median), q75, low, high (95% interval of the median, by order
    statistics), chance_q25, chance, chance_q75: the same where the second text is that of another
    question, drawn at random.
    """
    lines = []
    for one, other in combinations(texts, 2):
        pairs = []
        for example in examples:
            both = (texts[one].get(example.id), texts[other].get(example.id))
            if all(text is not None and not release.says_nothing(text) for text in both):
                pairs.append(tuple(_words_of(text, example) for text in both))
        if len(pairs) < 2:
            continue
        order = random.Random(seed).sample(range(len(pairs)), len(pairs))
        partner = dict(zip(order, order[1:] + order[:1], strict=True))  # never the question itself
        same = np.sort([_jaccard(a, b) for a, b in pairs])
        random_other = [_jaccard(a, pairs[partner[i]][1]) for i, (a, _) in enumerate(pairs)]
        below = int(binom.ppf(0.025, len(same), 0.5))
        line = {"teachers": f"{one} | {other}", "rows": len(pairs)}
        line |= dict(zip(("q25", "overlap", "q75"), np.percentile(same, [25, 50, 75]), strict=True))
        line |= {"low": same[max(below - 1, 0)], "high": same[-max(below, 1)]}
        chance = np.percentile(random_other, [25, 50, 75])
        lines.append(line | dict(zip(("chance_q25", "chance", "chance_q75"), chance, strict=True)))
    return pd.DataFrame(lines)


def _words_of(text: str, example: Example) -> set[str]:
    text = extract.without_closing(text, example.options, example.answer)
    return extract.content_words(extract.own(text))


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one | other else 0.0


# --- the release -------------------------------------------------------------------------------


def recorded(datasets: Sequence[str] = DATASETS, split: str = "train") -> pd.DataFrame:
    """`table` of the paper's recorded rationales: a row a dataset and teacher."""
    return _over(datasets, split, table)


def recorded_overlap(datasets: Sequence[str] = DATASETS, split: str = "train") -> pd.DataFrame:
    """`overlap` of the paper's recorded rationales: a row a dataset (none for piqa)."""
    return _over(datasets, split, overlap)


def verdicts(datasets: Sequence[str] = DATASETS, split: str = "test") -> pd.DataFrame:
    """Which option each recorded rationale argues for: a row a question and teacher.

    Of test, where no student ever reads them: they tell which questions the teachers, who had the
    gold answer before them, could argue for. Columns: dataset, id, teacher, verdict (of `verdict`;
    `none` where there is no rationale).
    """

    def each(examples: Sequence[Example], texts: Texts) -> pd.DataFrame:
        rows = [
            {
                "id": example.id,
                "teacher": teacher,
                "verdict": facts(written.get(example.id), example).verdict or "none",
            }
            for teacher, written in texts.items()
            for example in examples
        ]
        return pd.DataFrame(rows)

    return _over(datasets, split, each).drop(columns="split")


def _over(datasets: Sequence[str], split: str, made) -> pd.DataFrame:
    frames = []
    for dataset in datasets:
        examples = release.release_examples(dataset, split)
        columns = zip(*release.release_rationales(dataset, split), strict=True)
        ids = [example.id for example in examples]
        texts = {
            teacher: dict(zip(ids, column, strict=True))
            for teacher, column in zip(release.TEACHERS, columns, strict=True)
        }
        frame = made(examples, texts)
        frame.insert(0, "dataset", dataset)
        frame.insert(1, "split", split)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Write and print the audit of the release."""
    folder = paths.results()
    folder.mkdir(parents=True, exist_ok=True)
    for file, frame in ((FILE, recorded()), (OVERLAP_FILE, recorded_overlap())):
        frame.to_csv(folder / file, index=False, float_format="%.6g", lineterminator="\n")
        print(frame.to_string(index=False, float_format="%.3g"))
        print(f"written: {paths.shown(folder / file)}")
    verdicts().to_parquet(folder / results.VERDICTS, index=False, compression="zstd")
    print(f"written: {paths.shown(folder / results.VERDICTS)}")


if __name__ == "__main__":
    main()
