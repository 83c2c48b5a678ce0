"""What was saved for another model is refused by name."""

import copy
from pathlib import Path

import pytest
import torch

from turnwise.model.fitting import check_optimiser, check_vocabulary, check_weights
from turnwise.model.tiny import train_tokenizer

OWN = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


def test_weights_that_differ_are_named_with_both_shapes():
    check_weights({"b": torch.ones(4), "a": torch.ones(2, 3)}, OWN)
    with pytest.raises(ValueError, match=r"its weights do not fit this model: a is \(3, 2\) there, \(2, 3\) here$"):
        check_weights({**OWN, "a": torch.zeros(3, 2)}, OWN)
    with pytest.raises(ValueError, match=r"model: b is absent there, \(4,\) here$"):
        check_weights({"a": OWN["a"]}, OWN)
    many = {f"layer_{number}": torch.zeros(1) for number in range(5)}
    with pytest.raises(ValueError, match=r"layer_0 is \(1,\) there, absent here; .*layer_2 .* here and 2 more$"):
        check_weights({**OWN, **many}, OWN)


def test_a_vocabulary_that_differs_is_named(tmp_path: Path):
    tokenizer = train_tokenizer(["one two three " * 9], vocab_size=268)
    tokenizer.save_pretrained(tmp_path)
    own = tokenizer.get_vocab()
    check_vocabulary(tmp_path, own)
    with pytest.raises(ValueError, match=r"is not this model's: token '<new>' is absent there, 999 here$"):
        check_vocabulary(tmp_path, {**own, "<new>": 999})
    with pytest.raises(ValueError, match=r"token 'a' is \d+ there, 3 here$"):
        check_vocabulary(tmp_path, {**own, "a": 3})


def optimiser(*shapes: int, **settings) -> torch.optim.AdamW:
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    made = torch.optim.AdamW(parameters, **{"lr": 0.1, "weight_decay": 0.0, **settings})
    torch.stack([parameter.sum() for parameter in parameters]).sum().backward()
    made.step()
    return made


def test_an_optimiser_that_differs_is_named():
    saved = copy.deepcopy(optimiser(2, 3).state_dict())
    check_optimiser(saved, optimiser(2, 3, lr=0.5))  # every update sets the learning rate
    with pytest.raises(ValueError, match=r"weight_decay of group 0 is 0\.0 there, 0\.1 here$"):
        check_optimiser(saved, optimiser(2, 3, weight_decay=0.1))
    with pytest.raises(ValueError, match=r"its optimiser is not this one: parameters of group 0 is 2 there, 1 here$"):
        check_optimiser(saved, optimiser(2))
    with pytest.raises(ValueError, match=r"exp_avg of parameter 1 is \(3,\) there, \(4,\) here; exp_avg_sq of"):
        check_optimiser(saved, optimiser(2, 4))
