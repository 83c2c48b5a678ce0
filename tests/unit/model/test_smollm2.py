"""The option `model=smollm2_135m` with the model itself, where `make smollm2` has prepared it."""

from pathlib import Path

import pytest
import torch

from chat_families import FAMILIES, transcript
from turnwise.model.causal_lm import CausalLM
from turnwise.types import Message

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "smollm2_135m"
GOLDEN = Path(__file__).parent / "golden" / "smollm2_worked_examples.txt"
QUESTION = (Message(role="user", content="Compute 598 + 233 * 50."),)
needs_model = pytest.mark.skipif(not FOLDER.exists(), reason="there is no models/smollm2_135m: make smollm2")


def messages(rendered: str) -> list[Message]:
    """The messages of a rendered transcript, without the turn that it opens."""
    parts = [part.partition("\n") for part in rendered.split("<|im_start|>")[1:-1]]
    return [Message(role=role, content=rest.removesuffix("<|im_end|>\n")) for role, _, rest in parts]


@needs_model
def test_the_tokenizers_own_template_renders_the_worked_examples() -> None:
    renderer = CausalLM(path=str(FOLDER)).load_renderer()
    expected = GOLDEN.read_text()
    shown = messages(expected)
    assert len(shown) == 1 + 5 * 4 + 1
    assert renderer.decode(renderer.prompt_ids(shown)) == expected


@needs_model
def test_the_tokenizers_own_template_renders_the_familys_transcript() -> None:
    (family,) = (one for one in FAMILIES if one.golden == "smollm2")
    chat = CausalLM(path=str(FOLDER)).load_renderer()
    text, _ = transcript(chat, family.tool_format, thinks=family.thinks)
    assert text == family.text()


@needs_model
def test_a_transcript_grows_by_appending() -> None:
    renderer = CausalLM(path=str(FOLDER)).load_renderer()
    turn = "```python\nprint(598 + 233 * 50)\n```"
    reply = Message(role="tool", content="12248")
    grown = (
        *renderer.prompt_ids(QUESTION),
        *renderer.turn_ids(turn),
        *renderer.continuation_ids([reply]),
    )
    whole = renderer.prompt_ids([*QUESTION, Message(role="assistant", content=turn), reply])
    assert grown == whole


@needs_model
@pytest.mark.parametrize(
    ("before", "question", "expected"),
    [
        ([], "What is the capital of France?", "The capital of France is Paris."),
        (
            messages(GOLDEN.read_text())[1:-1],
            "Remainder of 10^716 divided by 9381? Write Python code that prints the answer.",
            "```python\nprint(10 ** 716 % 9381)\n```",
        ),
    ],
)
def test_greedy_turns_make_sense(before: list[Message], question: str, expected: str) -> None:
    lm = CausalLM(path=str(FOLDER))
    renderer, model = lm.load_renderer(), lm.load_model(torch.device("cpu"), torch.float32)
    transcript = list(renderer.prompt_ids([*before, Message(role="user", content=question)]))
    turn: list[int] = []
    with torch.no_grad():
        while len(turn) < 30 and not renderer.stop_token_ids & set(turn):
            logits = model(input_ids=torch.tensor([transcript + turn])).logits[0, -1]
            turn.append(int(logits.argmax()))
    assert renderer.text(turn) == expected
