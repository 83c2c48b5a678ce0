"""What grows along an axis: tables from times, what is measured for them, and how figures are named and shown."""

import asyncio
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import peer
import run
import scaling
from peer_work import NUM_TOKENS
from table import Table, plain
from turnwise.engine.hf import HFSession


@pytest.mark.parametrize(("value", "shown"), [(10091.4, "10090"), (1.5, "1.5"), (0.61234, "0.6123"), (2.0, "2")])
def test_figures_have_four_digits_and_no_exponent(value: float, shown: str) -> None:
    assert plain(value) == shown


def test_no_two_figures_are_shown_under_one_name() -> None:
    for result in json.loads(run.RESULTS.read_text()).values():
        names = [run._named(key) for key in result["figures"]]
        assert len(names) == len(set(names))
    side = {"step_s": 1.0, "peak_mib": 1.0, "num_tokens": NUM_TOKENS, "num_prompt_tokens": 42}
    compared = peer.compared([{"trl": side, "ours": side | {"rollout_s": 0.5, "update_s": 0.5}}] * 2)
    assert len({run._named(key) for key in compared}) == len(compared)


def test_a_table_is_kept_as_data_and_shown_with_what_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    run.PAGE.write_text(f"Head.\n{run.BEGIN}old\n{run.END}Foot.\n")
    grown = Table(["prompt tokens", "update ms"], [[131072, 2.5], [1024, 0.25]], "Look at the first over the last.")
    monkeypatch.setattr(scaling, "measure", lambda: {"prompt": grown, "one_s": 1.23456})
    monkeypatch.setattr(sys, "argv", ["run.py", "scaling"])
    assert run.main() == 0
    shown = "| prompt tokens | update ms |\n| ---: | ---: |\n| 131072 | 2.5 |\n| 1024 | 0.25 |\n\nLook at the first"
    assert shown in capsys.readouterr().out
    page = run.PAGE.read_text()
    assert shown in page and "| one | 1.235 s |" in page and page.startswith("Head.\n") and page.endswith("Foot.\n")  # noqa: PT018
    kept = json.loads(run.RESULTS.read_text())["scaling"]
    assert kept["figures"] == {"one_s": 1.235}
    assert kept["tables"]["prompt"]["rows"] == [[131072, 2.5], [1024, 0.25]]


def test_rows_that_do_not_fit_their_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of \[1\] figures under 2 heads"):
        Table(["a", "b"], [[1, 2], [3]], "")


def made_up_ms(kind: str, made: scaling.Step) -> float:
    """10 for the step, 1 for each prompt that is computed per 100 tokens, 2 for each trajectory of each turn."""
    prompts = 1 if made.shares_prompts else made.group_size
    once = 10 + prompts * made.prompt_tokens / 100 + 2 * made.group_size * made.num_turns
    return once * (2 if kind == scaling.ROLLOUT else 1)


def test_scaling_tables_from_times() -> None:
    pairs = [scaling.pair(one, shares_prompts=shares) for one in scaling.PROMPTS for shares in (True, False)]
    steps = [*scaling.GROUPS, *chain(*pairs), *scaling.TURNS, *scaling.VOCABULARIES]
    made = scaling.tables({(kind, one): made_up_ms(kind, one) for kind in ("update", "rollout") for one in steps})
    group, prompt, turns, vocabulary = made.values()
    # 10 + 2.56 + 2 * 2 = 16.56 and 10 + 2.56 + 2 * 32 = 76.56: 4.623 times as much, 8.28 and 2.393 a trajectory.
    assert group.rows[0] == [2, 16.56, 1, 8.28, 33.12, 1, 16.56]
    assert group.rows[-1] == [32, 76.56, 4.623, 2.393, 153.1, 4.623, 4.785]
    assert "0.29 x in the update" in group.reading  # 2.393 / 8.28
    # An extra trajectory costs its 2, and with a prompt of its own that too: 0.32 or 10.24.
    columns = list(zip(*prompt.rows, strict=True))
    assert columns[3] == (2, 2, 2, 2)
    assert columns[4] == (2.32, 3.28, 7.12, 12.24)
    assert columns[7] == (4, 4, 4, 4)
    assert "1.00 x where the group shares its prompt" in prompt.reading
    assert "5.28 x where each trajectory has its own" in prompt.reading  # 12.24 / 2.32
    # 10 + 0.64 + 2 * 8 = 26.64 a turn of one, (10.64 + 16 * 8) / 8 = 17.33 a turn of eight.
    assert [row[3] for row in turns.rows][::3] == [26.64, 17.33]
    assert [row[0] for row in vocabulary.rows] == [4096, 16384, 65536, 131072]
    assert [row[2] for row in vocabulary.rows] == [1, 1, 1, 1]


def test_scaling_samples_and_updates_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    monkeypatch.setattr(scaling, "SHAPE", {**sizes, "num_hidden_layers": 1})
    sampled: list[int] = []
    generate = HFSession.generate

    async def noted(session: HFSession, token_ids: Any, sampling: Any) -> Any:
        sampled.append(len(token_ids))
        return await generate(session, token_ids, sampling)

    monkeypatch.setattr(HFSession, "generate", noted)
    with asyncio.Runner() as runner:
        model = scaling.Model(50, runner)
        made = scaling.Step(group_size=2, prompt_tokens=5, num_turns=2, vocab_size=50)
        monkeypatch.setattr(scaling, "ROUNDS", 2)
        times = scaling.medians(model.arms(made))
        model.close()
    assert set(times) == {("update", made), ("rollout", made)}
    assert min(times.values()) > 0
    # Two rounds of two trajectories: the prompt, then the prompt, a turn of 24 tokens, 16 of the tool.
    assert sorted(sampled) == [5] * 4 + [45] * 4
