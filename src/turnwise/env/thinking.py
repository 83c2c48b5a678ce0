"""Where a turn stops thinking: what it thinks is neither an answer nor a call, in any format and with any tool."""

import re

OPENING = "<think>"
_THOUGHTS = re.compile(r"(?:\s*<think>.*?</think>)*", re.DOTALL)


def after_thinking(turn_text: str) -> str:
    """What a turn says after it has thought.

    A turn thinks where it begins with `<think>`, up to the first `</think>`; anywhere else the tags are plain text, so
    that code may hold them. Of a thought that is not closed nothing is left: such a turn has said nothing yet.
    """
    thoughts = _THOUGHTS.match(turn_text)
    assert thoughts is not None  # it matches the empty text
    rest = turn_text[thoughts.end() :]
    return "" if rest.lstrip().startswith(OPENING) else rest
