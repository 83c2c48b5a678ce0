"""The verdicts of the grader on written forms, hostile answers and real gold answers."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turnwise.reward import grading, grading_pool
from turnwise.reward.grading import Grader, ungradable
from turnwise.types import Message, Problem

EQUAL = [
    (r"\sqrt{49}", "7"),
    ("2^3", "8"),
    ("2**3", "8"),
    ("3+4", "7"),
    ("x=7", "7"),
    ("the answer is 7", "7"),
    ("7cm", "7"),
    (r"8\times 10^3", "8000"),
    ("pi/2", r"\frac{\pi}{2}"),
    ("2*sqrt(3)", r"2\sqrt{3}"),
    ("1.41421356", r"\sqrt{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("1+x", "x+1"),
    ("yx", "xy"),
    ("9i+6", "6+9i"),
    ("1,-2", "-2,1"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac{2}{2} \\ 2 \end{pmatrix}"),
    (r"so \boxed{6}, or rather \boxed{2^3}", "8"),
    # fractions, decimals, mixed numbers
    (r"\dfrac{6}{8}", r"\frac{3}{4}"),
    ("6/8", "0.75"),
    (r"\frac 68", "3/4"),
    (r"-\frac{3}{7}", r"\frac{-3}{7}"),
    (r"\frac{3}{-7}", r"-\frac{3}{7}"),
    (r"3\frac{1}{2}", r"\frac{7}{2}"),
    ("3½", "3.5"),
    ("2.50", "2.5"),
    ("-0", "0"),
    ("-0.0", "0"),
    # percent
    (r"12.5\%", "0.125"),
    ("12.5 percent", r"12.5\%"),
    (r"33\frac{1}{3}\%", r"\frac{100}{3}\%"),
    # units, degrees, currency, counted things
    ("14 cm", "14"),
    ("14cm", r"14\text{ cm}"),
    (r"14\ \mathrm{cm}^2", r"14 \mbox{ square centimeters}"),
    ("14 square feet", r"14\text{ ft}^2"),
    ("35°", r"35^{\circ}"),
    ("35 degrees", r"35^\circ"),
    (r"\$4.50", "4.5"),
    ("$4.50", r"\$4.50"),
    ("4.50 dollars", r"\$4.5"),
    ("€20", "20"),
    ("The answer is 5 apples.", "5"),
    ("So the final answer is: $5$", "5"),
    (r"Answer: \boxed{5}", "5"),
    ("2 million", "2,000,000"),
    ("3 dozen eggs", "36"),
    # thousands, scientific notation
    ("1,234,567", "1234567"),
    (r"12{,}500 \text{ people}", "12500"),
    (r"3.2 \times 10^{4}", "32000"),
    ("3.2e4", "32,000"),
    (r"5\cdot 10^{-3}", "0.005"),
    ("7×10³", "7000"),
    # roots, pi, logarithms, powers
    (r"\sqrt{72}", r"6\sqrt{2}"),
    ("6√2", r"6\sqrt2"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
    (r"\sqrt[3]{54}", r"3\sqrt[3]{2}"),
    (r"\frac{2}{1+\sqrt{5}}", r"\frac{\sqrt{5}-1}{2}"),
    ("3π/4", r"\frac{3\pi}{4}"),
    (r"\frac34\pi", r"\frac{3\pi}{4}"),
    ("2.8284271247", r"2\sqrt{2}"),
    (r"\log_2 32", "5"),
    (r"2^{10}", "1024"),
    ("5!", "120"),
    (r"\binom{6}{2}", "15"),
    # expressions
    ("3 + 2x", "2x+3"),
    ("(x-1)(x+4)", "x^2+3x-4"),
    (r"\frac{x}{2}+\frac{1}{2}", r"\frac{x+1}{2}"),
    ("ab^2", "b^2a"),
    (r"4x(x+1)", r"4x^2+4x"),
    (r"\frac{a^2-b^2}{a-b}", "a+b"),
    (r"\tan x", r"\frac{\sin x}{\cos x}"),
    # plus-minus, complex numbers
    (r"2\pm\sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}"),
    ("4 - 3i", "-3i+4"),
    (r"\frac{1+i}{2}", r"\frac12+\frac12i"),
    # lists, sets, tuples, matrices
    ("4, 9", "9,4"),
    ("4 and 9", "4,9"),
    ("x=4 or x=9", "4, 9"),
    (r"\{9, 4\}", r"\left\{4, 9\right\}"),
    ("4,9", r"\{4,9\}"),
    ("(4, -9)", r"\left(4,-9\right)"),
    (r"\left(\frac{2}{4}, 3\right)", r"(\frac12, 3)"),
    (r"\langle 4, 9 \rangle", "(4,9)"),
    (r"\begin{bmatrix} 4 \\ 0.5 \end{bmatrix}", r"\begin{pmatrix} 4 \\ \frac{1}{2} \end{pmatrix}"),
    (r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"\begin{pmatrix}a&b\\c&d\end{pmatrix}"),
    # intervals, inequalities, infinity
    (r"[1, \infty)", r"\left[1,\infty\right)"),
    ("[1,∞)", r"[1,\infty)"),
    (r"x \ge 1", r"[1,\infty)"),
    (r"-3 < x \leq 2", "(-3,2]"),
    (r"(3,4)\cup(1,2]", r"(1,2]\cup(3,4)"),
    (r"x \in (1,2]", "(1,2]"),
    (r"+\infty", r"\infty"),
    # equations
    ("x=-5", "-5"),
    ("-5", "x = -5"),
    (r"\text{Area} = 12", "12"),
    ("f(x)=x^2+1", "x^2+1"),
    ("3x+1", "y=3x+1"),
    ("y = 3x + 1", "y=1+3x"),
    (r"2 \cdot 21 = 42", "42"),
    # other bases
    ("132_5", "132_{5}"),
    ("132", "132_5"),
    ("132 (base 5)", "132_5"),
    # times of day, words, letters
    ("4:30 p.m.", "4:30 PM"),
    ("16:30", "4:30 pm"),
    ("YES.", "yes"),
    ("Yes, because both are even.", "yes"),
    ("False", "no"),
    ("(B)", "B"),
    ("B.", r"\text{(B)}"),
    ("B) 17 apples", "B"),
    ("b", "(B)"),
    ("an odd number", "odd number"),
    ("no real solutions", r"\emptyset"),
    ("−5", "-5"),
    (r"first \boxed{3}, then \boxed{\frac{6}{2}}", r"3"),
    # names in front
    ("x=1,y=2", "y=2,x=1"),
    ("x = 1, y = 2", "(1,2)"),
    ("1, 2", "x=1,y=2"),
    ("x=3,1", "1,3"),
    ("x=3 or x=1", "x=1,3"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("AB=5", "5"),
    (r"\angle ABC = 35^\circ", "35"),
    ("Total cost = 5", "5"),
    ("x-coordinate = 5", "5"),
    ("P(A)=1/2", "0.5"),
    ("5=x", "5"),
    ("x = 2+3 = 5", "5"),
    ("4,5,6", "(4,5,6)"),
    # units, currencies and residues
    ("10 m/s", "10"),
    ("10 km/h", "10"),
    (r"10\,\text{m/s}", "10"),
    (r"5\,\mathrm{m}", r"5\text{ m}"),
    ("60 miles/hour", "60"),
    ("60 mph", r"60\text{ miles per hour}"),
    (r"\$5/hour", "5"),
    (r"\$5 per hour", r"\$5"),
    ("USD 12", r"\$12"),
    ("Rs. 12", "12"),
    ("12¢", r"12 \text{ cents}"),
    ("₹12", "12"),
    ("£5", "5 pounds"),
    ("5€", "5 euros"),
    ("5 more apples", "5"),
    ("5 times", "5"),
    ("7 dozens", "84"),
    (r"17 \pmod{20}", "17"),
    ("17 (mod 20)", r"17 \pmod{20}"),
    (r"x \equiv 17 \pmod{20}", "17"),
    # marks, lead-ins, places, sets
    ("4th", "4"),
    (r"4^{\text{th}}", "4"),
    ("**5**", "5"),
    ("**Answer:** 5", "5"),
    ("The answer is **5**.", "5"),
    ("`5`", "5"),
    (r"\underline{5}", "5"),
    ("1 024", "1024"),
    (r"\text{The answer is }5", "5"),
    ("all real numbers", r"\mathbb{R}"),
    ("3:2", r"\frac{3}{2}"),
]

UNEQUAL = [
    (None, "7"),
    ("7 or 8", "8"),
    ("7, 8", "8"),
    ("17,18", "18"),
    (r"\frac{3}{4} or 7", "7"),
    (r"so \boxed{8}, or rather \boxed{6}", "8"),
    ("2x", "7"),
    ("x", "y"),
    ("[1,2)", "(1,2)"),
    ("(1,2)", "(2,1)"),
    (r"\sqrt{48}", "7"),
    ("I do not know", "7"),
    ("1/0", "7"),
    (r"\infty", "7"),
    ("nan", "7"),
    ("\x00", "7"),
    (r"\frac{4}{3}", r"\frac{3}{4}"),
    ("0.67", r"\frac{2}{3}"),
    ("0.75001", r"\frac{3}{4}"),
    ("3.14", r"\pi"),
    ("1.73", r"\sqrt{3}"),
    (r"31\frac{1}{2}", "3.5"),
    ("5%", "0.5"),
    ("14 cm", r"14\text{ cm}^2"),
    ("14 meters", r"14\text{ feet}"),
    ("36 cents", r"\$36"),
    ("2 million", "2"),
    ("12,500", "12.5"),
    ("1,234", "1,235"),
    (r"3.2\times 10^4", "3200"),
    (r"\sqrt{8}", r"\sqrt{2}"),
    (r"\sqrt{-4}", "2"),
    ("2x+3", "2y+3"),
    ("2x-3", "3-2x"),
    (r"x^2+1", r"x^2-1"),
    (r"\frac{x}{2}+1", r"\frac{x+1}{2}"),
    (r"2+\sqrt{3}", r"2\pm\sqrt{3}"),
    ("4+3i", "4-3i"),
    ("i", "-i"),
    ("4", "4,9"),
    ("4, 9, 16", "4, 9"),
    ("4 or 9", "9"),
    ("9 or maybe 10", "9"),
    (r"\{4\}\cup\{9\}", "9"),
    ("(9,4)", "(4,9)"),
    ("(4,9,1)", "(4,9)"),
    ("(4,9]", "(4,9)"),
    ("[4,9]", "(4,9)"),
    (r"(1,2)\cup(3,4)", "(1,4)"),
    (r"x > 1", r"[1,\infty)"),
    (r"x \ge 1", r"(-\infty,1]"),
    (r"-\infty", r"\infty"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("y=5", "x=5"),
    ("y=3x-1", "y=3x+1"),
    ("8 = 7", "7"),
    ("x = 8 = 7", "7"),
    ("132_6", "132_5"),
    ("132_5", "132"),
    ("42", "132_5"),
    ("4:30 am", "4:30 pm"),
    ("4:30", "4:30 pm"),
    ("yes and no", "yes"),
    ("Not yes", "yes"),
    ("yes", "no"),
    ("(A) or (B)", "B"),
    ("A, B", "B"),
    ("C) 17", "B"),
    ("even", "odd"),
    (r"\boxed{3} and then \boxed{4}", "3"),
    (r"\int_0^1 2x\,dx", "1"),
    (r"\sum_{k=1}^{3} k", "6"),
    (r"\lim_{x\to 0}\frac{\sin x}{x}", "1"),
    ("5 6", "30"),
    ("five", "5"),
    ("the question asks for 5, I say 6", "5"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    ("-3", "3"),
    ("|-3|-1", "3"),
    ("?", "3"),
    (r"\text{none}", "3"),
    # words that change the number
    *(
        (f"5 {words}", "5")
        for words in (
            "plus six",
            "minus two",
            "times ten",
            "divided by two",
            "tenths",
            "hundredths",
            "squared",
            "factorial",
            "negative",
            "less",
            "percent more",
            "over two",
            "base eight",
            "choose two",
            "modulo nine",
            "dozens",
            "mod seven",
            "halves",
            "thirds",
            "more than six",
            "times the radius",
            "point five",
            "by ten",
            "sixes",
        )
    ),
    ("20 minus the discount", "20"),
    # equations are no numbers
    *(
        (equation, "5")
        for equation in (
            "x+y=5",
            "3x=5",
            "-x=5",
            "1/x=5",
            "xy=5",
            r"\sqrt{x}=5",
            r"\sin x=1",
            "sin x=5",
            "twice x=5",
            "x plus y=5",
            "x^2=5",
            "|x|=5",
            "x=y+5",
            "f(x+1)=5",
            "5=6=x",
            "a=5,b=6",
            "x=5 and y",
            "not x=5",
            r"\text{half of }x=5",
        )
    ),
    ("x+3=7", "7"),
    ("10x = 40", "40"),
    ("x^2=9", "9"),
    ("2x=4y", "4y"),
    ("5", "x+y=5"),
    ("0", "5x-7y+4=0"),
    # names in front
    ("x=1,y=2", "x=2,y=1"),
    ("a=3, b=4", "a=4, b=3"),
    ("A=2,B=1", "A=1,B=2"),
    ("apples=2, pears=3", "apples=3, pears=2"),
    ("x=1,y=2", "2,1"),
    ("x=1;y=2;z=3", "(3,2,1)"),
    # units, currencies and residues
    ("5€", r"\$5"),
    ("£5", r"\$5"),
    ("5 euros", r"\$5"),
    ("10 m/s", r"10\text{ km/h}"),
    ("10 miles per hour", r"10\text{ km/h}"),
    (r"17\pmod{19}", r"17\pmod{20}"),
    (r"17\bmod{5}", "17"),
    # brackets, order and how often
    ("(3,4)", "3,4"),
    ("[3,4]", "3,4"),
    ("3,4", "(3,4)"),
    ("x=2,3", "(2,3)"),
    ("6,5,4", "(4,5,6)"),
    ("10,11,11", "10,11"),
    ("5,5", "5"),
    ("x=5 or x=5", "5"),
    ("[5]", "5"),
    ("--5", "5"),
    ("1 024", "24"),
    ("2**3", "6"),
]

HOSTILE = [
    "9**9**9",
    "9^{9^{9^{9}}}",
    "10^{10^{10}}",
    r"2^{\left(10^{10}\right)}",
    "((1000!)!)!",
    "99999!",
    "((((9!)!)!)!)!",
    r"\binom{100000000}{50000000}",
    r"(x+1)^{9999}(x+2)^{9999}",
    r"\{(x+1)^{9999}, 2\}",
    r"\sqrt{2}^{99999}",
    "(" * 900 + ")" * 900,
    "(" * 1900,
    ")" * 1900,
    "{" * 1000 + "1" + "}" * 900,
    r"\frac{" * 250 + "}" * 250,
    r"\frac" * 300,
    r"\sqrt" * 300 + "2",
    "-" * 1900 + "7",
    "!" * 1900,
    "7" + "!" * 1000,
    "|" * 1900,
    r"\boxed{" * 280,
    r"\boxed{" * 1000,
    r"\left" * 300,
    r"\text{" * 300,
    "x^" * 900,
    "x_" * 900,
    "1/" * 900 + "0",
    "9" * 1900,
    "0." + "3" * 1900,
    "1," * 900,
    r"\pm 1" * 300,
    r"1 \pm \sqrt{1 \pm \sqrt{2 \pm \sqrt{3 \pm \sqrt{5}}}}",
    "$" * 1900,
    r"$1$ and " * 200,
    r"\int_0^1 \int_0^1 e^{x^2 y^2} dx dy",
    r"\sum_{n=1}^{\infty} \frac{1}{n^3 + n + 1}",
    r"\prod_{n=1}^{10^9} n",
    r"\lim_{n \to \infty} n \sin(n!)",
    r"\begin{pmatrix} " + "1 & " * 300 + r"1 \end{pmatrix}",
    r"\begin{pmatrix}",
    r"\log_{1}{2}",
    "0^{-1}",
    r"\frac{1}{0}",
    "\x00\x01\x02" * 100,
    "\ud800\udfff" * 100,
    "7\u202e\u0661" * 100,
    "__import__('os').system('true')",
    "exec(open('/etc/passwd').read())",
    "a" * 1900,
    " " * 1900 + "7!",
    "1 " * 900,
    "answer is " * 190,
]


@pytest.fixture(scope="module", autouse=True)
def grading_process():
    yield
    grading.close()


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal(answer, gold):
    assert Grader()(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_unequal(answer, gold):
    assert not Grader()(answer, gold)


@pytest.mark.parametrize("gold", ["x^2+1", r"\{1,2\}", "7"])
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda text: ascii(text[:16]))
@pytest.mark.timeout(60)
def test_hostile_answers_are_wrong_and_end(answer, gold):
    assert not Grader(timeout_s=0.5)(answer, gold)
    assert Grader()(r"\frac{\sqrt{8}}{2}", r"\sqrt{2}")


@pytest.mark.parametrize("gold", ["9^{9^{9^{9}}}", r"\int_0^1 \int_0^1 e^{x^2 y^2} dx dy", "(x+1)^{9999}", r"\{!\}"])
def test_a_gold_answer_that_would_cost_much_is_equal_to_itself(gold):
    assert Grader(timeout_s=0.5)(rf"\boxed{{{gold}}}", gold)


def test_long_answers_are_correct_only_word_for_word():
    long = "1+" * 50_000 + "1"
    assert not Grader()(long, "50001")
    assert Grader()(long, f" {long}\n")


def test_a_gold_answer_that_cannot_be_read_is_reported(caplog):
    assert not Grader()("7", "!?!")
    assert "cannot read the gold answer '!?!'" in caplog.text


def golds_of(*names):
    """The different gold answers of local benchmark files; skips without their folder."""
    if "TURNWISE_BENCHMARKS" not in os.environ:
        pytest.skip("TURNWISE_BENCHMARKS names no folder of benchmark files")
    files = [Path(os.environ["TURNWISE_BENCHMARKS"]) / f"{name}.jsonl" for name in names]
    return list(dict.fromkeys(json.loads(line)["answer"] for file in files for line in file.read_text().splitlines()))


def respelt(gold):
    """Usual ways to write the same answer."""
    spellings = [
        rf"\boxed{{{gold}}}",
        f"${gold}$",
        f" {gold} . ",
        rf"\({gold}\)",
        rf"The answer is ${gold}$.",
        rf"\displaystyle {gold}",
        re.sub(r"\\frac", r"\\dfrac", gold),
        re.sub(r"\\(?:left|right)\b ?", "", gold),
        re.sub(r"(?<!\\left)([(\[])(.*)(?<!\\right)([)\]])", r"\\left\1 \2 \\right\3", gold),
        re.sub(r"\\[a-z]?frac ?(\d)(\d)", r"\\frac{\1}{\2}", gold),
        re.sub(r" ?([-+=,]) ?", r" \1 ", gold) if "\\!" not in gold and "," not in gold else gold,
        re.sub(r"\\(?:text|mbox|mathrm)\{([^}]*)\}", r"\\mathrm{\1}", gold),
        gold.replace("^\\circ", "^{\\circ}"),
        gold.replace("^\\circ", "°"),
        gold.replace("\\pi", "π").replace("\\infty", "∞").replace("\\cup", "∪").replace("-", "−"),
        re.sub(r"\\! ?", "", gold),
        gold.replace("pmatrix", "bmatrix"),
    ]
    if "=" not in gold and "\\in" not in gold and not gold.replace(" ", "").isalpha() and "text" not in gold:
        spellings.append(f"x = {gold}")
    return dict.fromkeys(spellings)


@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_test", "svamp", "math500", "aime24", "amc23", "strategyqa_dev"])
def test_gold_answers_of_real_problems_grade_themselves_however_they_are_written(name):
    golds = golds_of(name)
    pairs = [(answer, gold) for gold in golds for answer in (gold, *respelt(gold))]
    verdicts = Grader().grade_all(pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict] == []
    problems = [
        Problem(id=gold, prompt=(Message(role="user", content="?"),), answer=gold, source="s") for gold in golds
    ]
    assert ungradable(problems, Grader()) == []


@pytest.mark.parametrize("gold", ["!?!", r"\frac{}{}", "x" * 3000])
def test_gold_answers_that_nothing_could_match_are_listed(gold):
    problems = [
        Problem(id=name, prompt=(Message(role="user", content="?"),), answer=answer, source="made")
        for name, answer in (("a", "7"), ("b", gold), ("c", r"3\sqrt{2}"), ("d", "yes"), ("e", "5:30 pm"))
    ]
    assert [problem.id for problem in ungradable(problems, Grader())] == ["b"]


def test_ten_thousand_plain_gold_answers_need_no_process():
    grading.close()
    problems = [
        Problem(id=str(number), prompt=(Message(role="user", content="?"),), answer=f"{number}", source="made")
        for number in range(10_000)
    ]
    assert ungradable(problems, Grader()) == []
    assert grading_pool._pool.threads is None


def test_many_answers_are_graded_in_their_order():
    pairs = [(f"{number}+{number}", str(2 * number + number % 2)) for number in range(200)]
    assert Grader().grade_all(pairs) == [number % 2 == 0 for number in range(200)]
    assert Grader().grade_all([]) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40) | st.text(alphabet="0123456789xy+-*/^_(){}[]\\fracsqrt$,.= ", max_size=40))
def test_any_text_is_graded_without_an_exception(answer):
    assert Grader(timeout_s=0.5)(answer, "x^2+y") in (True, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout_s": 0.0}, r"timeout_s=0.0: expected > 0"),
        ({"timeout_s": float("nan")}, r"timeout_s=nan"),
        ({"timeout_s": 31.0}, r"<= 30 seconds"),
        ({"max_characters": 0}, r"max_characters=0: expected 1 to 4000"),
        ({"max_characters": 5000}, r"max_characters=5000"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Grader(**fields)
