import gzip
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from builders import group, problem, trajectory
from turnwise.tracker.bundle import iterate_groups, read_groups, write_groups
from turnwise.types import (
    FinishReason,
    Group,
    Message,
    Problem,
    ScoredGroup,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
    Trajectory,
    Turn,
)

AWKWARD_FLOATS = (0.1, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308, 2**-1074)


def awkward_group(wall_s: float = 0.125) -> ScoredGroup:
    """Every field off its default; text with quotes, line ends of every kind, and characters outside ASCII."""
    question = Problem(
        id="p/1",
        prompt=(
            Message(role="system", content="Be exact."),
            Message(role="user", content="line\r\n\u2028two ½ </script>"),
        ),
        answer="1/2",
        source="fractions",
    )
    turns = (
        Turn(
            span=(2, 5),
            behaviour_logprobs=(-0.1, -1 / 3, -5e-324),
            trainer_logprobs=(-0.1, -1 / 3 + 1e-9, 1e-7),
            text='say "hi"\n```python\nprint("é")\n```\x00',
            tool_calls=(ToolCall(code='print("é")'), ToolCall(code="(", error="unclosed fence")),
            tool_result=ToolResult(status=ToolStatus.user_error, output="SyntaxError\x1b[0m\r", wall_s=wall_s),
            finish_reason=FinishReason.stop,
            policy_version=3,
        ),
        Turn(
            span=(7, 8),
            behaviour_logprobs=(0.0,),
            text="\ud83d",  # half of a surrogate pair: a policy may sample such bytes
            tool_calls=(),
            tool_result=None,
            finish_reason=FinishReason.length,
            policy_version=3,
        ),
    )
    sampled = Trajectory(
        problem_id="p/1",
        sample_index=1,
        token_ids=(1, 2, 3, 4, 5, 6, 7, 8),
        turns=turns,
        stop_reason=StopReason.max_tokens,
        answer=None,
    )
    never_sampled = Trajectory(
        problem_id="p/1", sample_index=2, token_ids=(1, 2), turns=(), stop_reason=StopReason.engine_abort
    )
    return ScoredGroup(
        group=Group(problem=question, trajectories=(sampled, never_sampled)),
        turn_rewards_GK=((0.1 + 0.2, -0.1), ()),
        terms={"accuracy": ((0.0, 1e-17), ()), "format": ((-0.1, 5e-324), ())},
        correct_G=(True, False),
        shaping_peers_G=((), ((0, 1 / 3),)),
    )


def test_reading_gives_back_exactly_what_was_written(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    groups = [
        awkward_group(),
        ScoredGroup(group=group(trajectory()), turn_rewards_GK=((0.0, 1.0),), terms={}, correct_G=(True,)),
    ]
    advantages = [[[AWKWARD_FLOATS[0], AWKWARD_FLOATS[1]], []], [[AWKWARD_FLOATS[2], AWKWARD_FLOATS[4]]]]
    write_groups(path, groups, advantages, advantages)

    read = read_groups(path)

    assert [scored for scored, _ in read] == groups
    assert [rows for _, rows in read] == advantages
    assert list(iterate_groups(path)) == read


def group_with_tests() -> ScoredGroup:
    question = replace(problem(), tests="check(f)\n", entry_point="f")
    trajectories = tuple(
        replace(trajectory(answer="def f(): ...", sample_index=i), passed=passed)
        for i, passed in enumerate((True, False, None))
    )
    return ScoredGroup(
        group=Group(problem=question, trajectories=trajectories),
        turn_rewards_GK=((0.0, 1.0), (0.0, 0.0), (0.0, 0.0)),
        terms={},
        correct_G=(True, False, False),
    )


def test_tests_and_their_verdict_are_kept(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [group_with_tests()], [[[0.0, 0.0]] * 3], [[[0.0, 0.0]] * 3])
    assert [scored for scored, _ in read_groups(path)] == [group_with_tests()]


def test_a_bundle_that_knows_no_tests_is_read(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [awkward_group()], [[[0.5, -0.5], []]], [[[0.5, -0.5], []]])
    line = json.loads(gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass"))
    for name in ("tests", "entry_point"):
        del line["problem"][name]
    for one in line["trajectories"]:
        del one["passed"]
    path.write_bytes(gzip.compress(json.dumps(line).encode()))
    assert [scored for scored, _ in read_groups(path)] == [awkward_group()]


def test_every_float_is_the_same_float(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    scored = ScoredGroup(
        group=group(trajectory(codes=("print(1)",) * len(AWKWARD_FLOATS))),
        turn_rewards_GK=(AWKWARD_FLOATS,),
        terms={"accuracy": (AWKWARD_FLOATS,)},
        correct_G=(True,),
    )
    write_groups(path, [scored], [[list(AWKWARD_FLOATS)]], [[list(AWKWARD_FLOATS)]])

    ((read, ((*advantages,),)),) = read_groups(path)

    for row in (read.turn_rewards_GK[0], read.terms["accuracy"][0], advantages):
        assert [x.hex() for x in row] == [x.hex() for x in AWKWARD_FLOATS]  # hex tells -0.0 from 0.0


def test_equal_steps_give_equal_bytes_and_only_the_wall_clock_differs(tmp_path):
    first, again, slower = (tmp_path / name for name in ("a.gz", "b.gz", "c.gz"))
    for path, wall_s in ((first, 0.125), (again, 0.125), (slower, 0.25)):
        write_groups(path, [awkward_group(wall_s)], [[[0.5, -0.5], []]], [[[0.5, -0.5], []]])

    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != slower.read_bytes()
    lines = [json.loads(gzip.decompress(path.read_bytes())) for path in (first, slower)]
    assert [line.pop("tool_wall_s") for line in lines] == [[[0.125, None], []], [[0.25, None], []]]
    assert lines[0] == lines[1]


def test_one_line_a_group(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [awkward_group()] * 3, [[[0.5, -0.5], []]] * 3, [[[0.5, -0.5], []]] * 3)
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "surrogatepass")
    assert len([json.loads(line) for line in text.split("\n") if line]) == 3


def test_no_groups_give_an_empty_bundle(tmp_path):
    write_groups(tmp_path / "step_0.jsonl.gz", [], [], [])
    assert read_groups(tmp_path / "step_0.jsonl.gz") == []


def test_refuses_advantages_that_do_not_fit(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    with pytest.raises(ValueError, match="1 groups but returns of 2 and advantages of 2"):
        write_groups(path, [awkward_group()], [[[0.5, -0.5], []]] * 2, [[[0.5, -0.5], []]] * 2)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_groups(path, [awkward_group()], [[[math.nan, -0.5], []]], [[[math.nan, -0.5], []]])
    assert not path.exists()


def test_a_torn_bundle_is_named(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [awkward_group()], [[[0.5, -0.5], []]], [[[0.5, -0.5], []]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"step_0\.jsonl\.gz.*not a whole trajectory bundle"):
        read_groups(path)


def test_a_line_with_a_missing_key_is_named(tmp_path):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [awkward_group()] * 2, [[[0.5, -0.5], []]] * 2, [[[0.5, -0.5], []]] * 2)
    first, second, _ = gzip.decompress(path.read_bytes()).split(b"\n")
    path.write_bytes(gzip.compress(first + b"\n" + second.replace(b'"answer"', b'"reply"') + b"\n"))
    with pytest.raises(ValueError, match=r"line 2: .*KeyError\('answer'\)"):
        read_groups(path)


def put(line: Any, keys: tuple[str | int, ...], value: Any) -> None:
    for key in keys[:-1]:
        line = line[key]
    line[keys[-1]] = value


FIRST = ("trajectories", 0)


@pytest.mark.parametrize(
    ("keys", "value", "complaint"),
    [
        (("advantages", 0, 1), "0.5", r"advantages: expected finite numbers, got \[0.5, '0.5'\]"),
        (("advantages", 0, 1), math.nan, r"advantages: expected finite numbers, got \[0.5, nan\]"),
        (("advantages", 0, 1), True, "advantages: expected finite numbers"),
        pytest.param(("advantages", 0, 1), 10**400, "OverflowError", id="too large for a float"),
        (("advantages",), [[0.5, -0.5]], r"advantages: expected rows of \[2, 0\] turns"),
        (("advantages",), [[0.5], []], r"advantages: expected rows of \[2, 0\] turns"),
        (("returns", 0), [0.5, math.inf], "returns: expected finite numbers"),
        (("returns",), [[], [0.5, 0.5]], r"returns: expected rows of \[2, 0\] turns"),
        (("turn_rewards", 0, 0), None, "turn_rewards: expected finite numbers"),
        (("terms", "format", 0, 0), "x", "terms.format: expected finite numbers"),
        (("terms",), [], "AttributeError"),
        (("correct", 0), "yes", "correct: expected bool, got 'yes'"),
        (("tool_wall_s", 0, 0), None, r"tool_wall_s: expected finite numbers, got \[None\]"),
        (("shaping_peers", 1, 0, 0), 2, "shaping_peers: expected 2 rows of places below 2"),
        (("shaping_peers", 1, 0, 1), math.nan, "shaping_peers: expected finite numbers"),
        ((*FIRST, "token_ids", 0), "a", "token_ids: expected integers"),
        ((*FIRST, "turns", 0, "span"), [2, 5.0], r"span: expected integers, got \[2, 5.0\]"),
        ((*FIRST, "turns", 0, "trainer_logprobs", 0), -math.inf, "trainer_logprobs: expected finite numbers"),
        ((*FIRST, "turns", 0, "text"), 7, "text: expected str, got 7"),
        ((*FIRST, "turns", 0, "tool_result", "output"), None, "output: expected str, got None"),
        (("problem", "prompt", 0, "content"), 7, "content: expected str, got 7"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_file_and_line(tmp_path, keys, value, complaint):
    path = tmp_path / "step_0.jsonl.gz"
    write_groups(path, [awkward_group()] * 2, [[[0.5, -0.5], []]] * 2, [[[0.5, -0.5], []]] * 2)
    first, second = (json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n")[:2])
    put(second, keys, value)
    path.write_bytes(gzip.compress(f"{json.dumps(first)}\n{json.dumps(second)}\n".encode()))

    groups = iterate_groups(path)
    assert next(groups)[1] == [[0.5, -0.5], []]  # what comes before is sound
    with pytest.raises(ValueError, match=rf"step_0\.jsonl\.gz, line 2: .*{complaint}"):
        next(groups)


def test_a_group_can_be_scored_again_from_its_bundle(tmp_path):
    """Discounted returns by hand from what was read: gamma = 0.9, rewards 0 then 1: 0 + 0.9 * 1 = 0.9."""
    path = tmp_path / "step_0.jsonl.gz"
    scored = ScoredGroup(
        group=group(trajectory(answer="42")),
        turn_rewards_GK=((0.0, 1.0),),
        terms={"accuracy": ((0.0, 1.0),)},
        correct_G=(True,),
    )
    write_groups(path, [scored], [[[0.0, 0.0]]], [[[0.0, 0.0]]])
    ((read, _),) = read_groups(path)
    first, last = read.turn_rewards_GK[0]
    assert first + 0.9 * last == 0.9
    assert read.group.problem == problem()
    assert read.group.trajectories[0].code == "print(1)"
