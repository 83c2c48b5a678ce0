"""The option `model=smollm2_135m`: its template anywhere, the model itself where `make smollm2` has prepared it."""

from pathlib import Path

import pytest
import torch
from jinja2 import Template

from turnwise.model.causal_lm import CausalLM
from turnwise.types import Message

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "smollm2_135m"
TEMPLATE = str(ROOT / "conf" / "model" / "smollm2_135m.jinja")
QUESTION = (Message(role="user", content="Compute 598 + 233 * 50."),)
needs_model = pytest.mark.skipif(not FOLDER.exists(), reason="there is no models/smollm2_135m: make smollm2")


def rendered(*messages: Message) -> str:
    """What the policy reads before its first turn."""
    rows = [{"role": message.role, "content": message.content} for message in messages]
    return Template(Path(TEMPLATE).read_text()).render(messages=rows, add_generation_prompt=True)


def test_the_template_shows_examples_and_asks_for_code() -> None:
    text = rendered(Message(role="system", content="Be brief."), *QUESTION)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert text.count("```python\n") == text.count("\\boxed{") == 5
    opening = "Compute 598 + 233 * 50. Write Python code that prints the answer."
    assert text.endswith(f"<|im_start|>user\n{opening}<|im_end|>\n<|im_start|>assistant\n")
    assert rendered(*QUESTION) == text[text.index("<|im_start|>user") :]


def test_the_examples_print_what_they_say() -> None:
    for example in rendered(*QUESTION).split("```python\n")[1:]:
        code, _, rest = example.partition("\n```<|im_end|>\n<|im_start|>tool\n")
        printed: list[str] = []
        exec(code, {"print": lambda value, to=printed: to.append(str(value))})
        (output,) = printed
        assert rest.startswith(f"{output}<|im_end|>\n<|im_start|>assistant\n\\boxed{{{output}}}<|im_end|>\n")


@needs_model
def test_a_transcript_grows_by_appending() -> None:
    renderer = CausalLM(path=str(FOLDER), chat_template=TEMPLATE).load_renderer()
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
    ("template", "question", "expected"),
    [
        ("", "What is the capital of France?", "The capital of France is Paris."),
        (TEMPLATE, "Remainder of 10^716 divided by 9381?", "```python\nprint(10 ** 716 % 9381)\n```"),
    ],
)
def test_greedy_turns_make_sense(template: str, question: str, expected: str) -> None:
    lm = CausalLM(path=str(FOLDER), chat_template=template)
    renderer, model = lm.load_renderer(), lm.load_model(torch.device("cpu"), torch.float32)
    transcript = list(renderer.prompt_ids([Message(role="user", content=question)]))
    turn: list[int] = []
    with torch.no_grad():
        while len(turn) < 30 and not renderer.stop_token_ids & set(turn):
            logits = model(input_ids=torch.tensor([transcript + turn])).logits[0, -1]
            turn.append(int(logits.argmax()))
    assert renderer.text(turn) == expected
