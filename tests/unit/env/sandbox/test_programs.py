"""What programs give and what ends them, without isolation: what holds there holds everywhere."""

import asyncio
import sys

import psutil
import pytest

from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.env.sandbox.isolation import Tier
from turnwise.env.sandbox.local import LocalPool, LocalSandbox
from turnwise.types import ToolStatus


def run(pool: LocalPool, code: str, error_detail: ErrorDetail = ErrorDetail.traceback) -> ProgramResult:
    return asyncio.run(pool.run(code, error_detail))


@pytest.mark.parametrize(
    ("code", "status", "output"),
    [
        ("print(6 * 7)", "ok", "42\n"),
        ("6 * 7", "ok", ""),
        ("", "ok", ""),
        ("import sys\nprint('out')\nprint('err', file=sys.stderr)", "ok", "out\nerr\n"),
        ("import sys\nsys.exit()", "ok", ""),
        ("print('é\\x00∑\\r\\n🙂')", "ok", "é\0∑\r\n🙂\n"),
        ("import os\nos.write(1, b'\\xff')", "ok", "\N{REPLACEMENT CHARACTER}"),
        ("print(__name__, __import__('sys').argv)", "ok", "__main__ ['program.py']\n"),
        ("import os\nprint(os.listdir())\nopen('left', 'w').write('x')", "ok", "[]\n"),
        ("import os\nprint(1)\nos._exit(0)", "ok", "1\n"),
        ("import sys\nsys.stdout.close()", "ok", ""),
        ("import atexit\natexit.register(print, 'bye')", "ok", "bye\n"),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()", "ok", "1\n"),
        ("import subprocess\nsubprocess.run(['echo', 'hi'])", "ok", "hi\n"),
        ("import subprocess\nsubprocess.Popen(['sleep', '60'])", "ok", ""),
        ("import sys\nsys.exit(3)", "user_error", "SystemExit: 3\n"),
        ("import sys\nsys.exit('sorry')", "user_error", "SystemExit: sorry\n"),
        ("import os\nos._exit(3)", "user_error", "Error: exit code 3\n"),
        ("import os\nos.kill(os.getpid(), 11)", "user_error", "Error: killed by signal 11\n"),
        ("import os\nos.close(1)\n1 / 0", "user_error", "ZeroDivisionError: division by zero\n"),
        ("input()", "user_error", "EOFError: EOF when reading a line\n"),
        ("print((", "user_error", "SyntaxError: '(' was never closed (program.py, line 1)\n"),
        ("fractions.Fraction(1)", "user_error", "NameError: name 'fractions' is not defined\n"),
        ("import decimal\nraise decimal.Overflow", "user_error", "decimal.Overflow\n"),
        ("class E(Exception): __str__ = lambda self: 1 / 0\nraise E", "user_error", "E: <exception str() failed>\n"),
        ("def f(): f()\nf()", "user_error", "RecursionError: maximum recursion depth exceeded\n"),
        ("open('big', 'wb').write(b'x' * (17 << 20))", "user_error", "OSError: [Errno 27] File too large\n"),
        ("print('\\ud800')", "user_error", None),
        ("x = '\ud800'", "user_error", None),
        ("\0", "user_error", None),
        ("x = 'a' * 10**12", "memory", ""),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "memory", ""),
        ("import os\nos.kill(os.getpid(), 9)", "memory", ""),  # what the kernel does when memory runs out
        ("print('x' * 10**6)", "output_limit", "x" * 65536),
        ("while True: print('x' * 1023)", "output_limit", ("x" * 1023 + "\n") * 64),
        ("import subprocess\nsubprocess.run('yes')", "output_limit", "y\n" * 32768),
        ("import os\nos.write(1, b'x' * 65536)", "ok", "x" * 65536),
        ("import os\nos.write(1, b'x' * 65537)", "output_limit", "x" * 65536),
    ],
)  # fmt: skip
def test_status_and_output(sandbox_pool: LocalPool, code: str, status: str, output: str | None):
    result = run(sandbox_pool, code, ErrorDetail.last_line)
    assert result.status == status, result
    assert output is None or result.output == output
    assert 0 < result.wall_s < 5


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import signal\nfor n in set(signal.Signals) - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "sum(range(10**12))",
        "import threading\nthreading.Event().wait()",
        "import os\nos.close(1)\nos.close(2)\nwhile True: pass",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
    ],
)
def test_wall_clock_ends_every_program(hasty_pool: LocalPool, code: str):
    result = run(hasty_pool, code)
    assert result.status is ToolStatus.timeout
    assert 0.5 <= result.wall_s < 5


def test_processor_time_is_limited():
    pool = LocalPool(LocalSandbox(num_workers=1, cpu_s=0.5, wall_s=30), Tier.unsafe)
    result = run(pool, "while True: pass")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.timeout
    assert result.wall_s < 20


def test_processor_time_is_that_of_all_threads():
    pool = LocalPool(LocalSandbox(num_workers=1, cpu_s=0.6, wall_s=30), Tier.unsafe)
    code = "import hashlib, threading\nwork = lambda: [hashlib.sha256(bytes(1 << 22)) for _ in range(10**6)]\n"
    result = run(pool, code + "for _ in range(4): threading.Thread(target=work).start()")
    asyncio.run(pool.close())
    assert result.status is ToolStatus.timeout
    assert result.wall_s < 20


def test_streams_and_value_are_told_apart(sandbox_pool: LocalPool):
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('out again')\n[1]"
    result = asyncio.run(sandbox_pool.run(code, shows_value=True))
    assert (result.stdout, result.stderr, result.value) == ("out\nout again\n", "err\n", "[1]\n")
    assert result.output == "out\nout again\n[1]\nerr\n"
    assert result.has_ended


def test_output_is_bounded_over_both_streams(sandbox_pool: LocalPool):
    code = "import os\nos.write({}, b'x' * 40000)\nos.write({}, b'y' * {})"
    for first, second in ((1, 2), (2, 1)):
        fits = run(sandbox_pool, code.format(first, second, 25536))
        assert (fits.status, len(fits.output)) == ("ok", 65536)
        over = run(sandbox_pool, code.format(first, second, 25537))
        assert (over.status, len(over.output)) == ("output_limit", 65536)


def test_a_long_program_arrives(sandbox_pool: LocalPool):
    code = f"x = {'y' * (1 << 20)!r}\nprint(len(x))"
    assert run(sandbox_pool, code).output == "1048576\n"


def test_traceback_names_the_programs_own_frames_alone(sandbox_pool: LocalPool):
    code = "import json\n\ndef f(x):\n    return json.loads(x)\n\nprint(1)\nf('')"
    assert run(sandbox_pool, code).output == (
        "1\nTraceback (most recent call last):\n"
        "  File \"program.py\", line 7, in <module>\n    f('')\n"
        '  File "program.py", line 4, in f\n    return json.loads(x)\n'
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)\n"
    )


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("x = 6\nx * 7", "42\n"),
        ("'text'", "'text'\n"),
        ("print(1)", "1\n"),  # its value is None
        ("x = 6", ""),
        ("", ""),
        ("6 * 7\nx = 1", ""),  # it does not stand last
        ("def f(): return 1 / 0\nf()", "ZeroDivisionError: division by zero\n"),
        ("1 +", "SyntaxError: invalid syntax (program.py, line 1)\n"),
        ("await x", "SyntaxError: 'await' outside function (program.py, line 1)\n"),
    ],
)
def test_the_value_of_a_last_expression_is_shown_where_that_is_wanted(sandbox_pool: LocalPool, code: str, output: str):
    shown = asyncio.run(sandbox_pool.run(code, ErrorDetail.last_line, shows_value=True))
    assert shown.output == output


SAME_TEXT = [
    ("import random\nprint(set('abcdef'), hash('x'), random.random(), random.sample(range(99), 5))", None),
    ("print(x for x in [1])", "<generator object <genexpr> at 0x...>\n"),
    ("def f(): pass\nprint(f, [f])", "<function f at 0x...> [<function f at 0x...>]\n"),
    ("print({1, 2}.__iter__())", "<set_iterator object at 0x...>\n"),
    ("raise ValueError(object())", "ValueError: <object object at 0x...>\n"),
    (
        "import os, tempfile\nprint(os.getcwd(), tempfile.gettempdir())\nopen(os.path.abspath('../x/y'))",
        "/tmp/sandbox/home /tmp/sandbox/home\n"
        "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/sandbox/x/y'\n",
    ),
    # 65529 + len(" at 0x") + 1 = 65536 bytes are kept: one digit of the address.
    ("print('x' * 65529 + f' at {id(print):#x}')", "x" * 65529 + " at 0x..."),
    ("print('0x10', 'look at 10')", "0x10 look at 10\n"),
]


def test_no_file_of_this_machine_is_named(sandbox_pool: LocalPool):
    in_thread = "import threading, json\nt = threading.Thread(target=json.loads, args=('',))\nt.start()\nt.join()"
    message = "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)\n"
    assert run(sandbox_pool, in_thread, ErrorDetail.last_line).output == message
    in_destructor = "import json\nclass D:\n  def __del__(self): json.loads('')\nd = D()\ndel d\nprint('goes on')"
    assert run(sandbox_pool, in_destructor, ErrorDetail.last_line).output == "goes on\n" + message
    printed = run(sandbox_pool, "import json, traceback\ntry: json.loads('')\nexcept ValueError: traceback.print_exc()")
    assert 'File "/usr/lib/python' in printed.output
    assert sys.base_prefix == "/usr" or sys.base_prefix not in printed.output


def test_a_program_may_close_what_is_not_its_own(sandbox_pool: LocalPool):
    result = run(sandbox_pool, "import os\nprint(1, flush=True)\nos.closerange(3, 50)")
    assert (result.status, result.output) == ("ok", "1\n")


@pytest.mark.parametrize(("code", "output"), SAME_TEXT)
def test_same_program_same_text_everywhere(sandbox_pool: LocalPool, code: str, output: str | None):
    async def run_many() -> set[str]:
        other = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
        results = await asyncio.gather(*(p.run(code, ErrorDetail.last_line) for p in [sandbox_pool, other] * 4))
        await other.close()
        return {result.output for result in results}

    outputs = asyncio.run(run_many())
    assert len(outputs) == 1
    assert output is None or outputs == {output}


def test_programs_see_neither_the_trainer_nor_each_other(sandbox_pool: LocalPool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    fresh = LocalPool(LocalSandbox(num_workers=1), Tier.unsafe)
    code = """
        import builtins, math, os, sys
        print([m for m in sys.modules if m.split('.')[0] in ('torch', 'hydra', 'turnwise')])
        print(sorted(set(os.environ) - {'LC_CTYPE'}))
        print([fd for fd in range(1024) if os.path.exists(f'/proc/self/fd/{fd}')])
        print(hasattr(math, 'x'), hasattr(builtins, 'x'), 'y' in globals())
        math.x = builtins.x = y = 1
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    first, second = run(fresh, code), run(fresh, code)
    asyncio.run(fresh.close())
    names = ["HOME", "LC_ALL", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH"]
    names += ["PYTHONHASHSEED", "PYTHONUTF8", "TMPDIR"]
    # Descriptor 3 is where the program came from, and where its end is told.
    assert first.output == f"[]\n{names}\n[0, 1, 2, 3]\nFalse False False\n"
    assert second.output == first.output


@pytest.mark.parametrize("ending", ["", "1 / 0", "while True: pass", "print('x' * 10**6)", "os._exit(0)"])
def test_daemons_die_with_their_program(hasty_pool: LocalPool, daemon_code: str, ending: str):
    result = run(hasty_pool, daemon_code + ending)
    assert not psutil.pid_exists(int(result.output.split()[0]))
    assert result.wall_s < 5
