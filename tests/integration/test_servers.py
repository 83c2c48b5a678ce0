"""Whole runs over vLLM servers, which are stand-ins that speak its endpoints."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration_runs import Run, lines
from turnwise.config.errors import ConfigError
from turnwise.engine.vllm.backend import NoVLLMLeft
from turnwise.model.causal_lm import PACKAGE_WEIGHTS
from vllm_stand_in import StandIn, served_model, stand_ins

MODEL = {"vocab_size": 622, "max_position_embeddings": 256}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model with the tokenizer and template of the tiny policy."""
    folder = tmp_path / "model"
    shutil.copytree(PACKAGE_WEIGHTS / "tiny", folder)
    served_model(5, **MODEL).save_pretrained(folder)
    return folder


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with stand_ins(2, **MODEL) as both:
        yield both


def overrides(servers: list[StandIn], model: Path) -> list[str]:
    return [
        "engine=vllm_server",
        f"engine.urls=[{','.join(server.url for server in servers)}]",
        "engine.max_retries=1",
        f"model.path={model}",
        "rollout.num_problems=2",
        "rollout.group_size=2",
        "rollout.max_tokens=60",
        "evaluation.num_problems=2",
        "trainer.num_steps=2",
    ]


def test_a_server_that_dies_in_a_step_costs_no_trajectory(
    run: Run, servers: list[StandIn], model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers[1].dies_after = 4  # the probe, an evaluation's and two turns: within a step
    with caplog.at_level(logging.WARNING):
        run_dir = run(*overrides(servers, model))
    said = [line for line in caplog.messages if servers[1].url in line]
    assert len(said) == 1
    assert "is left out until weights are handed over again" in said[0]
    trained = [row for row in lines(run_dir) if "mismatch/log_ratio_max" in row]
    assert [row["loss/num_sequences"] for row in trained] == [4, 4]
    assert max(row["mismatch/log_ratio_max"] for row in trained) < 2e-4


def test_a_run_ends_when_no_server_is_left(run: Run, servers: list[StandIn], model: Path) -> None:
    servers[0].dies_after, servers[1].dies_after = 3, 4
    with pytest.raises(NoVLLMLeft) as ended:
        run(*overrides(servers, model))
    assert all(f"{server.url}: it cannot be reached" in str(ended.value) for server in servers)


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_another_model_is_refused_before_the_first_step(run: Run, tmp_path: Path, model: Path, mode: str) -> None:
    with stand_ins(1, **(MODEL | {"vocab_size": 700})) as others:
        with pytest.raises(
            ConfigError, match=f"^engine.urls: {others[0].url}: it serves vocab_size=700, expected 622$"
        ):
            run(f"mode={mode}", *overrides(others, model))
        assert not any("generate" in path for path in others[0].asked_paths)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_server_that_does_not_answer_is_refused_before_the_first_step(
    run: Run, servers: list[StandIn], model: Path
) -> None:
    servers[1].kill()
    with pytest.raises(ConfigError, match=f"^engine.urls: {servers[1].url}: no vLLM server answers there"):
        run(*overrides(servers, model))
