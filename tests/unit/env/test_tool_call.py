import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.env.tool_call import extract_boxed

FRAGMENTS = st.lists(st.sampled_from(["\n", " ", "\\boxed{", "\\", "{", "}", "1", "\u2028", "\0"]))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} or rather \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed {7}", "7"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"a { b \boxed{5} c", "5"),
        (r"} \boxed{6} }", "6"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{1} then \boxed{}", "1"),
        (r"\boxed{ }", None),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        ("", None),
    ],
)
def test_the_last_box_is_the_answer(text: str, answer: str | None):
    assert extract_boxed(text) == answer


@settings(deadline=None)
@given(FRAGMENTS.map("".join) | st.text())
def test_arbitrary_text_is_read_without_exception(text: str):
    assert extract_boxed(text) != ""


def test_hostile_text_takes_linear_time():
    start = time.perf_counter()
    for piece in ("\\boxed{", "{", "\\"):
        extract_boxed(piece * 20_000)
    assert time.perf_counter() - start < 3
