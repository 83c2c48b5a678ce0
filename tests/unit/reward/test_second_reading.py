import pytest

from turnwise.reward.second_reading import certainly_equal, equal_readings


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("(x+1)^{2023}", "(1+x)^{2023}"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        (r"\sin^2 x+\cos^2 x", "1"),
        (r"e^{i\pi}", "-1"),
        ("1.4142136", r"\sqrt{2}"),
        ("2,1", r"\{1,2\}"),
        (r"\{5\}", "5"),
        ("x=5", "5"),
        ("5=x", "5"),
        ("x=2+3=5", "5"),
        ("2,1,1", "1,2,1"),
        ("1,2,3", "(1,2,3)"),
        (r"x\ge1", r"[1,\infty)"),
        (r"3>x", r"(-\infty,3)"),
        (r"-1<x\le2", "(-1,2]"),
        ("2x+4y=6", "3-2y=x"),
        ("-x<-1", "x>1"),
        (r"(3,4)\cup[1,2]", r"[1,2]\cup(3,4)"),
    ],
)
def test_equal(answer, gold):
    assert equal_readings(answer, gold) is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\sqrt{8}", r"3\sqrt{2}"),
        ("x+y", "x+z"),
        (r"\sqrt{x^2}", "x"),
        ("1.41421", r"\sqrt{2}"),
        ("1.4142137", r"\sqrt{2}"),
        (r"\infty", r"-\infty"),
        ("1,2,3", "1,2"),
        ("1,1,2", "1,2"),
        ("1,2", "(1,2)"),
        ("(1,2,3)", "1,2,3"),
        ("2x=5", "5"),
        ("x+y=5", "5"),
        (r"\sqrt{x}=5", "5"),
        ("x=6=5", "5"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("x>1", r"[1,\infty)"),
        ("x>1", "x<1"),
        ("-x<1", "x<-1"),
        ("2x+4y=6", "x+2y=4"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_unequal(answer, gold):
    assert equal_readings(answer, gold) is False


def test_what_cannot_be_read_has_no_verdict():
    assert equal_readings("?", "7") is None
    assert equal_readings("7", "?") is None


def test_other_kinds_are_unequal_but_not_certainly():
    assert equal_readings(r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)") is False
    assert certainly_equal(r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)") is None
    assert certainly_equal("x+1", "x+2") is False
