"""Hand-made runs for the tests of the trajectory viewer, and a page that holds nothing but the viewer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from builders import group, trajectory
from turnwise.report.page import render_page
from turnwise.report.trajectories import MAX_BYTES, read_trajectories
from turnwise.tracker.files import FilesTracker
from turnwise.types import Message, ScoredGroup, StopReason, ToolResult, ToolStatus, Trajectory

Rows = tuple[tuple[float, ...], ...]

PAGE = """{% extends "page.html.j2" %}
{% block title %}Trajectories{% endblock %}
{% block header %}<h1>Trajectories</h1>{% endblock %}
{% block links %}<a href="#trajectories">Trajectories</a>{% endblock %}
{% block main %}{% include "trajectories.html.j2" %}{% endblock %}
"""


def viewer_page(folder: Path, runs: Mapping[str, Path], max_bytes: int = MAX_BYTES) -> str:
    """Writes a page with the viewer of these runs; returns its address."""
    (folder / "viewer.html.j2").write_text(PAGE)
    page = render_page("viewer.html.j2", folder=folder, trajectories=read_trajectories(runs, max_bytes))
    (folder / "viewer.html").write_bytes(page)
    return (folder / "viewer.html").as_uri()


def said(one: Trajectory, *texts: str, status: ToolStatus = ToolStatus.ok, output: str = "1") -> Trajectory:
    """The trajectory with what its turns say, and how every tool call of it ended."""
    result = ToolResult(status=status, output=output, wall_s=0.01)
    turns = tuple(
        replace(turn, text=text, tool_result=turn.tool_result and result)
        for turn, text in zip(one.turns, texts, strict=True)
    )
    return replace(one, turns=turns)


def with_gaps(one: Trajectory, gap: float) -> Trajectory:
    """The trajectory with log-probs of the trainer that are `gap` above the sampler's."""
    turns = (
        replace(turn, trainer_logprobs=tuple(logprob + gap for logprob in turn.behaviour_logprobs))
        for turn in one.turns
    )
    return replace(one, turns=tuple(turns))


def scored(
    *trajectories: Trajectory,
    correct: Sequence[bool],
    question: str = "What is six times seven?",
    source: str = "products",
    terms: Mapping[str, Rows] | None = None,
    peers: tuple[tuple[tuple[int, float], ...], ...] = (),
    id: str = "p0",
) -> ScoredGroup:
    """A group whose answer is 42; without `terms` all rewards are 0."""
    made = group(*trajectories, id=id)
    prompt = (Message(role="system", content="Use Python."), Message(role="user", content=question))
    made = replace(made, problem=replace(made.problem, prompt=prompt, source=source))
    zeros = tuple((0.0,) * len(one.turns) for one in trajectories)
    named = {"accuracy": zeros} if terms is None else dict(terms)
    rewards = tuple(
        tuple(round(sum(rows[g][k] for rows in named.values()), 9) for k in range(len(row)))
        for g, row in enumerate(zeros)
    )
    return ScoredGroup(
        group=made, turn_rewards_GK=rewards, terms=named, correct_G=tuple(correct), shaping_peers_G=peers
    )


def log(folder: Path, step: int, *pairs: tuple[ScoredGroup, list[list[float]]]) -> None:
    """Writes one step of groups with their advantages; every return is the turn's place, counted from 1."""
    tracker = FilesTracker(folder, first_step=step)
    groups = [one for one, _ in pairs]
    returns = [[[k + 1.0 for k in range(len(t.turns))] for t in one.group.trajectories] for one in groups]
    tracker.log_groups(groups, returns, [advantages for _, advantages in pairs], step)
    tracker.close()


def mixed_group() -> tuple[ScoredGroup, list[list[float]]]:
    """Two right, one wrong, one that the sandbox failed.

    Of the three that count two are correct: the right ones are 1 - 2/3 > 0 above the share, the wrong one 0 - 2/3 < 0
    below. Sample 1 has +0.25 in its second turn, sample 2 -0.5 in its first: the two turns against the outcome.
    """
    call = "I compute.\n```python\nprint(6 * 7)  # forty-two\n```"
    sampled = (
        with_gaps(said(trajectory(answer="42", sample_index=0), call, "So \\boxed{42}.", output="42"), 0.25),
        with_gaps(
            said(
                trajectory(answer="41", sample_index=1, errors=("no closing fence", None)),
                "```python\nprint(6",
                "Perhaps \\boxed{41}.",
            ),
            -0.5,
        ),
        with_gaps(said(trajectory(answer="42", sample_index=2), call, "\\boxed{42}", output="42"), 0.25),
        said(
            trajectory(sample_index=3, stop_reason=StopReason.tool_infrastructure),
            call,
            "",
            status=ToolStatus.infrastructure,
            output="worker lost",
        ),
    )
    terms = {
        "accuracy": ((0.0, 1.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)),
        "shaping": ((0.0, 0.0), (0.0, 0.25), (0.0, 0.0), (0.0, 0.0)),
        "format": ((0.0, 0.0), (-0.1, 0.0), (0.0, 0.0), (0.0, 0.0)),
    }
    peers = ((), ((0, 0.75), (2, 0.25)), (), ())
    advantages = [[0.5, 1.0], [-1.0, 0.25], [-0.5, 1.0], [0.0, 0.0]]
    return scored(*sampled, correct=(True, False, True, False), terms=terms, peers=peers), advantages


def wrong_group() -> tuple[ScoredGroup, list[list[float]]]:
    """All wrong, yet the first has an advantage."""
    sampled = (
        said(
            trajectory(("while True: pass",), sample_index=0, problem_id="p1", stop_reason=StopReason.max_turns),
            "```python\nwhile True: pass\n```",
            status=ToolStatus.timeout,
            output="killed after 5 s",
        ),
        said(trajectory((None,), sample_index=1, problem_id="p1", answer="7"), "A guess: \\boxed{7}."),
    )
    group = scored(*sampled, correct=(False, False), question="Which primes are odd?", source="primes", id="p1")
    return group, [[0.5], [0.0]]


def right_group(num: int = 2) -> tuple[ScoredGroup, list[list[float]]]:
    """All correct in one turn, without any advantage."""
    sampled = [said(trajectory((None,), sample_index=i, answer="42"), "\\boxed{42}") for i in range(num)]
    return scored(*sampled, correct=[True] * num), [[0.0]] * num


def make_run(folder: Path) -> Path:
    """Step 0 with a mixed and a wrong group, step 5 with a right one: 4 + 2 + 2 trajectories."""
    log(folder, 0, mixed_group(), wrong_group())
    log(folder, 5, right_group())
    return folder
