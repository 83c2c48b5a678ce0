"""Units, currencies and what is counted, as they stand round the number of an answer."""

import re

from turnwise.reward.plain_numbers import read_number

_UNIT = re.compile(
    r"(?<=[\d}%])(?P<words> ?[A-Za-z]+(?:[ -][A-Za-z]+){0,5})?(?:\^(?:\{(?P<braced>[23])\}|(?P<power>[23])))?"
    r"(?:/(?P<bottom>[A-Za-z]+)(?:\^(?:\{(?P<bottom_braced>[23])\}|(?P<bottom_power>[23])))?)?\Z"
)
_MODULUS = re.compile(r"\\p?mod(?:\{(\d+)\}| ?(\d+))|\(mod ?(\d+)\)|\(\\(?:b?mod|text\{mod\}) ?(\d+)\)")
_ORDINAL = re.compile(r"(\d+) ?(?:\^?\{?(?:st|nd|rd|th)\}?)")
_IN_FRONT = re.compile(r"(usd|us|eur|gbp|inr|rs)\b\.? ?(?=\d)|us(?=\d)", re.IGNORECASE)
_CURRENCIES = {
    r"\$": "dollar",
    "\N{EURO SIGN}": "euro",
    "\N{POUND SIGN}": "lb",  # "5 pounds" may be either, and is compared with both
    "\N{YEN SIGN}": "yen",
    "\N{INDIAN RUPEE SIGN}": "rupee",
}
_CODES = {"usd": "dollar", "us": "dollar", "eur": "euro", "gbp": "lb", "inr": "rupee", "rs": "rupee"}
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_NUMBER_WORDS = re.findall(
    "[a-z]+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety quadrillion quintillion lakh crore",
)
_OPERATIONS = frozenset(
    re.findall(
        "[a-z]+",
        "plus minus add added subtract subtracted subtracting multiplied multiply divided divide by over under above "
        "below choose mod modulo squared cubed factorial factorials log logarithm sqrt inverse reciprocal opposite "
        "negated than equal equals half halves pi and or i e not nor neither either but except without wrong incorrect "
        "maybe perhaps double doubled twice thrice triple tripled halved quadruple gross sixes twenties thirties",
    )
).union(_NUMBER_WORDS, (f"{word}s" for word in _NUMBER_WORDS))
_NAMES_OF_VALUES = frozenset(
    re.findall(
        "[a-z]+",
        "modulus remainder base root power exponent greater smaller least most between quarter quarters percentage to",
    )
)
"""These change the number in front of them, but may be part of the name of an answer."""
_FRACTION = re.compile(
    r"(?:first|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|[a-z]+teenth|[a-z]+tieth"
    r"|(?:hundred|thousand|[mbtr]+illion)th)s?"
)
_BEFORE_NOUNS = frozenset(["more", "less", "fewer", "negative"])
_LAST_ONLY = frozenset(["times", "point"])
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_SPELLINGS_OF_UNITS = (
    "mm millimeter millimetre",
    "cm centimeter centimetre",
    "m meter metre",
    "km kilometer kilometre",
    "in inch inches",
    "ft foot feet",
    "yd yard",
    "mi mile",
    "mg milligram",
    "g gram",
    "kg kilogram",
    "lb lbs pound",
    "oz ounce",
    "s sec second",
    "min minute",
    "h hr hour",
    "day",
    "week",
    "month",
    "year yr",
    "ml milliliter millilitre",
    "l liter litre",
    "gal gallon",
    "cent",
    "dollar usd",
    "euro eur",
    "rupee inr",
    "yen jpy",
    "degree deg",
    "radian rad",
    "mi/h mph",
    "km/h kph kmh kmph",
    "unit",
)
_UNITS = {
    name: spellings.split()[0]
    for spellings in _SPELLINGS_OF_UNITS
    for spelling in spellings.split()
    for name in (spelling, f"{spelling}s")
}


def is_operation(word: str) -> bool:
    """Whether a word makes another number of those beside it: an operator, a fraction, a scale or a number."""
    word = word.casefold()
    is_number = word.removesuffix("s") in _SCALES or _FRACTION.fullmatch(word) is not None
    return is_number or word in _OPERATIONS or word in _BEFORE_NOUNS or word == "times"


def currency(text: str) -> str:
    """The currency of a sign in an answer as it was given, before its normal form; "" without one."""
    return next((unit for sign, unit in _CURRENCIES.items() if sign in text), "")


def without_unit(text: str) -> tuple[str, str]:
    r"""A normal form without the unit of its number, and that unit in one spelling; "" where there is none.

    What is counted ("5 apples") is dropped and is no unit, and so is the place that "4th" is. The modulus of a
    residue is like a unit. Words that are part of the number stay, or are worked out: "2 million" is 2000000,
    "2 thirds" and "5 plus six" stay.
    """
    if place := _ORDINAL.fullmatch(text):
        return place[1], ""
    if (code := _IN_FRONT.match(text)) and read_number(text[code.end() :]) is not None:
        return text[code.end() :], _CODES[(code[1] or "us").casefold()]
    if text.endswith(("}", ")")) or text[-1:].isdigit():
        tail = text[-40:]
        if (modulus := next((m for m in _MODULUS.finditer(tail) if m.end() == len(tail)), None)) is not None:
            before = text[: len(text) - len(tail) + modulus.start()].strip()
            return (before, f"mod {modulus[modulus.lastindex or 0]}") if before else (text, "")
    found = _UNIT.search(text)
    if found is None or (found["words"] is None and found["bottom"] is None):
        return text, ""
    return _without_words(text, found)


def _without_words(text: str, found: re.Match[str]) -> tuple[str, str]:
    before, words = text[: found.start()].strip(), re.split("[ -]", (found["words"] or "").strip().casefold())
    power, bottom = found["braced"] or found["power"] or "", found["bottom"]
    if words == [""]:
        words = []
    is_joined = not (found["words"] or " ").startswith(" ")
    if is_joined and (len(words[0]) == 1 or words[0] not in _UNITS):
        return text, ""
    if words and (scale := words[0].removesuffix("s")) in _SCALES:
        number = read_number(before)
        if number is None or number.is_percent:
            return text, ""
        before = str(number.value * _SCALES[scale])
        words.pop(0)
    if bottom is None and len(words) > 1 and words[-2] == "per":
        bottom, words = words[-1], words[:-2]
    if words and words[0] == "percent" and bottom is None and not _change_the_number(words[1:]):
        return f"{before}%", ""
    if _change_the_number(words):
        return text, ""
    per = ""
    if bottom is not None:
        is_unit = bottom.casefold() in _UNITS
        if (len(bottom) < 3 and not (is_unit and words)) or is_operation(bottom) or not (is_unit or words):
            return text, ""
        per = f"/{_UNITS.get(bottom.casefold(), '')}{found['bottom_braced'] or found['bottom_power'] or ''}"
    if len(words) > 1 and words[0] in _POWERS:
        power = _POWERS[words.pop(0)]
    if len(words) == 1 and words[0] in _UNITS:
        unit = _UNITS[words[0]] + power
        return before, unit if unit in _CURRENCIES.values() else unit + per  # a price may leave out what it is per
    is_counted = all(len(word) > 1 for word in words) and (not words or len(words[0]) > 2 or words[0] in _UNITS)
    return (before, "") if is_counted and not power else (text, "")


def _change_the_number(words: list[str]) -> bool:
    """Whether the words behind a number are more than a unit or what is counted."""
    for place, word in enumerate(words):
        is_last = place == len(words) - 1
        if word in _BEFORE_NOUNS or word in _LAST_ONLY:
            if is_last == (word in _BEFORE_NOUNS):
                return True
        elif word in _NAMES_OF_VALUES or is_operation(word):
            return True
    return False
