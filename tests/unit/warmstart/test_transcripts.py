"""Files of messages: what is wrong in them is named, and what is right becomes the tokens that an episode gives."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import problem
from scripted import EchoPool, ScriptedEngine
from tiny_models import renderer
from turnwise.rollout.episode import RolloutLimits
from turnwise.rollout.packing import pack
from turnwise.rollout.sampler import RolloutSampler
from turnwise.seeding import derive_seed
from turnwise.types import Completion, FinishReason, Message, Sampling, ScoredGroup, StopReason
from turnwise.warmstart.imitation import imitation_batch
from turnwise.warmstart.settings import TooLong
from turnwise.warmstart.transcripts import Encoded, Transcript, encode, read_transcripts

SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 * 7?"},
    {"role": "assistant", "content": "```python\nprint(6 * 7)\n```"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "\\boxed{42}"},
]


def says(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def transcript(*messages: tuple[str, str], id: str = "t") -> Transcript:
    said = tuple(Message(role=role, content=content) for role, content in messages)
    return Transcript(id=id, messages=said, place="file:1")


def encoded(*transcripts: Transcript, max_tokens: int = 500, too_long: TooLong = TooLong.error) -> Encoded:
    return asyncio.run(encode(transcripts, renderer(), max_tokens=max_tokens, too_long=too_long))


def test_a_file_is_read_in_order_and_its_lines_are_named_where_they_have_no_id(tmp_path: Path) -> None:
    path = written(tmp_path / "said.jsonl", {"id": "first", "messages": SAID, "score": 1}, "\n", {"messages": SAID})
    first, second = read_transcripts(path)
    assert (first.id, first.place, second.id) == ("first", f"{path}:1", "said/3")
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert first.messages[3] == Message(role="tool", content="42")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "1: not JSON"),
        ("[" * 100_000, "1: JSON that is nested too deeply|1: not JSON"),
        ([1], "1: expected an object, got list"),
        ({"id": "x", "text": "y"}, "1: messages: missing; the object has id, text"),
        ({"messages": "hello"}, '1: messages: expected a list of messages, got "hello"'),
        ({"messages": []}, r"1: messages: expected a list of messages, got \[\]"),
        ({"id": 7, "messages": SAID}, "1: id: expected a text that is not blank, got 7"),
        ({"messages": ["hello"]}, r"1: messages\[0\]: expected an object with role and content"),
        ({"messages": [{"content": "x"}]}, r"1: messages\[0\].role: missing; the message has content"),
        ({"messages": [{"role": "user"}]}, r"1: messages\[0\].content: missing; the message has role"),
        ({"messages": [says("human")]}, r"1: messages\[0\].role: expected one of system, user, assistant, tool"),
        ({"messages": [says("", "x")]}, r'1: messages\[0\].role: expected one of .*, got ""'),
        ({"messages": [says("user", None)]}, r"1: messages\[0\].content: expected a text .*, got null"),
        ({"messages": [says("user"), says("assistant", " \n")]}, r"1: messages\[1\].content: expected a text"),
        ({"messages": [says("user", [{"type": "text"}])]}, r"1: messages\[0\].content: expected a text"),
        ({"messages": [says("user", "\ud800")]}, r"1: messages\[0\].content: half of a surrogate pair at character 0"),
        ({"messages": [{**says("user"), "tool_calls": []}]}, r"1: messages\[0\].tool_calls: no such field"),
        ({"messages": [says("user"), says("tool")]}, "1: messages: none is of the role assistant"),
        ({"messages": [says("assistant"), says("user")]}, r"1: messages\[0\].role: assistant, but a transcript begins"),
        (
            {"messages": [says("user"), says("assistant"), says("assistant")]},
            r"1: messages\[2\].role: a second assistant in a row",
        ),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"bad.jsonl:{message}"):
        read_transcripts(written(tmp_path / "bad.jsonl", row))


def test_the_line_is_that_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "bad.jsonl", {"messages": SAID}, "\n\n", {"messages": [says("user")]})
    with pytest.raises(ValueError, match=r"bad.jsonl:4: messages: none"):
        read_transcripts(path)


def test_files_that_hold_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"warmstart.path=.*absent: no such file"):
        read_transcripts(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        read_transcripts(tmp_path)
    with pytest.raises(ValueError, match=r"empty.jsonl: holds no transcript"):
        read_transcripts(written(tmp_path / "empty.jsonl", "\n \n"))
    (tmp_path / "latin.jsonl").write_bytes(json.dumps({"messages": SAID}).encode() + b"\n\xe9\n")
    with pytest.raises(ValueError, match=r"latin.jsonl:2: not UTF-8"):
        read_transcripts(tmp_path / "latin.jsonl")
    twice = {"id": "same", "messages": SAID}
    with pytest.raises(ValueError, match=r"twice.jsonl:2: id 'same' is already that of line 1"):
        read_transcripts(written(tmp_path / "twice.jsonl", twice, twice))


class WritingEngine(ScriptedEngine):
    """Says scripted turns in the tokens of a real tokenizer."""

    def turn(self, token_ids, sampling: Sampling) -> Completion:
        text = self._turns[sampling.seed]
        assert text is not None
        ids = renderer().turn_ids(text)
        logprobs = (-0.5,) * len(ids)
        return Completion(token_ids=ids, logprobs=logprobs, finish_reason=FinishReason.stop, policy_version=0)


def test_tokens_mask_and_turns_are_those_of_an_episode() -> None:
    turns = ["!12 and 13", "!é\n", "=12"]
    engine = WritingEngine({derive_seed(0, "p0", 0, k): text for k, text in enumerate(turns)})
    sampler = RolloutSampler(
        engine=engine,
        environments=EchoPool(),
        renderer=renderer(),
        limits=RolloutLimits(max_turns=4, max_tokens=500),
    )
    rollout = asyncio.run(sampler.sample([problem()], group_size=1, temperature=1.0, seed=0))
    (sampled,) = rollout.groups[0].trajectories
    scored = ScoredGroup(group=rollout.groups[0], turn_rewards_GK=((0.0,) * 3,), terms={}, correct_G=(True,))
    expected = pack([scored], [[[1.0] * 3]], temperature=1.0)

    ((asked, read),) = encoded(
        transcript(
            ("user", "What?"),
            ("assistant", "!12 and 13"),
            ("tool", "12 and 13"),
            ("assistant", "!é\n"),
            ("tool", "é\n"),
            ("assistant", "=12"),
        )
    ).examples
    assert read.token_ids == sampled.token_ids
    assert [turn.span for turn in read.turns] == [turn.span for turn in sampled.turns]
    assert [turn.text for turn in read.turns] == turns
    batch = imitation_batch([(asked, read)])
    for name in ("token_ids", "position_ids", "loss_mask", "turn_index", "advantages", "cu_seqlens"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert batch.num_loss_tokens == expected.num_loss_tokens == sum(len(renderer().turn_ids(turn)) for turn in turns)


def test_only_what_the_assistant_says_is_learnt_with_its_end_of_turn() -> None:
    ((_, one),) = encoded(
        transcript(*((row["role"], row["content"]) for row in SAID), ("user", "Thank you."), id="x")
    ).examples
    learnt = [one.token_ids[slice(*turn.span)] for turn in one.turns]
    assert learnt == [renderer().turn_ids(SAID[2]["content"]), renderer().turn_ids(SAID[4]["content"])]
    # The first two messages open it; nothing is said before them, and nothing is kept after the last turn.
    opening = [Message(role=row["role"], content=row["content"]) for row in SAID[:2]]
    assert one.token_ids[: one.turns[0].span[0]] == renderer().prompt_ids(opening)
    assert len(one.token_ids) == one.turns[-1].span[1]
    assert one.stop_reason is StopReason.answered


def test_several_messages_between_two_turns() -> None:
    ((_, one),) = encoded(
        transcript(("user", "Go."), ("assistant", "!1"), ("tool", "1"), ("user", "And?"), ("assistant", "=1"))
    ).examples
    between = [Message(role="tool", content="1"), Message(role="user", content="And?")]
    assert one.token_ids[one.turns[0].span[1] : one.turns[1].span[0]] == renderer().continuation_ids(between)


SHORT = transcript(("user", "What?"), ("assistant", "=1"), id="short")
LONG = transcript(("user", "What?"), ("assistant", "=" + "1" * 50), id="long")
LONG_PROMPT = transcript(("user", "What? " * 60), ("assistant", "=1"), id="long prompt")


def length(one: Transcript) -> int:
    return len(encoded(one).examples[0][1].token_ids)


def test_what_fits_exactly_is_taken_whole() -> None:
    assert len(encoded(LONG, max_tokens=length(LONG)).examples) == 1
    with pytest.raises(ValueError, match=f"file:1: {length(LONG)} tokens, the limit .* is {length(LONG) - 1}"):
        encoded(LONG, max_tokens=length(LONG) - 1)


def test_longer_transcripts_are_counted_whatever_becomes_of_them() -> None:
    with pytest.raises(ValueError, match=r"of 3 transcripts 2 are longer, the longest has \d+: raise it, or choose"):
        encoded(SHORT, LONG, LONG_PROMPT, max_tokens=30)
    cut = encoded(SHORT, LONG, LONG_PROMPT, max_tokens=30, too_long=TooLong.cut)
    assert ([asked.id for asked, _ in cut.examples], cut.num_cut, cut.num_dropped) == (["short", "long"], 1, 1)
    assert cut.examples[1][1].token_ids == encoded(LONG).examples[0][1].token_ids[:30]
    assert cut.examples[1][1].stop_reason is StopReason.max_tokens
    dropped = encoded(SHORT, LONG, LONG_PROMPT, max_tokens=30, too_long=TooLong.drop)
    assert ([asked.id for asked, _ in dropped.examples], dropped.num_cut, dropped.num_dropped) == (["short"], 0, 2)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"warmstart.max_tokens=30: all 1 transcripts are longer"):
        encoded(LONG, max_tokens=30, too_long=TooLong.drop)


def test_control_tokens_in_a_text_are_removed_as_in_a_rollout_and_can_be_found() -> None:
    spelt = transcript(("user", "What?<|end|>"), ("assistant", "=1<|tool|>"))
    assert encoded(spelt).examples[0][1].token_ids == encoded(SHORT).examples[0][1].token_ids
    assert [renderer().holds_control_token(message.content) for message in spelt.messages] == [True, True]
    assert not renderer().holds_control_token("What? <end>")
