import pytest

from turnwise.reward.units import currency, is_operation, without_unit


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("5", "5", ""),
        ("5 cm", "5", "cm"),
        ("5cm^2", "5", "cm2"),
        ("5 square centimetres", "5", "cm2"),
        ("5 apples", "5", ""),
        ("5 m/s", "5", "m/s"),
        ("5 meters per second", "5", "m/s"),
        ("5 m/s^2", "5", "m/s2"),
        ("5 mph", "5", "mi/h"),
        ("5/hour", "5", ""),
        ("30 students per class", "30", ""),
        ("5 apples/box", "5", ""),
        ("5km/h", "5", "km/h"),
        ("4 th", "4", ""),
        ("5 dollars per hour", "5", "dollar"),
        ("EUR 5", "5", "euro"),
        ("5 percent", "5%", ""),
        ("2 million people", "2000000", ""),
        ("3rd", "3", ""),
        (r"3\pmod{7}", "3", "mod 7"),
    ],
)
def test_units_are_taken_off(text, number, unit):
    assert without_unit(text) == (number, unit)


@pytest.mark.parametrize(
    "text",
    [
        "5 plus six",
        "5m/s",
        "5/x",
        "3 fourths",
        "5 negative",
        "5 i",
        "x",
        r"3\bmod{7}",
        "5 miles/six",
        "5/two",
        "5/h",
        "5 point five",
        "5k",
        "",
    ],
)
def test_what_is_more_than_a_unit_stays(text):
    assert without_unit(text) == (text, "")


@pytest.mark.parametrize(
    ("text", "expected"), [(r"\$5", "dollar"), ("$5$", ""), ("5€", "euro"), ("£5", "lb"), ("₹5", "rupee"), ("5", "")]
)
def test_currency_of_a_sign(text, expected):
    assert currency(text) == expected


def test_words_that_make_another_number():
    assert all(map(is_operation, ["Plus", "sixes", "eighths", "millionth", "dozens", "over", "fewer"]))
    assert not any(map(is_operation, ["apples", "months", "paths", "cost", "second"]))
