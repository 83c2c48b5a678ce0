"""Which trajectories share a forward pass: a function of the requests alone, never of how long anything took."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from turnwise.engine.packed_pass import Copy, Stretch
from turnwise.engine.slot_cache import SlotLayout
from turnwise.engine.transcript import Transcript, Turn


class Draw(NamedTuple):
    """A token to be drawn: for whom, and after the last token of which slot's stretch; it follows `num_tokens`."""

    transcript: Transcript
    turn: Turn
    slot: int
    num_tokens: int
    uniform: float


@dataclass(kw_only=True)
class Plan:
    """One pass: what goes through the model, what is copied between slots, and which tokens are drawn."""

    stretches: list[Stretch] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)

    def run(self, transcript: Transcript, num_tokens: int) -> None:
        """Sends the next tokens of a transcript through the model."""
        assert transcript.slot is not None, "only a transcript with a slot goes through the model"
        start = transcript.num_cached
        transcript.num_cached += num_tokens
        token_ids = transcript.token_ids[start : transcript.num_cached]
        self.stretches.append(Stretch(transcript.slot, start, token_ids))

    def copy(self, source: Transcript, target: Transcript, end: int) -> None:
        """Gives `target` the keys and values that `source` has up to `end`, as far as it lacks them."""
        assert source.slot is not None, "it copies from a slot"
        assert target.slot is not None, "it copies into a slot"
        self.copies.append(Copy(source.slot, target.slot, target.num_cached, end))
        target.num_cached = end

    def draw(self, transcript: Transcript) -> None:
        """Draws a token after the tokens of the newest stretch."""
        turn = transcript.turn
        assert turn is not None, "nothing is drawn outside a turn"
        slot, uniform = self.stretches[-1].slot, turn.uniforms[len(turn.logprobs)]
        self.draws.append(Draw(transcript, turn, slot, len(transcript.token_ids), uniform))


class Schedule:
    """Time in ticks, places in slots.

    A tick is one pass. A turn that ends in tick t leaves the batch at once; its trajectory is due at tick
    t + `tool_ticks` and is admitted exactly then. Until then its tool runs while others decode. If the caller has by
    then neither asked for the next turn nor closed the trajectory, the engine waits for it. When there is nothing to
    compute, time jumps to the tick at which the next trajectory is due. A trajectory that is opened is due at once.
    In all else those go first that were opened first.

    A trajectory keeps its slot from its first turn until it is closed, which takes effect when it is due. Those that
    find no free slot wait for one. Slots are as long as the longest trajectory that waited when they were laid out; one
    that needs more waits until all of them are free.

    Attributes:
        layout: Number of slots and tokens in each.
        transcripts: The trajectories that are not closed, or not yet due to be taken out, as they were opened.
    """

    def __init__(
        self,
        *,
        tool_ticks: int,
        waits_for_tools: bool = True,
        prefill_tokens: int,
        max_slots: int,
        max_cached_tokens: int,
    ) -> None:
        """
        Args:
            tool_ticks: From the pass that ends a turn to the one that its trajectory joins.
            waits_for_tools: Whether a trajectory whose caller is not back by then holds up the others.
            prefill_tokens: Tokens that a pass takes beside those that were just sampled.
            max_slots: Trajectories that have a place at a time.
            max_cached_tokens: Tokens that fit into all slots together; a trajectory must not have more.
        """
        self.layout = SlotLayout(num_slots=0, num_columns=0)
        self.transcripts: list[Transcript] = []
        self._tool_ticks = tool_ticks
        self._waits_for_tools = waits_for_tools
        self._prefill_tokens = prefill_tokens
        self._max_slots = max_slots
        self._max_cached_tokens = max_cached_tokens
        self._tick = 0
        self._free: list[int] = []

    @property
    def tick(self) -> int:
        """Of the next pass."""
        return self._tick

    def open(self) -> Transcript:
        """Begins a trajectory."""
        self.transcripts.append(Transcript(due=self._tick))
        return self.transcripts[-1]

    @property
    def is_settled(self) -> bool:
        """Whether every trajectory that is due was asked for a turn or closed; one, if tools are not waited for."""
        due = [t for t in self.transcripts if t.due <= self._tick]
        if not self._waits_for_tools and any(t.turn is not None for t in due):
            return True
        return all(t.turn is not None or t.is_closed for t in due)

    def rest(self, transcript: Transcript) -> None:
        """Its turn ended in the pass that was planned last: it is the caller's until it is due again."""
        transcript.due = self._tick - 1 + self._tool_ticks

    def plan(self) -> Plan:
        """The pass of this tick, which must be settled; afterwards it is the next tick.

        Empty if nothing is to be computed. Time then stands at the tick at which someone is due; where it stands still,
        nothing can be computed before a caller has asked or closed.
        """
        self._take_back_slots()
        self._hand_out_slots()
        plan, prefills = Plan(), list[Transcript]()
        for transcript in self._asked():
            if transcript.slot is None:
                continue
            if len(transcript.token_ids) - transcript.num_cached > 1:
                prefills.append(transcript)
            else:
                plan.run(transcript, 1)
                plan.draw(transcript)
        self._prefill(prefills, plan)
        if plan.stretches:
            self._tick += 1
        else:
            self._tick = min((t.due for t in self.transcripts if t.due > self._tick), default=self._tick)
        return plan

    def reset(self) -> None:
        """Forgets what lies in the slots; everything is computed anew."""
        for transcript in self.transcripts:
            transcript.leave()
        self.layout = SlotLayout(num_slots=0, num_columns=0)
        self._free = []

    def _asked(self) -> list[Transcript]:
        return [t for t in self.transcripts if t.turn is not None and t.due <= self._tick]

    def _take_back_slots(self) -> None:
        for transcript in self.transcripts:
            is_too_long = transcript.turn is not None and transcript.num_columns > self.layout.num_columns
            if transcript.slot is not None and transcript.due <= self._tick and (transcript.is_closed or is_too_long):
                heappush(self._free, transcript.slot)
                transcript.leave()
        self.transcripts = [t for t in self.transcripts if not t.is_closed or t.due > self._tick]

    def _hand_out_slots(self) -> None:
        waiting = [t for t in self._asked() if t.slot is None]
        is_empty = len(self._free) == self.layout.num_slots
        if waiting and is_empty and waiting[0].num_columns > self.layout.num_columns:
            num_columns = max(t.num_columns for t in waiting)
            self.layout = SlotLayout(min(self._max_slots, self._max_cached_tokens // num_columns), num_columns)
            self._free = list(range(self.layout.num_slots))
        for transcript in waiting:
            if not self._free or transcript.num_columns > self.layout.num_columns:
                break
            transcript.slot = heappop(self._free)

    def _prefill(self, transcripts: list[Transcript], plan: Plan) -> None:
        """What transcripts have in common goes through the model once: in sorted order each copies from the last."""
        room = self._prefill_tokens
        source: Transcript | None = None
        for transcript in sorted(transcripts, key=lambda t: t.token_ids):
            if source is not None:
                num_common = _num_common(source.token_ids[: source.num_cached], transcript.token_ids)
                if num_common > transcript.num_cached:
                    plan.copy(source, transcript, num_common)
            num_tokens = min(room, len(transcript.token_ids) - transcript.num_cached)
            if num_tokens:
                plan.run(transcript, num_tokens)
                room -= num_tokens
            if transcript.num_cached == len(transcript.token_ids):
                plan.draw(transcript)  # equal transcripts draw after one stretch
            source = transcript


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    if one == other:
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
