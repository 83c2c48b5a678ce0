"""`warmstart.source=transcripts`: any model learns the turns of a file of messages."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from turnwise.config.ending import run_to_end
from turnwise.config.errors import ConfigError, building
from turnwise.config.parts import Components
from turnwise.config.warmstart.lesson import Lesson, check_positions, load_policy
from turnwise.model.chat import ChatRenderer
from turnwise.warmstart.transcripts import Transcript, encode, read_transcripts


def from_transcripts(components: Components, run_dir: Path, console: Console) -> Lesson:
    """Reads the file and encodes it; all of it is checked before the model loads.

    Raises:
        ConfigError: The file, a line of it or a limit is not as it must be.
    """
    del run_dir
    settings = components.warmstart
    if not settings.path:
        raise ConfigError("warmstart.source=transcripts needs a file: give warmstart.path=FILE")
    limit = components.rollout.max_tokens if settings.max_tokens is None else settings.max_tokens
    with building():
        transcripts = read_transcripts(Path(settings.path).expanduser())
        renderer = components.model.load_renderer()
        encoded = run_to_end(encode(transcripts, renderer, max_tokens=limit, too_long=settings.too_long))
    console.print(
        f"{len(transcripts)} transcripts of {settings.path}: {len(encoded.examples)} to learn from, of which "
        f"{encoded.num_cut} were cut at {limit} tokens; {encoded.num_dropped} dropped as longer",
        highlight=False,
        soft_wrap=True,
    )
    _warn_of_control_tokens(transcripts, renderer, console)
    policy = load_policy(components, renderer, console)
    check_positions(
        max(len(trajectory.token_ids) for _, trajectory in encoded.examples),
        policy.num_positions,
        components.model.path,
    )
    return Lesson(policy=policy, examples=lambda: encoded.examples)


def _warn_of_control_tokens(transcripts: Sequence[Transcript], renderer: ChatRenderer, console: Console) -> None:
    """Says where text spells out control tokens, which are not learnt: as in a rollout, they are removed."""
    found = [
        f"{transcript.place}: messages[{index}]"
        for transcript in transcripts
        for index, message in enumerate(transcript.messages)
        if renderer.holds_control_token(message.content)
    ]
    if found:
        console.print(
            f"warning: {len(found)} messages spell out control tokens of the chat template, which are removed, as in a "
            f"rollout; the first is {found[0]}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
