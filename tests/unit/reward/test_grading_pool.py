"""The processes that grade: they start when needed, end in every case, and outlive hostile answers."""

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

from turnwise.reward import grading, grading_pool
from turnwise.reward.grading import Grader
from turnwise.reward.grading_pool import Question, ask_all

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def grading_process():
    yield
    grading.close()


def grading_processes():
    """Those of this process that live."""
    children = [(child, " ".join(child.cmdline())) for child in psutil.Process().children(recursive=True)]
    return [child for child, line in children if "grading_worker" in line]


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE  # dead, and waiting for init to notice
    except psutil.NoSuchProcess:
        return False


def test_grading_goes_on_after_a_hostile_answer(caplog):
    hostile = Question("grader", r"\binom{100000000}{49999999}", r"\{1,2\}", 0.2)  # text alone would refuse it
    assert ask_all([hostile]) == [False]
    assert "ended the grading process" in caplog.text
    assert Grader()(r"\sqrt{64}", "8")


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
    monkeypatch.setattr(grading_pool, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match=r"grading process failed on '2\^8'.*exit code 3"):
        Grader()("2^8", "256")
    monkeypatch.undo()
    assert Grader()("2^8", "256")


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


def test_daemons_of_a_pool_of_processes_can_grade():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(Grader(), [("2^3", "8"), ("2^4", "8")]) == [True, False]


def test_a_forked_process_has_grading_processes_of_its_own(tmp_path):
    script = tmp_path / "fork.py"
    script.write_text(
        textwrap.dedent("""
            import os
            from turnwise.reward.grading import Grader
            assert Grader()("2^3", "8")
            child = os.fork()
            assert Grader()("2^4", "16")
            if child:
                assert os.waitpid(child, 0)[1] == 0
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_many_hostile_answers_do_not_change_the_other_verdicts():
    hostile = [Question("grader", rf"\binom{{{number}00000000}}{{49999999}}", r"\{1,2\}", 0.2) for number in (1, 2, 3)]
    plain = [Question("grader", f"{number}+x", f"x+{number}", 2.0) for number in range(40)]
    assert ask_all([*plain[:20], *hostile, *plain[20:]]) == [True] * 20 + [False] * 3 + [True] * 20


@pytest.mark.timeout(60)
def test_an_interrupted_batch_leaves_nothing_to_do():
    grading.close()
    slow = [Question("grader", rf"\binom{{{number}00000000}}{{49999999}}", r"\{1,2\}", 1.0) for number in range(1, 99)]

    def interrupt():
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ask_all(slow)
    assert Grader()("2^9", "512")  # and not behind a hundred hostile answers
