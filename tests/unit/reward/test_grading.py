"""Answers that need math-verify; those that text and plain numbers decide are tested in test_answers.py."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turnwise.reward import grading
from turnwise.reward.answers import compare
from turnwise.reward.grading import Grader

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"

EQUAL = [
    (r"\sqrt{49}", "7"),
    ("2^3", "8"),
    ("2**3", "8"),
    ("3+4", "7"),
    ("x=7", "7"),
    ("the answer is 7", "7"),
    ("7cm", "7"),
    (r"8\times 10^3", "8000"),
    ("pi/2", r"\frac{\pi}{2}"),
    ("2*sqrt(3)", r"2\sqrt{3}"),
    ("1.41421356", r"\sqrt{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("1+x", "x+1"),
    ("yx", "xy"),
    ("9i+6", "6+9i"),
    ("1,-2", "-2,1"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac{2}{2} \\ 2 \end{pmatrix}"),
    (r"so \boxed{6}, or rather \boxed{2^3}", "8"),
]

UNEQUAL = [
    (None, "7"),
    ("7 or 8", "8"),
    ("7, 8", "8"),
    ("17,18", "18"),
    (r"\frac{3}{4} or 7", "7"),
    (r"so \boxed{8}, or rather \boxed{6}", "8"),
    ("2x", "7"),
    ("x", "y"),
    ("[1,2)", "(1,2)"),
    ("(1,2)", "(2,1)"),
    (r"\sqrt{48}", "7"),
    ("I do not know", "7"),
    ("1/0", "7"),
    (r"\infty", "7"),
    ("nan", "7"),
    ("\x00", "7"),
]

HOSTILE = [
    "9**9**9",
    "9^{9^{9^{9}}}",
    r"\binom{100000000}{50000000}",
    "(" * 900 + ")" * 900,
    r"\frac{" * 250 + "}" * 250,
    r"\boxed{" * 280,
    "x^" * 900,
]


@pytest.fixture(scope="module", autouse=True)
def grading_process():
    yield
    grading.close()


def grading_processes():
    """Live child processes but for multiprocessing's resource tracker and the sandboxes of other tests."""
    children = [(child, " ".join(child.cmdline())) for child in psutil.Process().children(recursive=True)]
    return [child for child, line in children if "resource_tracker" not in line and "/env/sandbox/" not in line]


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # dead, and waiting for init to notice
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("answer", "gold"), EQUAL)
def test_equal(answer, gold):
    assert Grader()(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), UNEQUAL)
def test_unequal(answer, gold):
    assert not Grader()(answer, gold)


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda text: text[:12])
def test_hostile_answers_are_wrong_and_end_in_time(answer):
    start = time.monotonic()
    assert not Grader(timeout_s=0.3)(answer, "x^2+1")
    assert time.monotonic() - start < 15  # 0.3 s of processor time, and perhaps a new process on a busy machine


def test_grading_goes_on_after_a_hostile_answer(caplog):
    assert not Grader(timeout_s=0.2)(r"\binom{100000000}{49999999}", "x^2+1")
    assert "ended the grading process" in caplog.text
    assert Grader()(r"\sqrt{64}", "8")


def test_long_answers_are_correct_only_word_for_word():
    long = "1+" * 50_000 + "1"
    start = time.monotonic()
    assert not Grader()(long, "50001")
    assert Grader()(long, f" {long}\n")
    assert time.monotonic() - start < 0.1


def test_numbers_never_start_a_process():
    grading.close()
    grader = Grader()
    assert grader("1,000", "1000")
    assert not grader("1001", "1000")
    assert not grader("no idea 1 2", "1000")
    assert grading_processes() == []


def test_close_ends_the_process_and_the_next_answer_starts_another():
    assert Grader()("2^4", "16")
    assert len(grading_processes()) == 1
    grading.close()
    grading.close()
    assert grading_processes() == []
    assert Grader()("2^5", "32")


def test_a_process_killed_from_outside_is_replaced():
    assert Grader()("2^6", "64")
    for process in grading_processes():
        process.kill()
    assert Grader()("2^7", "128")


def test_a_broken_grading_process_is_an_error_and_never_a_wrong_answer(monkeypatch):
    grading.close()
    monkeypatch.setattr(grading.grading_worker, "start", _fail)
    with pytest.raises(RuntimeError, match=r"grading process failed on '2\^8'"):
        Grader()("2^8", "256")
    monkeypatch.undo()
    assert Grader()("2^8", "256")


def test_a_gold_answer_that_cannot_be_read_is_reported(caplog):
    assert not Grader()("7", "!?!")
    assert "cannot read the gold answer '!?!'" in caplog.text


def test_threads_may_grade_at_the_same_time():
    grades = {}

    def grade(number):
        grades[number] = Grader()(f"{number}^2", str(number**2))

    threads = [threading.Thread(target=grade, args=(number,)) for number in range(20, 28)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == dict.fromkeys(range(20, 28), True)


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_the_trainer(tmp_path, ending):
    script = tmp_path / "grade.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, signal, sys
            import psutil
            from turnwise.reward.grading import Grader
            if __name__ == "__main__":
                assert Grader()("2^3", "8")
                assert "sympy" not in sys.modules and "math_verify" not in sys.modules
                print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
                {ending}
        """)
    )
    ended = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    children = [int(pid) for pid in ended.stdout.split()]
    assert ended.returncode in (3, -signal.SIGINT, -signal.SIGKILL), ended.stderr
    assert children
    deadline = time.monotonic() + 10
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def test_a_worker_process_that_has_graded_comes_to_its_end():
    """multiprocessing lets a process wait for its children; the grading process must not keep it waiting."""
    worker = multiprocessing.get_context("spawn").Process(target=Grader(), args=("2^3", "8"))
    worker.start()
    worker.join(30)
    children = psutil.Process(worker.pid).children() if worker.is_alive() else []
    for process in (worker, *children):
        process.kill()
    assert (worker.exitcode, children) == (0, [])


def test_the_workers_of_joblib_can_grade():
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("loky", n_jobs=2):
        verdicts = joblib.Parallel()(joblib.delayed(Grader())(answer, "1/2") for answer in (r"\frac{2}{4}", "* 2"))
    assert verdicts == [True, False]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA}")
def test_gold_answers_of_real_problems_grade_themselves():
    grader, algebraic = Grader(), 0
    for name in ("math500", "gsm8k_test", "svamp", "aime24"):
        lines = (DATA / f"{name}.jsonl").read_text().splitlines()
        golds = dict.fromkeys(json.loads(line)["answer"] for line in lines)
        assert [gold for gold in golds if not grader(gold, gold)] == []
        respelt = {gold: rf"\displaystyle {gold}" for gold in golds if not gold[0].isdigit()}
        for gold, answer in list(respelt.items())[:100]:
            if compare(answer, gold) is None:
                algebraic += 1
                assert grader(answer, gold), gold
    assert algebraic > 60


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40) | st.text(alphabet="0123456789xy+-*/^_(){}[]\\fracsqrt$,.= ", max_size=40))
def test_any_text_is_graded_without_an_exception(answer):
    assert Grader(timeout_s=0.5)(answer, "x^2+y") in (True, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout_s": 0.0}, r"timeout_s=0.0: expected > 0"),
        ({"timeout_s": float("nan")}, r"timeout_s=nan"),
        ({"timeout_s": 31.0}, r"<= 30 seconds"),
        ({"max_characters": 0}, r"max_characters=0: expected 1 to 4000"),
        ({"max_characters": 5000}, r"max_characters=5000"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Grader(**fields)


def _fail():
    raise OSError("no memory")
