import ast
import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from turnwise.report import page
from turnwise.report.page import json_for_script, write_report
from turnwise.report.summary import read_summary, write_summary
from turnwise.tracker.bundle import read_groups, write_groups

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- <script> ]]> \u2028 & \ud83d"


class Page(HTMLParser):
    """Elements in order, each with its attributes and the text that it begins with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.is_inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), ""))
        self.is_inside = True

    def handle_endtag(self, tag):
        self.is_inside = False

    def handle_data(self, data):
        if self.is_inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for found, attributes, text in self.found if found == tag]


def embedded_steps(text: str) -> list[dict[str, Any]]:
    """The steps of a page's only run, as its viewer gets them."""
    (run,) = json.loads(Page(text).all("script")[0][1])
    return run["steps"]


def embedded_groups(step: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(base64.b64decode(step["gzip"])).splitlines()]


def make_hostile(run_dir) -> None:
    """Puts markup wherever a model, a data set or an error message can put text."""
    for path in (run_dir / "groups").iterdir():
        changed = []
        for scored, _ in read_groups(path):
            problem = replace(scored.group.problem, answer=HOSTILE, source=HOSTILE)
            trajectories = []
            for one in scored.group.trajectories:
                turns = tuple(
                    replace(
                        turn,
                        text=f"{HOSTILE}\n```python\n{HOSTILE}\n```",
                        tool_calls=tuple(replace(call, code=HOSTILE, error=HOSTILE) for call in turn.tool_calls),
                        tool_result=turn.tool_result and replace(turn.tool_result, output=HOSTILE),
                    )
                    for turn in one.turns
                )
                trajectories.append(replace(one, turns=turns, answer=HOSTILE))
            group = replace(scored.group, problem=problem, trajectories=tuple(trajectories))
            changed.append(replace(scored, group=group))
        rows = [rows for _, rows in read_groups(path)]
        write_groups(path, changed, rows, rows)
    record = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps({**record, "label": HOSTILE, "overrides": [HOSTILE, HOSTILE]}))
    write_summary(run_dir, replace(read_summary(run_dir), why=HOSTILE))


@pytest.fixture(scope="module")
def text(make_run, tmp_path_factory) -> str:
    """The page of a small run, written once for the tests that only read it."""
    run_dir = make_run(tmp_path_factory.mktemp("run"), num_steps=6, num_problems=2, group_size=4)
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text()


def test_the_page_says_what_the_run_did(text):
    for part in ("gtpo-shaping", "Finished", "35.0%", "44.0%", "+9.0", "1:36", "algo=gtpo", "base_conversion"):
        assert part in text
    assert text.count("<svg") == 12 + 3
    assert [step["step"] for step in embedded_steps(text)] == [0, 1, 2, 3, 4, 5]
    assert "48 trajectories of 6 of 6 kept steps are in this page." in text


def test_a_run_without_isolation_bears_a_mark(run_dir, text):
    assert "not isolated" not in text
    write_summary(run_dir, replace(read_summary(run_dir), isolation="unsafe"))
    assert "The policy's programs were not isolated" in write_report(run_dir).read_text()


def test_the_header_says_what_was_set_as_it_was_typed(run_dir):
    overrides = ["algo=gtpo", "task.path=/data/a b.jsonl", "+trainer.learning_rate=1e+5"]
    record = json.loads((run_dir / "config.json").read_text())
    label = "gtpo+task.path--data-a-b.jsonl+trainer.learning_rate-1e+5-0a1b2c3d"  # of a folder: with a digest
    (run_dir / "config.json").write_text(json.dumps({**record, "label": label, "overrides": overrides}))
    shown = Page(write_report(run_dir).read_text())
    assert [text for _, text in shown.all("code")] == overrides
    assert shown.all("h1") == [({}, "gtpo")]


def test_it_needs_nothing_but_itself(text):
    shown = Page(text)
    for tag, attributes, _ in shown.found:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert [tag for tag, *_ in shown.found if tag in ("link", "iframe", "img", "object", "base")] == []
    assert "@import" not in shown.all("style")[0][1]
    assert not re.search(r"url\((?!#)", text)


def test_only_the_pages_own_script_may_run(text):
    shown = Page(text)
    (policy,) = [a["content"] for a, _ in shown.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    data, viewer = shown.all("script")
    digest = base64.b64encode(hashlib.sha256(viewer[1].encode()).digest()).decode()
    assert data[0]["type"] == "application/json"
    closed = "form-action 'none'; base-uri 'none'"
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; {closed}"
    assert "innerHTML" not in viewer[1]


def test_hostile_text_stays_text(run_dir, text):
    harmless = Page(text)
    make_hostile(run_dir)
    text = write_report(run_dir).read_text()
    shown = Page(text)

    assert len(shown.all("script")) == 2
    assert shown.all("img") == []
    assert [tag for tag, *_ in shown.found] == [tag for tag, *_ in harmless.found]  # the same elements, no more
    turn = embedded_groups(embedded_steps(text)[0])[0]["trajectories"][0]["turns"][0]
    assert turn["text"] == f"{HOSTILE}\n```python\n{HOSTILE}\n```"  # and the viewer gets every character of it
    assert turn["errors"] == [HOSTILE]


@pytest.mark.parametrize("text", [HOSTILE, "<", ">", "&", "\u2029", "\x00", "é", "\\u003c", '"'])
def test_json_for_script_round_trips_in_safe_characters(text):
    shown = json_for_script({text: [text]})
    assert json.loads(shown) == {text: [text]}
    assert not set(shown) & set("<>&\u2028\u2029")
    assert shown.isascii()


def test_equal_runs_give_equal_pages(run_dir, text):
    assert write_report(run_dir).read_text() == text


def test_a_run_that_failed_at_once(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"label": "gtpo", "choices": {}, "overrides": [], "config": {"seed": 0}})
    )
    text = write_report(tmp_path).read_text()
    assert "No step was logged." in text
    assert "No trajectories were kept." in text
    assert "no summary.json: it was killed or still goes on" in text


def test_a_killed_run_counts_its_steps(run_dir):
    (run_dir / "summary.json").unlink()
    text = write_report(run_dir).read_text()
    assert "Stopped" in text
    assert re.search(r"<dt>Steps</dt><dd>6</dd>", text)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize("module", sorted(Path(page.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_drawing_and_templates_are_imported_only_where_they_are_used(module):
    statements = [one for one in ast.parse(module.read_text()).body if isinstance(one, ast.Import | ast.ImportFrom)]
    assert not re.search("matplotlib|jinja2|tokenizers", "\n".join(map(ast.unparse, statements)))
