"""Answers that are words, choice letters, times of day or numbers of another base: none of them needs algebra."""

import re
from collections.abc import Hashable

from turnwise.reward.plain_numbers import read_number

_CHOSEN = re.compile(r"(?:(?:option|choice) ?)?\(?([A-Ja-j])(?:[).:]+(.*))?", re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"\b(?:and|or|not)\b|(?<![A-Za-z])[A-J](?![A-Za-z])")
_WORDS = re.compile(r"(?:no|[a-z]{3,})(?: [a-z]+)*", re.IGNORECASE)  # shorter ones are products: xy
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{2})", re.IGNORECASE)
_YES_OR_NO = {"yes": True, "true": True, "no": False, "false": False}
_FIRST_WORD = re.compile(r"([a-z]+)(?:[,.;:!](?: .*)?)?", re.IGNORECASE | re.DOTALL)
_SYNONYMS = (
    frozenset(
        {r"\emptyset", r"\varnothing", r"\{\}", "no solution", "no solutions", "empty set", "no real solutions", "none"}
    ),
    frozenset({"dne", "does not exist", "undefined"}),
    frozenset(
        {
            *(r"\mathbb r", r"\mathbb{r}", r"(-\infty,\infty)", r"(-\infty,+\infty)", "all real numbers"),
            *("all reals", "all real values", "real numbers", "set of all real numbers", "set of real numbers"),
        }
    ),
)
_BASE = re.compile(r"([0-9A-Za-z]+)(?:_(?:(\d)|\{(\d+)\})|\(? ?base (\d+)\)?)")
_TIME = re.compile(r"(\d{1,2})(?::(\d\d))? ?(?:([ap])\.?m\.?)?", re.IGNORECASE)


def is_of_words(form: str) -> bool:
    """Whether a normal form is of a kind that is decided here: words, a time of day, a number of another base."""
    return bool(
        _WORDS.fullmatch(form)
        or _BASE.fullmatch(form)
        or _TIME.fullmatch(form)
        or any(form.casefold() in words for words in _SYNONYMS)
    )


def words_key(form: str) -> Hashable:
    """Equal for normal forms that are the same words, yes or no; None for everything else."""
    small = _ARTICLE.sub("", form.casefold(), count=1)
    if (first := _FIRST_WORD.fullmatch(small)) and first[1] in _YES_OR_NO:
        return f"{_YES_OR_NO[first[1]]}"
    for words in _SYNONYMS:
        if small in words:
            return min(words)
    return small if _WORDS.fullmatch(form) else None


def by_words(answer: str, gold: str) -> bool | None:
    """The verdict on words, choice letters, times of day and numbers of another base; None for everything else."""
    small_answer, small_gold = _ARTICLE.sub("", answer.casefold(), count=1), _ARTICLE.sub("", gold.casefold(), count=1)
    if any(small_answer in words and small_gold in words for words in _SYNONYMS):
        return True
    if len(gold) == 1 and gold in "ABCDEFGHIJ" and (chosen := _CHOSEN.fullmatch(answer)):
        return chosen[1].upper() == gold and not _OTHER_CHOICE.search(chosen[2] or "")
    if small_gold in _YES_OR_NO:
        first = _FIRST_WORD.fullmatch(small_answer)
        said = {_YES_OR_NO[word] for word in re.findall("[a-z]+", small_answer) if word in _YES_OR_NO}
        return first is not None and said == {_YES_OR_NO[small_gold]} and first[1] in _YES_OR_NO
    if _WORDS.fullmatch(gold):
        return small_answer == small_gold
    if _WORDS.fullmatch(answer) and read_number(gold) is not None:
        return False
    times = [_TIME.fullmatch(text) for text in (answer, gold)]
    if any(time is not None and time[3] for time in times):
        return all(times) and _minutes(times[0]) == _minutes(times[1])
    bases = [_BASE.fullmatch(text) for text in (answer, gold)]
    if bases[1] is not None and gold[0].isdigit():
        if bases[0] is None:
            return answer == bases[1][1]
        return bases[0][1].casefold() == bases[1][1].casefold() and _last(bases[0]) == _last(bases[1])
    if bases[0] is not None and answer[0].isdigit() and read_number(gold) is not None:
        return False
    return None


def _last(found: re.Match[str]) -> str:
    return next(group for group in found.groups()[1:] if group is not None)


def _minutes(time: re.Match[str] | None) -> int | None:
    """Since midnight; a time without am or pm is one of 24 hours."""
    if time is None:
        return None
    hour = int(time[1])
    if time[3]:
        hour = hour % 12 + (12 if time[3].casefold() == "p" else 0)
    return 60 * hour + int(time[2] or 0)
