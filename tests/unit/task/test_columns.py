import pytest

from turnwise.task.columns import AnswerRule, Columns, read_answer, reread_answer
from turnwise.task.rows import Row


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("text", " \\frac{1}{2} ", "\\frac{1}{2}"),
        ("text", 7, "7"),
        ("code", "    return 1\n", "    return 1\n"),
        ("number", "51.0", "51"),
        ("number", 142.0, "142"),
        ("number", 3, "3"),
        ("number", "0.50", "0.50"),
        ("number", "-2.00", "-2"),
        ("number", "+1,234,567", "1234567"),
        ("number", "025", "25"),
        ("number", "000", "0"),
        ("number", "-0.0", "0"),
        ("number", ".5", "0.5"),
        ("after_hashes", "She has 3 + 4 = <<3+4=7>>7.\n#### 7", "7"),
        ("after_hashes", "#### 1\nno, #### 1,070", "1070"),
        ("last_box", r"So $\boxed{1}$, or better \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        ("last_box", r"\fbox{a \} b}", r"a \} b"),
        ("last_box", r"Thus $x = \boxed 12$.", "12"),
        ("before_bracket", "9 (apples)", "9"),
        ("before_bracket", "2:15 (p.m.)", "2:15"),
        ("before_bracket", "4 (roses); 2 (tulips)", "4, 2"),
        ("before_bracket", "7", "7"),
        ("before_bracket", "(x)", "(x)"),
        ("yes_no", True, "yes"),
        ("yes_no", "No", "no"),
        ("joined", ["2", "$-3$"], "2, $-3$"),
        ("joined", "5", "5"),
        ("letter", "C", "C"),
    ],
)
def test_an_answer_is_read_by_its_rule(rule: str, value: object, expected: str) -> None:
    assert read_answer(value, AnswerRule(rule)) == expected


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("text", None, "blank"),
        ("text", "  ", "blank"),
        ("text", True, "expected a text or a number"),
        ("text", {"a": 1}, "expected a text or a number"),
        ("number", "about 5", "expected a number"),
        ("number", "12,34", "expected a number"),
        ("number", "-", "expected a number"),
        ("number", float("nan"), "expected a number"),
        ("after_hashes", "The answer is 5", "holds no ####"),
        ("after_hashes", "#### five", "expected a number"),
        ("last_box", "x = 5", r"holds no \\boxed{}"),
        ("last_box", r"\boxed{\frac{1}{2}", r"its last \\boxed{} is not closed"),
        ("last_box", r"\boxed{ }", "blank"),
        ("yes_no", "perhaps", "expected true, false, yes or no"),
        ("joined", [], "blank"),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(rule: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answer(value, AnswerRule(rule))


def test_an_answer_read_before_comes_out_the_same() -> None:
    for rule, value, text in (
        ("after_hashes", "#### 1,070", "1070"),
        ("number", "51.0", "51"),
        ("yes_no", True, "yes"),
    ):
        assert read_answer(value, AnswerRule(rule)) == text == reread_answer(text, AnswerRule(rule))
    assert reread_answer("1,070.0", AnswerRule.after_hashes) == "1070"
    assert reread_answer("a, b", AnswerRule.joined) == "a, b"
    with pytest.raises(ValueError, match="expected a number"):
        reread_answer("five", AnswerRule.after_hashes)
    with pytest.raises(ValueError, match="expected a capital letter"):
        reread_answer("a cat", AnswerRule.letter)


def test_a_statement_is_put_together_from_its_columns() -> None:
    row = Row("here", {"body": "Ann has 3. ", "ask": {"text": "How many?"}, "answer": "3"})
    assert Columns(question=["body", "ask.text"]).statement(row) == "Ann has 3. How many?"
    assert Columns(question=["body", "ask.text"], joiner="\n").statement(row) == "Ann has 3.\nHow many?"
    assert Columns(question=["body", "ask.text"]).names == ["body", "ask", "answer"]


def test_choices_are_listed_by_their_labels() -> None:
    columns = Columns(choices="choices.text", labels="choices.label", answer_rule=AnswerRule.letter)
    row = Row("here", {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["home", "away"]}, "answer": "B"})
    assert columns.statement(row) == "Where?\n\n(A) home\n(B) away"
    uneven = Row("here", {"question": "Where?", "choices": {"label": ["A"], "text": ["home", "away"]}, "answer": "A"})
    with pytest.raises(ValueError, match=r"here: fields 'choices.label' and 'choices.text': 1 labels of 2 choices"):
        columns.statement(uneven)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": []}, r"columns.question=\[\]: expected at least one"),
        ({"question": [""]}, r"columns.question=\[''\]: expected at least one"),
        ({"answer": ""}, "columns.answer='': expected the name of a column"),
        ({"choices": "c"}, "columns.choices and columns.labels: expected both or neither"),
        ({"entry_point": "e"}, "columns.tests and columns.entry_point: expected both or neither"),
        ({"answer_rule": AnswerRule.letter}, "columns.answer_rule=letter: expected columns.choices"),
    ],
)
def test_columns_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Columns(**fields)
