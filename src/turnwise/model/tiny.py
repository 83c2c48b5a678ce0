"""A Llama of about a million parameters with its own tokenizer: a real policy that needs no GPU and no download."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("system", "user", "assistant", "tool")
CONTROL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))

SMALLEST_VOCABULARY = 256 + len(CONTROL_TOKENS)
"""Every byte and every control token: a tokenizer without merges."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('unknown role ' + message.role) }}"
    "{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Two tokens a message: its role and its end."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer with the chat template above; any text survives a round trip.

    Args:
        texts: What merges are learnt from; the same texts in the same order give the same tokenizer.
        vocab_size: Entries including 256 bytes and the control tokens. Digits are never merged, so that a number
            is read and written figure by figure.

    Raises:
        ValueError: If `vocab_size` leaves no room for a merge.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size <= SMALLEST_VOCABULARY:
        raise ValueError(f"vocab_size={vocab_size}: expected > {SMALLEST_VOCABULARY} (256 bytes and control tokens)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model_config(vocab_size: int, *, eos_token_id: int, pad_token_id: int) -> "LlamaConfig":
    """Four layers of width 160 with one key/value head: about 1.1 million parameters, embeddings tied."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def new_tiny_model(tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
    """A freshly initialised model for `tokenizer`, a function of `seed`; the global generator is left as it was."""
    from transformers import LlamaForCausalLM

    eos: Any = tokenizer.eos_token_id
    pad: Any = tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_model_config(len(tokenizer), eos_token_id=eos, pad_token_id=pad))
