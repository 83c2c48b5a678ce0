"""The process in which answers are read as mathematics, apart from the trainer: it may hang, swallow memory or crash.

It answers the questions of `turnwise.reward.grading_pool` one after another. Nothing else of the package is imported
but what reads and compares, so that a new process is ready in about a second.
"""

import json
import logging
import re
import resource
import signal
from collections.abc import Callable
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from typing import Any

_MAX_BYTES = 2 << 30
_DOLLAR = re.compile(r"\\?\$")
_PLAIN_PI = re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])")
_HIGH_POWER = re.compile(r"[)\]}]\s*(?:\^|\*\*)[{(\s]*\d{3}")
_DIFFERENCE = 1e-4  # far more than the six decimals to which math-verify rounds


def serve(descriptor: int) -> None:
    """Answers questions from the socket `descriptor` until it is closed."""
    start()
    with Connection(descriptor) as connection:
        while True:
            try:
                judge, answer, gold, timeout_s = json.loads(connection.recv_bytes())
            except EOFError:
                return
            connection.send_bytes(json.dumps(verdict(judge, answer, gold, timeout_s)).encode())


def start() -> None:
    """Prepares the process: limits its memory, imports math-verify, lets the time limit end it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it is for whoever asks: the end of that closes the socket
    logging.disable(logging.ERROR)
    _parse_in_two_stages()


def verdict(judge: str, answer: str, gold: str, timeout_s: float) -> bool | None:
    """What one of `JUDGES` says of `answer`; None if it cannot read what it was asked about.

    The limit is of processor time, so that a busy machine changes no grade. When it is reached the kernel ends the
    process, even inside a single long operation on huge integers and even if nobody waits for it any more.
    """
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    try:
        return JUDGES[judge](answer, gold)
    except Exception:  # the parser may raise anything on hostile text, which is not an answer then
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _graded(answer: str, gold: str) -> bool | None:
    """Whether `answer` equals `gold`, by their values or else by math-verify; None if that cannot read `gold`."""
    from math_verify import verify

    from turnwise.reward.names import is_equation
    from turnwise.reward.second_reading import certainly_equal

    by_value = certainly_equal(answer, gold)
    if by_value is not None:
        return by_value
    # Math-verify would expand the one, and take the right side of any equation for its value.
    if _HIGH_POWER.search(answer) or is_equation(answer) != is_equation(gold):
        return False
    gold_readings, readings = _parse(gold), _parse(answer)
    if gold_readings and readings and _differ(readings[0], gold_readings[0]):
        return False
    if verify(gold_readings, readings, allow_set_relation_comp=True, timeout_seconds=0):
        return True
    return None if _is_unread(gold_readings) else False


def _alone(answer: str, gold: str) -> bool | None:
    """What math-verify says as it comes; None if it cannot read one of the two."""
    from math_verify import parse, verify

    gold_readings, readings = (parse(f"${text.strip('$ ')}$", parsing_timeout=0) for text in (gold, answer))
    if verify(gold_readings, readings, timeout_seconds=0):
        return True
    return None if _is_unread(gold_readings) or _is_unread(readings) else False


def _reads(answer: str, gold: str) -> bool:
    """Whether math-verify can read `gold` and takes `answer` for it."""
    from math_verify import verify

    readings = _parse(gold)
    return not _is_unread(readings) and verify(readings, _parse(answer), timeout_seconds=0)


def _second(answer: str, gold: str) -> bool | None:
    """What the second grader says; None if it cannot read one of the two."""
    from turnwise.reward.second_reading import equal_readings

    return equal_readings(answer, gold)


JUDGES: dict[str, Callable[[str, str], bool | None]] = {
    "grader": _graded,
    "reads": _reads,
    "math_verify": _alone,
    "second": _second,
}


def _is_unread(readings: list[Any]) -> bool:
    return all(isinstance(reading, str) for reading in readings)


@lru_cache(maxsize=512)
def _parse(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    latex = _PLAIN_PI.sub(r"\\pi", _DOLLAR.sub("", answer.replace("**", "^")))
    # As one formula or not at all: by default the last number would be taken out of what cannot be read.
    return parse(f"${latex}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=0)


def _parse_in_two_stages() -> None:
    """Makes the parser of math-verify faster without changing what it reads.

    ANTLR's SLL prediction finds the same tree as its default, or an error, with much less work. Only after an error
    is a text parsed by the default.
    """
    from antlr4.atn.PredictionMode import PredictionMode
    from latex2sympy2_extended import latex2sympy2

    converter: Any = latex2sympy2._Latex2Sympy
    create_parser, parse = converter.create_parser, converter.parse

    def parse_in_stages(self: Any, text: str) -> Any:
        def create(mode: Any, text: str) -> Any:
            parser = create_parser(self, text)
            parser._interp.predictionMode = mode
            return parser

        self.create_parser = partial(create, PredictionMode.SLL)
        try:
            return parse(self, text)
        except Exception:  # the parser's own errors have no type of their own
            self.create_parser = partial(create, PredictionMode.LL)
            return parse(self, text)

    converter.parse = parse_in_stages


def _differ(one: Any, other: Any) -> bool:
    """Whether two expressions certainly differ, since their values do; spares the attempts to prove them equal.

    False for all that has no plain value: relations, sets, percentages, products of letters that may be a word.
    """
    from sympy import Expr, Float, Integral, Limit, Mul, Product, Sum, Symbol, UnevaluatedExpr

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    for expression in (one, other):
        is_word = all(isinstance(factor, Symbol) or not factor.args for factor in Mul.make_args(expression))
        if expression.has(UnevaluatedExpr, Integral, Limit, Product, Sum) or (is_word and expression.free_symbols):
            return False
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    point: dict[Any, Any] = {symbol: Float(0.5773 + 0.2311 * place) for place, symbol in enumerate(symbols, start=1)}
    values = []
    for expression in (one, other):
        value = (expression.subs(point) if symbols else expression).evalf(15)
        if not value.is_number or value.is_finite is not True:
            return False
        values.append(complex(value))
    size = max(1.0, *(abs(value) for value in values))
    return abs(values[0] - values[1]) > _DIFFERENCE * size
