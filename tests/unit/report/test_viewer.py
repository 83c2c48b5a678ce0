"""The trajectory viewer in a browser, on hand-made runs (tests/viewer_runs.py)."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from builders import trajectory
from turnwise.types import StopReason
from viewer_runs import log, make_run, mixed_group, right_group, said, scored, viewer_page

ALL = 4 + 2 + 2


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("viewer")
    return viewer_page(folder, {"gtpo": make_run(folder / "run")})


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("viewers")
    log(folder / "other", 0, right_group(3))
    return viewer_page(folder, {"gtpo, seed 0": make_run(folder / "run"), "grpo & co": folder / "other"})


@pytest.fixture(scope="module")
def tab(browser) -> Iterator[Any]:
    """A tab for all tests, with what it complained of and what it asked for."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not is_page(request.url) else None)
    yield page, complaints
    page.close()


def is_page(url: str) -> bool:
    return url.partition("#")[0].endswith("/viewer.html")


@pytest.fixture
def page(tab) -> Iterator[Any]:
    """The tab; fails the test in which the page complains or asks for anything but itself."""
    page, complaints = tab
    complaints.clear()
    yield page
    assert complaints == []


def opened(page, address: str, link: str = ""):
    page.goto("about:blank")  # else another link of the same page would not open it anew
    page.goto(address + link)
    page.wait_for_selector("#viewer[data-ready]")
    return page


def wait_for(page, condition: str, value: Any = None) -> None:
    """Waits until a condition holds; asked from here, for the policy of the page lets it evaluate nothing itself."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition, value):
        assert time.monotonic() < deadline, f"never: {condition}, {value}"
        page.wait_for_timeout(20)


def reaches(page, status: str) -> None:
    """Waits until the viewer says that it is there."""
    wait_for(page, "text => document.getElementById('status').textContent === text", status)


def finds(page, expected: Sequence[str]) -> None:
    """Waits until these are the results, each `step/sample`, in order."""
    read = "[...document.querySelectorAll('#list a')].map(one => one.textContent.match(/[0-9]+/g).join('/')).join()"
    wait_for(page, f"text => !document.getElementById('results').hidden && {read} === text", ",".join(expected))


def status(page) -> str:
    return page.inner_text("#status")


def test_it_opens_at_the_last_step_and_knows_every_step(page, address):
    opened(page, address)
    assert page.locator("#step option").all_inner_texts() == ["0", "5"]
    assert status(page) == "Step 5, problem 1 of 1, sample 0"
    assert page.locator("#run-choice").is_hidden()
    assert (
        page.inner_text("#trajectories > p")
        == "8 trajectories of 2 of 2 kept steps are in this page. All lie whole in groups/."
    )


def test_lists_choose_step_and_problem(page, address):
    opened(page, address)
    page.select_option("#step", label="0")
    reaches(page, "Step 0, problem 1 of 2, sample 0")
    listed = page.evaluate("document.getElementById('problem').selectedOptions[0].textContent")
    assert re.sub("[\u2068\u2069]", "", listed) == "2/4 correct · products · What is six times seven?"
    page.select_option("#problem", index=1)
    reaches(page, "Step 0, problem 2 of 2, sample 0")
    assert "Which primes are odd?" in page.inner_text("#problem-text")
    assert page.locator(".column h3").all_inner_texts() == ["Sample 0 ✗ wrong", "Sample 1 ✗ wrong"]
    assert page.url.endswith("#step=0&problem=1&sample=0")


def test_a_mixed_group_is_shown_first(page, tmp_path):
    log(tmp_path / "run", 0, right_group(), mixed_group())
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    assert status(page) == "Step 0, problem 2 of 2, sample 0"


def test_the_matrix_says_the_credit_of_every_turn(page, address):
    opened(page, address, "#step=0")
    labels = [button.get_attribute("aria-label") for button in page.locator(".matrix td button").all()]
    assert labels == [
        "Sample 0, turn 1: advantage +0.50, reward 0.00",
        "Sample 1, turn 1: advantage −1.00, reward −0.10, format",
        "Sample 2, turn 1: advantage −0.50, reward 0.00, against",
        "Sample 3, turn 1: advantage 0.00, reward 0.00, infrastructure",
        "Sample 0, turn 2: advantage +1.00, reward +1.00",
        "Sample 1, turn 2: advantage +0.25, reward +0.25, against",
        "Sample 2, turn 2: advantage +1.00, reward +1.00",
        "Sample 3, turn 2: advantage 0.00, reward 0.00",
    ]
    assert page.locator(".matrix thead button").all_inner_texts() == [
        "0 ✓ correct",
        "1 ✗ wrong",
        "2 ✓ correct",
        "3 excluded",
    ]
    assert page.inner_text("#scale") == "−1.00\n+1.00"


def test_turns_are_tinted_by_the_sign_and_size_of_their_advantage(page, address):
    opened(page, address, "#step=0")
    read = "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"
    colors = page.locator(".matrix td button").evaluate_all(read)
    plus, minus = "rgba(47, 111, 196, ", "rgba(217, 118, 43, "
    # 0.08 + 0.42 sqrt(|A| / 1): 0.5 gives 0.38 (0.377), 1 gives 0.5, 0.25 gives 0.29
    assert colors[:3] == [f"{plus}0.38)", f"{minus}0.5)", f"{minus}0.38)"]
    assert colors[4:6] == [f"{plus}0.5)", f"{plus}0.29)"]
    assert colors[3] == colors[7]  # without advantage: the plain background of a button
    assert "rgba" not in colors[3]


def test_a_turn_tells_its_reward_its_return_and_what_was_said(page, address):
    opened(page, address, "#step=0&sample=1")
    first, second = (turn.inner_text() for turn in page.locator(".column.chosen .turn").all())
    for part in ("Turn 1", "advantage −1.00", "format −0.10", "Malformed call: no closing fence", "print(6"):
        assert part in first
    assert "Against the outcome" not in first
    for part in ("advantage +0.25", "shaping +0.25", "Against the outcome: raised in a wrong trajectory", "Perhaps"):
        assert part in second
    assert page.locator(".column.chosen .credit > div > dd").all_inner_texts()[1::2] == ["+1.00", "+2.00"]  # returns

    right = page.locator(".column").nth(0)
    assert right.locator(".turn .tool").all_inner_texts() == ["Tool: ok in 0.01 s\n\n42"]
    kinds = right.locator("pre code span").evaluate_all("spans => spans.map(one => [one.className, one.textContent])")
    assert kinds == [["number", "6"], ["number", "7"], ["comment", "# forty-two"]]
    assert "Against the outcome: lowered in a correct trajectory" in page.locator(".column").nth(2).inner_text()
    assert "stopped: tool infrastructure" in page.locator(".column").nth(3).inner_text()


def test_a_trajectory_names_the_siblings_that_shaping_compared_it_with(page, address):
    opened(page, address, "#step=0&sample=1")
    chosen = page.locator(".column.chosen")
    assert "Shaping compared its code with sample 0 (0.75 alike), sample 2 (0.25 alike)" in chosen.inner_text()
    chosen.get_by_role("button", name="sample 2").click()
    wait_for(page, "document.activeElement.textContent === 'Sample 2 ✓ correct'")
    assert status(page).endswith("sample 2")
    assert page.inner_text("#shaping") == ""
    page.select_option("#problem", index=1)
    reaches(page, "Step 0, problem 2 of 2, sample 0")
    assert page.inner_text("#shaping") == "Shaping compared nothing in this group."


def test_shaping_that_was_not_recorded_is_called_so(page, tmp_path):
    group, advantages = mixed_group()
    log(tmp_path / "run", 0, (replace(group, shaping_peers_G=()), advantages))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    assert page.inner_text("#shaping") == "What the shaping compared was not recorded."


def test_tokens_show_mask_and_gap_when_asked(page, address):
    opened(page, address, "#step=0&sample=1")
    turn = page.locator(".column.chosen .turn").first
    assert page.locator(".tokens").count() == 0
    turn.get_by_text("Tokens: 2 sampled, 1 of the reply").click()
    turn.locator(".tokens").wait_for()
    strip = turn.locator(".tokens > span")
    assert strip.evaluate_all("spans => spans.map(one => one.className)") == ["in", "in", "out"]
    assert [token.get_attribute("title") for token in strip.all()] == [
        "token 3, id 10, log-prob -0.500 (60.7%), gap −5.0e-1; in the loss",  # exp(-0.5) = 0.6065
        "token 4, id 11, log-prob -0.600 (54.9%), gap −5.0e-1; in the loss",
        "token 5, id 12; not in the loss",
    ]
    turn.get_by_text("As a table").click()
    turn.locator("table").wait_for()
    assert turn.locator("tbody tr").nth(0).locator("td").all_inner_texts() == [
        "3",
        "",
        "10",
        "-0.500",
        "−5.0e-1",
        "yes",
    ]
    assert turn.locator("tbody tr").count() == 3
    page.get_by_text("3 prompt tokens").click()
    page.locator("#problem-text .tokens").wait_for()
    assert (
        page.locator("#problem-text .tokens > span").evaluate_all("all => all.map(one => one.className)") == ["out"] * 3
    )


def test_a_trajectory_that_the_trainer_did_not_see_is_not_in_the_loss(page, address):
    opened(page, address, "#step=0&sample=3")
    assert "not in the loss" in page.inner_text(".column.chosen .column-head")
    page.locator(".column.chosen summary").first.click()
    page.locator(".column.chosen .tokens").wait_for()
    assert "None of these tokens enters the loss." in page.inner_text(".column.chosen")
    assert set(page.locator(".column.chosen .tokens > span").evaluate_all("all => all.map(one => one.className)")) == {
        "out"
    }


def test_a_step_that_was_left_out_of_the_loss_has_nothing_in_it(page, address):
    opened(page, address, "#step=5")  # without log-probs of the trainer, in a run that records them
    page.locator(".column.chosen summary").first.click()
    page.locator(".column.chosen .tokens").wait_for()
    text = page.inner_text(".column.chosen")
    for part in ("not in the loss", "The turn took no part in the loss", "None of these tokens enters the loss."):
        assert part in text
    assert classes_of_tokens(page) == ["out", "out"]


def test_a_run_that_does_not_record_the_trainer_claims_nothing_about_the_loss(page, tmp_path):
    failed = said(trajectory((None,), sample_index=1, stop_reason=StopReason.tool_infrastructure), "")
    answered = said(trajectory(), "So:", "\\boxed{42}")
    log(tmp_path / "run", 0, (scored(answered, failed, correct=(True, False)), [[0.0, 0.0], [0.0]]))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    page.locator(".column.chosen summary").first.click()
    page.locator(".column.chosen .tokens").wait_for()
    text = page.inner_text(".column.chosen")
    for part in (
        "The trainer's log-probs were not recorded, so there is no gap",
        "Whether the trajectory took part in the loss was not recorded",
    ):
        assert part in text
    assert "not in the loss" not in text
    assert classes_of_tokens(page) == ["may", "may", "out"]  # two sampled, one of the reply
    page.get_by_text("As a table").click()
    page.locator(".facts").wait_for()
    assert page.locator(".facts td:last-child").all_inner_texts() == ["not recorded", "not recorded", "no"]
    assert "not in the loss" in page.locator(".column-head").nth(1).inner_text()  # what is excluded never is


def classes_of_tokens(page) -> list[str]:
    return page.locator(".column.chosen .tokens > span").evaluate_all("all => all.map(one => one.className)")


def test_a_long_sibling_leaves_no_gaps_in_a_short_one(page, tmp_path):
    long, short = said(trajectory(), "word " * 2000, "b"), said(trajectory(sample_index=1), "a", "b")
    log(tmp_path / "run", 0, (scored(long, short, correct=(True, False)), [[1.0, 1.0], [-1.0, -1.0]]))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    first, second = (turn.bounding_box() for turn in page.locator("#sample-1 .turn").all())
    assert 0 < second["y"] - first["y"] - first["height"] < 20


def test_a_filter_finds_what_it_names(page, address):
    opened(page, address)
    for facet, label, expected in [
        ("outcome", "correct (4)", ["0/0", "0/2", "5/0", "5/1"]),
        ("outcome", "wrong (3)", ["0/1", "0/0", "0/1"]),
        ("outcome", "excluded (1)", ["0/3"]),
        ("credit", "against the outcome (2)", ["0/1", "0/2"]),
        ("credit", "with the outcome (1)", ["0/0"]),
        ("credit", "no credit (4)", ["0/3", "0/1", "5/0", "5/1"]),
        ("credit", "credit although all agree (1)", ["0/0"]),
        ("format", "format error (1)", ["0/1"]),
        ("tool", "timeout (1)", ["0/0"]),
        ("tool", "infrastructure (1)", ["0/3"]),
        ("tool", "no tool result (4)", ["0/1", "0/1", "5/0", "5/1"]),
        ("stop", "max turns (1)", ["0/0"]),
    ]:
        page.select_option(f"#filter-{facet}", label=label)
        finds(page, expected)
        assert page.inner_text("#found").startswith(f"{len(expected)} of {ALL} trajectories"), label
        assert page.locator("#more").is_hidden()
        page.select_option(f"#filter-{facet}", label="any")
        wait_for(page, "document.getElementById('results').hidden")


def test_filters_and_search_narrow_one_another_and_clear(page, address):
    opened(page, address)
    page.select_option("#filter-outcome", "wrong")
    page.fill("#search", "PRIMES")
    finds(page, ["0/0", "0/1"])
    assert page.inner_text("#found") == f"2 of {ALL} trajectories, in 1 step"
    page.select_option("#filter-tool", "timeout")
    finds(page, ["0/0"])
    page.get_by_role("button", name="Clear").click()
    wait_for(page, "document.getElementById('results').hidden")
    assert page.inner_text("#found") == ""
    assert page.input_value("#search") == ""


def test_search_looks_everywhere(page, address):
    opened(page, address)
    for text, expected in [
        ("perhaps", ["0/1"]),  # a turn
        ("killed after", ["0/0"]),  # the tool's output
        ("no closing fence", ["0/1"]),  # a malformed call
        ("six TIMES", ["0/0", "0/1", "0/2", "0/3", "5/0", "5/1"]),  # the problem
        ("41", ["0/1"]),  # an answer
    ]:
        page.fill("#search", text)
        finds(page, expected)
        assert page.locator("#list mark").first.inner_text().lower() == text.lower()
    page.fill("#search", "nowhere to be found")
    finds(page, [])
    assert page.inner_text("#found").startswith(f"0 of {ALL} trajectories")


def test_long_lists_come_in_parts(page, tmp_path):
    log(tmp_path / "run", 0, right_group(130))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    page.fill("#search", "boxed")
    finds(page, [f"0/{sample}" for sample in range(100)])
    page.get_by_role("button", name="Show 30 more").click()
    finds(page, [f"0/{sample}" for sample in range(130)])
    assert page.locator("#more").is_hidden()


def test_a_result_leads_to_its_trajectory(page, address):
    opened(page, address)
    page.fill("#search", "perhaps")
    finds(page, ["0/1"])
    page.locator("#list a").click()
    reaches(page, "Step 0, problem 1 of 2, sample 1")
    assert page.url.endswith("#step=0&problem=0&sample=1&search=perhaps")
    assert page.locator("#sample-1.chosen").count() == 1


def test_a_link_leads_to_one_trajectory(page, address):
    opened(page, address, "#step=0&problem=1&sample=1")
    assert status(page) == "Step 0, problem 2 of 2, sample 1"
    assert page.locator("#sample-1.chosen").count() == 1
    page.evaluate("location.hash = '#step=0&sample=2'")
    reaches(page, "Step 0, problem 1 of 2, sample 2")
    page.go_back()
    reaches(page, "Step 0, problem 2 of 2, sample 1")


def test_a_link_to_nowhere_says_so(page, address):
    for link, part in [
        ("#run=ppo&step=0", "run=ppo"),
        ("#step=3", "step=3"),
        ("#step=0&problem=x", "problem=x"),
        ("#step=0&problem=7", "problem=7"),
        ("#step=0&sample=-1", "sample=-1"),
        ("#step=5&tool=timeouts", "tool=timeouts"),
        ("#step=3&stop=never", "step=3 and stop=never"),
    ]:
        opened(page, address, link)
        assert complaint(page) == f"The link asks for {part}, which is not in this page."
        told = page.get_by_role("status").filter(has_text="The link asks")  # so it is read out as well
        box = told.bounding_box()
        assert 0 <= box["y"] < box["y"] + box["height"] <= 800
        assert status(page) == "Step 5, problem 1 of 1, sample 0"  # the page shows what it shows without a link
        assert page.locator("#results").is_hidden()
    page.evaluate("location.hash = '#step=0&sample=2'")
    reaches(page, "Step 0, problem 1 of 2, sample 2")
    assert complaint(page) == ""
    page.evaluate("location.hash = '#step=4'")
    wait_for(page, "document.getElementById('missing').textContent.includes('step=4')")
    assert status(page) == "Step 0, problem 1 of 2, sample 2"
    page.get_by_role("button", name="Previous").click()
    reaches(page, "Step 0, problem 1 of 2, sample 1")
    assert complaint(page) == ""


def complaint(page) -> str:
    return re.sub("[\u2068\u2069]", "", page.locator("#missing").text_content())


def test_a_link_carries_search_and_filters(page, two_runs):
    opened(page, two_runs, "#run=gtpo%2C+seed+0&step=0")
    page.fill("#search", " Six & TIMES ")
    finds(page, [])
    page.fill("#search", "six TIMES")
    page.select_option("#filter-outcome", "correct")
    finds(page, ["0/0", "0/2", "5/0", "5/1"])
    page.locator("#list a").nth(1).click()
    reaches(page, "Step 0, problem 1 of 2, sample 2")
    link = "#run=gtpo%2C+seed+0&step=0&problem=0&sample=2&search=six+TIMES&outcome=correct"
    assert page.url == two_runs + link
    page.get_by_role("button", name="Clear").click()
    wait_for(page, "document.getElementById('results').hidden")
    assert page.url == two_runs + link.partition("&search")[0]

    opened(page, two_runs, link)
    assert status(page) == "Step 0, problem 1 of 2, sample 2"
    assert (page.input_value("#search"), page.input_value("#filter-outcome")) == ("six TIMES", "correct")
    finds(page, ["0/0", "0/2", "5/0", "5/1"])
    page.evaluate("location.hash = '#run=grpo+%26+co&step=0&sample=1&stop=answered'")  # another run, another question
    finds(page, ["0/0", "0/1", "0/2"])
    reaches(page, "Step 0, problem 1 of 1, sample 1")
    assert (page.input_value("#search"), page.input_value("#filter-outcome")) == ("", "")
    page.go_back()
    finds(page, ["0/0", "0/2", "5/0", "5/1"])
    assert page.input_value("#search") == "six TIMES"
    assert complaint(page) == ""


def test_keys_go_on_and_back(page, address):
    opened(page, address, "#step=0")
    page.locator("#columns").focus()
    for key, expected in [
        ("j", "Step 0, problem 1 of 2, sample 1"),
        ("k", "Step 0, problem 1 of 2, sample 0"),
        ("k", "That was the first one."),
        ("j", "Step 0, problem 1 of 2, sample 1"),
        ("]", "Step 0, problem 2 of 2, sample 0"),
        ("]", "Step 5, problem 1 of 1, sample 0"),
        ("]", "That was the last one."),
        ("[", "Step 0, problem 2 of 2, sample 0"),
        ("[", "Step 0, problem 1 of 2, sample 0"),
    ]:
        page.keyboard.press(key)
        reaches(page, expected)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("j/k")  # in the search they are letters
    assert page.input_value("#search") == "j/k"


def test_buttons_walk_over_the_results(page, address):
    opened(page, address, "#step=0")
    page.select_option("#filter-outcome", "wrong")
    finds(page, ["0/1", "0/0", "0/1"])
    for button, expected in [
        ("Next", "Step 0, problem 1 of 2, sample 1"),
        ("Next", "Step 0, problem 2 of 2, sample 0"),
        ("Next", "Step 0, problem 2 of 2, sample 1"),
        ("Next", "That was the last one."),
        ("Previous", "Step 0, problem 2 of 2, sample 0"),
    ]:
        page.get_by_role("button", name=button, exact=True).click()
        reaches(page, expected)


def test_arrow_keys_move_in_the_matrix_which_is_one_stop(page, address):
    opened(page, address, "#step=0")
    assert page.locator(".matrix button[tabindex='0']").count() == 1
    page.locator(".matrix button[tabindex='0']").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    label = "Sample 0, turn 1: advantage +0.50, reward 0.00"  # over (0, 1), (1, 1), (2, 1), (2, 0), the end, (1, 0)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == label
    assert page.locator(".matrix button[tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(page, "document.activeElement.textContent.includes('Malformed call')")  # the turn itself has the focus
    assert status(page).endswith("sample 1")


def test_one_trajectory_at_a_time(page, address):
    opened(page, address, "#step=0")
    visible = "all => all.filter(one => one.offsetParent !== null).length"
    assert page.locator(".column").evaluate_all(visible) == 4
    page.get_by_label("one at a time").check()
    assert page.locator(".column").evaluate_all(visible) == 1
    page.locator(".matrix thead button").nth(2).click()
    wait_for(page, "document.querySelector('#sample-2').offsetParent !== null")
    assert page.locator(".column").evaluate_all(visible) == 1
    page.get_by_label("whole group").check()
    assert page.locator(".column").evaluate_all(visible) == 4


def test_the_link_of_a_trajectory_is_copied(page, address):
    opened(page, address)
    offer = "Object.defineProperty(navigator, 'clipboard', {value: {writeText}, configurable: true})"
    page.evaluate(f"window.offer = writeText => {{ {offer}; }}")
    page.evaluate("offer(async text => { window.copied = text; })")
    page.get_by_role("button", name="Copy link").click()
    reaches(page, "Link copied.")
    assert page.url.endswith("#step=5&problem=0&sample=0")
    assert page.evaluate("copied") == page.url
    page.fill("#search", "boxed")  # not looked for yet
    page.get_by_role("button", name="Copy link").click()
    wait_for(page, "copied.endsWith('#step=5&problem=0&sample=0&search=boxed')")
    page.evaluate("offer(async () => { throw new Error('not allowed'); })")
    page.get_by_role("button", name="Copy link").click()
    reaches(page, f"The browser does not let the page copy; the link is {page.url}")


def test_another_run_keeps_step_and_problem_and_has_its_own_filters(page, two_runs):
    opened(page, two_runs, "#run=gtpo%2C+seed+0&step=0&problem=1&sample=1")
    assert page.locator("#run option").all_inner_texts() == ["gtpo, seed 0", "grpo & co"]
    page.select_option("#filter-outcome", "correct")
    finds(page, ["0/0", "0/2", "5/0", "5/1"])
    page.select_option("#run", label="grpo & co")
    finds(page, ["0/0", "0/1", "0/2"])
    assert status(page) == "Step 0, problem 1 of 1, sample 0"  # it has no second problem
    assert page.evaluate("document.getElementById('filter-outcome').selectedOptions[0].textContent") == "correct (3)"
    assert page.url.endswith("#run=grpo+%26+co&step=0&problem=0&sample=0&outcome=correct")
    page.select_option("#run", label="gtpo, seed 0")
    finds(page, ["0/0", "0/2", "5/0", "5/1"])
    assert status(page) == "Step 0, problem 1 of 2, sample 0"


def test_a_group_in_which_nothing_was_sampled(page, tmp_path):
    lost = trajectory((), stop_reason=StopReason.prompt_too_long)
    log(tmp_path / "run", 0, (scored(lost, correct=(False,)), [[]]))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    assert page.locator(".column h3").all_inner_texts() == ["Sample 0 excluded"]
    assert "stopped: prompt too long" in page.inner_text(".column")


def test_a_turn_that_says_nothing(page, tmp_path):
    log(tmp_path / "run", 0, (scored(said(trajectory((None,)), " \n"), correct=(False,)), [[0.0]]))
    opened(page, viewer_page(tmp_path, {"gtpo": tmp_path / "run"}))
    assert "(empty turn)" in page.inner_text(".turn")
