import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.reward.answers import compare, last_box, normal_form, vote_key
from turnwise.reward.plain_numbers import read_number

EQUAL = [
    ("42", "42"),
    ("7.0", "7"),
    ("7.", "7"),
    ("7/1", "7"),
    ("1,000", "1000"),
    ("1{,}000", "1000"),
    (r"1,\!000", "1000"),
    (r"10\,000", "10000"),
    (r"11,\! 111,\! 111", "11111111"),
    ("1e3", "1000"),
    ("2.5E-3", "0.0025"),
    ("+7", "7"),
    ("-0", "0"),
    ("\N{MINUS SIGN}7", "-7"),
    ("- 7", "-7"),
    ("007", "7"),
    (".5", "1/2"),
    ("14/4", "7/2"),
    (r"\frac{3}{4}", "0.75"),
    (r"\dfrac34", "3/4"),
    (r"-\tfrac{1}{2}", "-0.5"),
    (r"\frac{-1}{2}", "-0.5"),
    ("1 1/2", "3/2"),
    (r"1\frac{1}{2}", "1.5"),
    ("50%", "50%"),
    (r"50\%", "0.5"),
    ("50%", "50"),
    ("50", r"50\%"),
    ("0.5", "50%"),
    ("$18", "18"),
    (r"\$18.90", "18.9"),
    ("$ 18 $", "18"),
    (" 18 dollars", "18"),
    ("7 square units.", "7"),
    (r"7\text{ cm}", "7"),
    (r"90^\circ", "90"),
    ("90°", "90"),
    ("0.3333333333333333", "1/3"),
    ("0.666667", "2/3"),
    ("0.30000000000000004", "0.3"),
    ("Yes", "yes"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\text{(C)}", "C"),
    (r"\left( 3, x \right)", "(3, x)"),
    ("x + 1", "x+1"),
    ("1 024", "1024"),
    ("**5**", "5"),
    ("x = 5, y = 6", "y = 6, x = 5"),
]

UNEQUAL = [
    ("8", "7"),
    ("-7", "7"),
    ("7.01", "7"),
    ("1000.0004", "1000"),
    ("10", "1,000"),
    ("1,00", "100"),
    ("0.33", "1/3"),
    ("0.333334", "1/3"),
    ("0.0000001", "0"),
    ("1/0", "0"),
    ("50%", "5000"),
    ("5%", "0.5"),
    ("2 million", "2"),
    ("2 thirds", "2"),
    ("7 8", "15"),
    ("7 8", "78"),
    ("1 2 3 7", "7"),
    ("7, 800", "7800"),
    ("no", "yes"),
    ("on", "no"),
    ("", "7"),
    ("  ", "7"),
    (r"\text{}", "7"),
    ("D", "(C)"),
    ("7 because I say so", "7"),
    ("it is 7", "7"),
    ("7 plus one", "7"),
    ("x+y=7", "7"),
    ("--7", "7"),
    ("[7]", "7"),
]


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal_forms_are_equal(answer, gold):
    assert compare(answer, gold).verdict is True


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_unequal_forms_are_never_equal(answer, gold):
    assert compare(answer, gold).verdict in (False, None)


@pytest.mark.parametrize(
    ("answer", "gold"), [("8", "7"), ("7 8", "15"), ("7 or 8", "8"), ("no", "yes"), ("50%", "5000"), ("", "7")]
)
def test_text_and_numbers_need_no_algebra(answer, gold):
    assert compare(answer, gold).verdict is False


@pytest.mark.parametrize(
    ("answer", "gold"), [("2^3", "8"), ("x+1", "1+x"), (r"\sqrt{49}", "7"), ("xy", "yx"), ("1/0", "7")]
)
def test_algebra_is_left_to_others(answer, gold):
    assert compare(answer, gold).verdict is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{7}", "7"),
        (r"first \boxed{6}, no: \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\fbox{a}", "a"),
        (r"\boxed {7 }", "7"),
        (r"\boxed{7", r"\boxed{7"),
        (" 7 ", "7"),
        ("", ""),
    ],
)
def test_last_box(text, inside):
    assert last_box(text) == inside


def test_last_box_takes_linear_time():
    text = r"\boxed{" * 100_000
    assert last_box(text) == text


@pytest.mark.parametrize(
    "unit",
    [
        *(r"\boxed{", r"\text{", "{", "}", "(", "1", "1 ", " ", "$", "\\", r"\left", "^", "x^2", "1,"),
        *("a ", "1 a ", "-", "="),
        *(
            "answer is ",
            "so, ",
            r"\frac",
            "√",
            "!",
            "1)",
            "1^",
            "9 cm ",
            "yes; no, ",
            "(A) ",
            "x=",
            "1:",
            ".",
            "\n",
            "_{1",
            "**a** ",
            "answer is **",
            "x=1,",
            "5/h",
            "a=",
            " 000",
        ),
    ],
)
@pytest.mark.timeout(30)
def test_long_texts_take_linear_time(unit):
    text = unit * (20_000 // len(unit))
    for gold in ("7", "x+1", "B", "yes", "5:30 pm", "52_8"):
        assert compare(text, gold).verdict in (False, None)
        assert compare(text + "?", gold).verdict in (False, None)


@pytest.mark.parametrize("text", ["", ".", "-", "1/0", "7 8", "1/2/3", "e5", "1,0,0", "--1", "x", "٣", "%", "1e9999"])
def test_what_is_no_plain_number(text):
    assert read_number(text) is None


@given(st.fractions(), st.booleans())
def test_fractions_are_read_exactly(value, in_latex):
    sign, top = ("-" if value < 0 else ""), abs(value.numerator)
    text = rf"{sign}\frac{{{top}}}{{{value.denominator}}}" if in_latex else f"{sign}{top}/{value.denominator}"
    number = read_number(text)
    assert number is not None
    assert number.value == value


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_python_floats_equal_themselves(value):
    assert compare(repr(value), repr(value) + "0" if "e" not in repr(value) else repr(value)).verdict is True


@given(st.text())
def test_normal_form_of_any_text_is_stable(text):
    assert normal_form(normal_form(text)) == normal_form(text)


@given(
    st.text(alphabet="0123456789.,/ +-%{}\\fracboxedtx$e()", max_size=60), st.sampled_from(["7", "1/2", "x+1", "no"])
)
def test_any_text_gets_a_verdict(text, gold):
    assert compare(last_box(text), gold).verdict in (True, False, None)


@pytest.mark.parametrize(
    "same",
    [
        ("5", "x = 5", "5 apples", r"5\text{ cm}", "The answer is 5", "5.0", r"\boxed{5}", r"\$5", "5 m/s", "**5**"),
        ("1,000", "1000", "1 000", "1e3"),
        (r"\frac{1}{2}", "0.5", "1/2", "x=0.5"),
        ("50%", "50 percent", r"50\%"),
        ("1, 2", "2,1", "x=1 or x=2", "1 and 2"),
        ("(1,2)", "( 1, 2 )"),
        ("Yes", "yes, because both are even."),
        ("the cat", "Cat"),
        (r"\emptyset", "no solution"),
        ("2x+1", "y = 2x + 1", "$2x+1$"),
    ],
)
def test_votes_for_the_same_answer(same):
    assert len({vote_key(answer) for answer in same}) == 1


def test_votes_for_different_answers():
    different = [
        "5",
        "-5",
        "50%",
        "50",
        "1,2",
        "(1,2)",
        "[1,2]",
        "1,1,2",
        "2x+1",
        "X",
        "x",
        "3x=5",
        "yes",
        "no",
        "",
        "1",
    ]
    different += ["5 plus six", "5 squared", "x+y=5"]
    assert len({vote_key(answer) for answer in different}) == len(different)


@given(st.text(alphabet="0123456789.,/ =xy%()apples\\fracboxed{}", max_size=60))
def test_any_text_has_a_key_that_its_box_shares(text):
    assert hash(vote_key(text)) == hash(vote_key(text))
    if not set("{}\\") & set(text):
        assert vote_key(rf"\boxed{{{text}}}") == vote_key(text)
