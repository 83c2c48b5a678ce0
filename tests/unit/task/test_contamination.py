from hypothesis import given
from hypothesis import strategies as st

from turnwise.task.contamination import Contamination, counted

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_a_shared_run_of_words_gives_a_statement_away() -> None:
    known = Contamination({"first": ["x " + WORDS], "second": [WORDS, "Solve $a^2 + b^2$ for all a and b!"]}, 13)
    assert known.known_from(f"Now: {WORDS.upper().replace(' ', ', ')}?") == "first"
    assert known.known_from(WORDS.replace("one", "1")) == "first"  # 13 words from "two" on
    assert known.known_from(WORDS.replace("two", "2")) is None  # 12 words from "three" on


def test_a_short_statement_is_found_inside_another() -> None:
    known = Contamination({"first": ["What is twice $3 + 4$?"], "second": ["What is twice 3, + 4 and 5?"]}, 13)
    for statement in (
        "what IS twice 3 4",
        "Question: What is twice $3+4$? Answer with a number.",
        f"{WORDS} What is twice 3 + 4?",
    ):
        assert known.known_from(statement) == "first"
    assert known.known_from("Say what is twice 3 + 4 and 5") == "first"  # the first set that holds such a run
    assert known.known_from("What is twice 3 + 5?") is None
    assert known.known_from("What is twice 3") is None


def test_a_short_statement_inside_an_evaluated_one_stays() -> None:
    known = Contamination({"set": [f"What is twice 3 + 4? {WORDS}"]}, 13)
    assert known.known_from("What is twice 3 + 4?") is None


def test_a_trivially_short_statement_is_known_only_as_a_whole() -> None:
    known = Contamination({"set": ["What is $3 + 4$?"]}, 13)  # words: what is 3 4
    assert known.known_from("what IS 3, 4") == "set"
    assert known.known_from("What is 3 + 4 + 5?") is None
    assert known.known_from(f"What is $3 + 4$? {WORDS}") is None


def test_without_runs_whole_statements_are_compared() -> None:
    known = Contamination({"set": [WORDS]}, 0)
    assert known.known_from(WORDS + ".") == "set"
    assert known.known_from(WORDS + " more") is None


def test_statements_without_words_are_compared_as_they_are() -> None:
    known = Contamination({"set": ["∫ = ?"]}, 13)
    assert known.known_from("∫  = ?") == "set"
    assert known.known_from("∑ = ?") is None


def test_counts_are_told_by_set() -> None:
    assert counted({"aime24": 3, "math500": 1}) == "3 known from aime24, 1 known from math500"


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_it_agrees_with_comparing_every_pair_of_runs(one: list[str], other: list[str]) -> None:
    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)} if len(words) >= 4 else {tuple(words)}

    is_known = Contamination({"set": [" ".join(one)]}, 4).known_from(" ".join(other)) is not None
    assert is_known == bool(runs(one) & runs(other))
