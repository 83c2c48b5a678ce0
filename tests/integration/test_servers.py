"""Whole runs over vLLM servers, which are stand-ins that speak its endpoints."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration_runs import SMALL, Run, lines
from killed_runs import Starter
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


@pytest.mark.parametrize("mode", ["train", pytest.param("evaluate", marks=pytest.mark.slow)])
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


def over_ranks(servers: list[StandIn], model: Path) -> list[str]:
    return [*SMALL, *overrides(servers, model), "trainer=fsdp"]


def both_ended(start: Starter, arguments: list[str], folder: Path) -> list[tuple[int, str]]:
    """Exit code and output of two ranks of a run in `folder`."""
    ranks = start.ranks(2, arguments, folder)
    return [(rank.wait(), rank.output.read_text()) for rank in ranks]


def test_ranks_share_the_servers_out_and_lose_one(start: Starter, model: Path, tmp_path: Path) -> None:
    with stand_ins(3, **MODEL) as servers:
        servers[2].dies_after = 2  # the probe and a turn; the first rank goes on with the first server
        done = both_ended(start, over_ranks(servers, model), tmp_path / "run")
        assert all(server.seeds for server in servers)
    assert [code for code, _ in done] == [0, 0], done
    (said,) = [text for _, text in done if servers[2].url in text]
    assert said.count(f"warning: {servers[2].url} is left out") == 1
    trained = [row for row in lines(tmp_path / "run") if "mismatch/log_ratio_max" in row]
    assert [row["loss/num_sequences"] for row in trained] == [4, 4]


@pytest.mark.slow
def test_all_ranks_end_where_one_has_no_server_left(start: Starter, model: Path, tmp_path: Path) -> None:
    with stand_ins(2, **MODEL) as servers:
        servers[1].dies_after = 3
        done = both_ended(start, over_ranks(servers, model), tmp_path / "run")
    assert [code for code, _ in done] == [1, 1], done
    assert f"no vLLM is left to sample with: {servers[1].url}: it cannot be reached" in done[1][1]


def test_a_rank_without_a_server_is_refused(start: Starter, model: Path, tmp_path: Path) -> None:
    with stand_ins(1, **MODEL) as servers:
        done = both_ended(start, over_ranks(servers, model), tmp_path / "run")
    assert [code for code, _ in done] == [2, 2], done
    assert "error: engine.urls=" in done[0][1]
    assert ": 1 for 2 processes of torchrun, expected at least one for each" in done[0][1]
    assert "Traceback" not in done[0][1] + done[1][1]


@pytest.mark.slow
def test_a_server_of_another_rank_that_serves_another_model_ends_all(
    start: Starter, model: Path, tmp_path: Path
) -> None:
    with stand_ins(1, **MODEL) as servers, stand_ins(1, **(MODEL | {"vocab_size": 700})) as others:
        done = both_ended(start, over_ranks([*servers, *others], model), tmp_path / "run")
    assert [code for code, _ in done] == [2, 2], done
    line = f"error: engine.urls: {others[0].url}: it serves vocab_size=700, expected 622\n"
    assert line in done[0][1]
    assert "Traceback" not in done[0][1] + done[1][1]
