import pytest

from turnwise.reward.names import is_equation, is_name, split_items, without_names


@pytest.mark.parametrize(
    "text",
    ["x", "a_1", r"\theta", "x_{12}", "f(x)", "f^{-1}(2)", "P(A)", "AB", r"\angle ABC", "(x,y)", "sum", "Total cost"],
)
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["", "xy", "3x", "-x", "x+y", "x(x+1)", r"\sin", "sin x", "twice x", "x minus y", "|x|", "7", "not x", "(x+y)"],
)
def test_what_is_no_name(text):
    assert not is_name(text)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1,2", ["1", "2"]),
        ("1,024", ["1,024"]),
        ("1, 024", ["1", "024"]),
        ("(1,2),[3,4)", ["(1,2)", "[3,4)"]),
        ("x=4 or x=9", ["x=4", "x=9"]),
        ("a;b, and c", ["a", "b", "c"]),
        ("", [""]),
    ],
)
def test_items_of_a_list(text, items):
    assert split_items(text) == items


@pytest.mark.parametrize(
    ("text", "expected"), [("x=5", True), (r"\sum_{k=1}^{3} k", False), ("x<=5", False), ("x!=5", False), ("5", False)]
)
def test_equations_have_their_sign_outside_brackets(text, expected):
    assert is_equation(text) is expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("x=5", "5", ("5", "5")),
        ("5", "x=5", ("5", "5")),
        ("x=5", "x=6", ("5", "6")),
        ("x=5", "y=5", ("x=5", "y=5")),
        ("x=1,2", "2,1", ("1, 2", "2,1")),
        ("y=2,x=1", "x=1,y=3", ("(1, 2)", "(1, 3)")),
        ("y=2,x=1", "1,2", ("(2, 1)", "(1,2)")),
        ("x=1,2=y", "1,2", ("x=1,2=y", "1,2")),
        ("3x=5", "5", ("3x=5", "5")),
        ("x=5", "x+y=5", ("x=5", "x+y=5")),
    ],
)
def test_names_are_taken_off_all_of_a_list_or_none(answer, gold, expected):
    assert without_names(answer, gold) == expected
