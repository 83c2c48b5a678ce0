"""TRL's side of the comparison: GRPOTrainer, one optimiser step whenever it is asked for. Run by peer.py.

Its environment is bench/peer_requirements.txt, not ours: it imports nothing of turnwise.
"""

import os
import tempfile
from time import perf_counter
from typing import Any

from peer_work import (
    GROUP_SIZE,
    LEARNING_RATE,
    NEW_TOKENS,
    NUM_PROBLEMS,
    Turns,
    arguments,
    conversations,
    reward_of,
)

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}

from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports]


class Timed(TrainerCallback):
    """Waits before a step until it is asked for, and answers after it: sampling, update and optimiser included."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._started = 0.0
        self.num_tokens = self.num_prompt_tokens = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called before the prompts of the step are sampled from."""
        self._turns.wait()
        self._started = perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called after the optimiser's step."""
        step_s = perf_counter() - self._started
        self._turns.answer(step_s=step_s, num_tokens=self.num_tokens, num_prompt_tokens=self.num_prompt_tokens)


def main() -> None:
    """Trains on as many batches of prompts as the command line says steps."""
    options, turns = arguments(), Turns()
    timed = Timed(turns)

    def reward(completions: list[Any], completion_ids: list[Any], **_: Any) -> list[float]:
        timed.num_tokens = sum(map(len, completion_ids))
        return [reward_of(messages[0]["content"]) for messages in completions]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,  # the weights are of `dtype`; this one asks for autocast
            model_init_kwargs={"dtype": options.dtype},
            gradient_checkpointing=False,
            per_device_train_batch_size=NUM_PROBLEMS * GROUP_SIZE,
            num_generations=GROUP_SIZE,
            max_completion_length=NEW_TOKENS,
            generation_kwargs={"min_new_tokens": NEW_TOKENS},
            temperature=1.0,
            beta=0.0,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_steps=options.steps,
            shuffle_dataset=False,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
        )
        rows = [{"prompt": conversation} for conversation in conversations(NUM_PROBLEMS * options.steps)]
        trainer = GRPOTrainer(
            model=options.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            callbacks=[timed],
        )
        tokenizer: Any = trainer.processing_class
        prompt = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False)
        timed.num_prompt_tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        trainer.train()


if __name__ == "__main__":
    main()
