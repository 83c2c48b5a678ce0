import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny_models import TEXTS, VOCAB_SIZE, renderer, small_model, tokenizer
from turnwise.model.attention import Attention
from turnwise.model.causal_lm import PACKAGE_WEIGHTS, CausalLM
from turnwise.model.tiny import train_tokenizer
from turnwise.types import Message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(made)
    tokenizer().save_pretrained(made)
    return made


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model whose tokenizer has no chat template."""
    small_model().config.save_pretrained(tmp_path)
    made = train_tokenizer(TEXTS, VOCAB_SIZE)
    made.chat_template = None
    made.save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_loads_with_its_renderer(folder: Path) -> None:
    lm = CausalLM(path=str(folder))
    lm.load_renderer()
    model = lm.load_model(torch.device("cpu"), torch.float32)
    assert not model.training
    token_ids = torch.tensor([[5, 6, 7]])
    assert model(input_ids=token_ids).logits.equal(small_model()(input_ids=token_ids).logits)
    messages = [Message(role="user", content="What is 12?")]
    assert lm.load_renderer().prompt_ids(messages) == renderer().prompt_ids(messages)
    assert lm.load_model(torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "model.path is empty"),
        ("/no/such/folder", "model.path='/no/such/folder': no such folder"),
        ("./missing", "model.path='./missing': no such folder"),
        ("package:nothing", "model.path='package:nothing': no such folder"),
    ],
)
def test_a_missing_path_is_one_clear_line(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        CausalLM(path=path).load_renderer()
    assert "\n" not in str(caught.value)


def test_an_option_can_say_how_its_folder_is_made() -> None:
    with pytest.raises(ValueError, match=r"model\.path='\./missing': no such folder, run `make it`$"):
        CausalLM(path="./missing", missing_hint="run `make it`").load_model(torch.device("cpu"), torch.float32)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        CausalLM(path=str(tmp_path)).load_renderer()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="no tokenizer can be loaded") as caught:
        CausalLM(path=str(tmp_path)).load_renderer()
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_chat_template_is_refused_unless_a_file_gives_one(bare: Path) -> None:
    with pytest.raises(ValueError, match="has no chat template"):
        CausalLM(path=str(bare)).load_renderer()
    file = bare / "template.jinja"
    with pytest.raises(ValueError, match=r"model\.chat_template=.*: no such file"):
        CausalLM(path=str(bare), chat_template=str(file)).load_renderer()
    file.write_text(tokenizer().chat_template)
    messages = [Message(role="user", content="What is 12?")]
    given = CausalLM(path=str(bare), chat_template=str(file)).load_renderer()
    assert given.prompt_ids(messages) == renderer().prompt_ids(messages)


def test_a_turn_ends_at_the_tokens_that_the_model_was_taught_to_end_at(tmp_path: Path) -> None:
    small_model().config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm, end = CausalLM(path=str(tmp_path)), tokenizer().convert_tokens_to_ids("<|end|>")
    assert lm.load_renderer().stop_token_ids == {end}
    for taught, expected in ((7, {end, 7}), ([end, 8, 9], {end, 8, 9}), (None, {end})):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": taught}))
        assert lm.load_renderer().stop_token_ids == expected
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json cannot be read, ") as caught:
        lm.load_renderer()
    assert "\n" not in str(caught.value)


def test_options_reach_the_template(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model\.template_options\.mood: the chat template of model\.path=.* reads no"
    ):
        CausalLM(path=str(folder), template_options={"mood": "calm"}).load_renderer()
    file = folder / "mood.jinja"
    file.write_text("{{ mood }}" + tokenizer().chat_template)
    lm = CausalLM(path=str(folder), template_options={"mood": "calm"}, chat_template=str(file))
    opened = lm.load_renderer().prompt_ids([Message(role="user", content="What is 12?")])
    assert tokenizer().decode(list(opened)) == "calm<|user|>What is 12?<|end|><|assistant|>"


def test_weights_that_are_not_there_are_one_clear_line(bare: Path) -> None:
    with pytest.raises(ValueError, match="no model can be loaded") as caught:
        CausalLM(path=str(bare)).load_model(torch.device("cpu"), torch.float32)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_cannot_be_had_is_refused_before_the_path_is_read() -> None:
    lm = CausalLM(path="/no/such/folder", attention=Attention.flash_attention_2)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        lm.load_model(torch.device("cpu"), torch.bfloat16)


def test_checking_a_model_imports_no_model_and_declaring_one_no_transformers(folder: Path) -> None:
    script = (
        "import sys\n"
        "from turnwise.model.causal_lm import PACKAGE_WEIGHTS, CausalLM\n"
        "from turnwise.engine.hf import HFEngine\n"
        "import turnwise.model.policy, turnwise.model.tiny\n"
        "assert 'transformers' not in sys.modules\n"
        f"CausalLM(path={str(folder)!r}).load_renderer()\n"
        "assert not [name for name in sys.modules if '.modeling_llama' in name]\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[3] / "src"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_identity_of_a_model_is_its_content_and_not_its_date(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", folder)
    first = CausalLM(path=str(folder)).identity()
    (folder / "model.safetensors").touch()
    assert CausalLM(path=str(folder)).identity() == first
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        assert CausalLM(path=str(folder)).identity() != first
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    assert CausalLM(path=str(folder)).identity() == first
