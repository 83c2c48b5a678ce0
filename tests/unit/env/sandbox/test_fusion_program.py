import ast
import json
from typing import Any

import pytest

from turnwise.env.sandbox.fusion_program import ServerFailure, read_answer, wrapped
from turnwise.env.sandbox.interface import ErrorDetail, ProgramResult
from turnwise.types import ToolStatus


def answer(**ran: Any) -> bytes:
    outcome = {"status": "Finished", "execution_time": 0.5, "return_code": 0, "stdout": "", "stderr": "", **ran}
    return json.dumps({"status": "Failed", "message": "", "run_result": outcome}).encode()


@pytest.mark.parametrize(
    ("ran", "status", "output"),
    [
        ({"stdout": "ready /tmp/t1\n/tmp/t1/home at 0x7f"}, ToolStatus.ok, "/tmp/sandbox/home at 0x..."),
        ({"stdout": "ready /t\n", "return_code": 137}, ToolStatus.memory, ""),
        ({"stdout": "ready /t\n", "return_code": -9}, ToolStatus.memory, ""),
        ({"stdout": "ready /t\n1\n", "return_code": 139}, ToolStatus.user_error, "1\nError: killed by signal 11\n"),
        ({"stdout": "ready /t\n", "return_code": 255}, ToolStatus.user_error, "Error: exit code 255\n"),
        ({"stdout": "ready /t\n", "return_code": 87}, ToolStatus.blocked, ""),
        ({"status": "TimeLimitExceeded", "return_code": None, "stdout": ""}, ToolStatus.timeout, ""),
        ({"status": "TimeLimitExceeded", "return_code": None, "stdout": None}, ToolStatus.timeout, ""),
    ],
)
def test_what_an_answer_means(ran: dict[str, Any], status: ToolStatus, output: str):
    result = read_answer(answer(**ran), max_capture_bytes=1000, elapsed_s=9.0)
    assert (result.status, result.output, result.wall_s) == (status, output, 0.5)


def test_streams_are_told_apart_and_bounded_together():
    result = read_answer(answer(stdout="ready /t\n12345", stderr="6789"), max_capture_bytes=9, elapsed_s=9.0)
    assert (result.status, result.stdout, result.stderr) == (ToolStatus.ok, "12345", "6789")
    result = read_answer(answer(stdout="ready /t\n12345", stderr="6789"), max_capture_bytes=8, elapsed_s=9.0)
    assert (result.status, result.stdout, result.stderr) == (ToolStatus.output_limit, "12345", "678")


def test_output_is_cut_between_bytes():
    # "é" has two bytes in UTF-8: three of the five bytes are one and a half of them
    body = answer(stdout="ready /t\néé1")
    result = read_answer(body, max_capture_bytes=3, elapsed_s=9.0)
    assert (result.status, result.output) == (ToolStatus.output_limit, "é\ufffd")
    assert read_answer(body, max_capture_bytes=5, elapsed_s=9.0).output == "éé1"


def test_seconds_are_those_seen_here_where_the_server_says_none():
    assert read_answer(answer(stdout="ready /t\n", execution_time=None), 100, elapsed_s=9.0).wall_s == 9.0
    too_long = ProgramResult(status=ToolStatus.output_limit, stdout="", stderr="", wall_s=9.0)
    assert read_answer(None, 100, elapsed_s=9.0) == too_long


def test_a_program_that_did_not_begin_is_not_at_fault():
    with pytest.raises(ServerFailure, match=r"did not begin: exit code 1: MemoryError$"):
        read_answer(answer(return_code=1, stderr="MemoryError\n"), 100, elapsed_s=9.0)


@pytest.mark.parametrize("code", ["print('é')", "'''\n\"\"\"\n\\n'''", "\ud800", "\0"], ids=ascii)
@pytest.mark.parametrize(("detail", "shows_value"), [(ErrorDetail.last_line, True), (ErrorDetail.traceback, False)])
def test_what_is_sent_is_plain_python_that_holds_the_program(code: str, detail: ErrorDetail, shows_value: bool):
    script = wrapped(code, detail, shows_value=shows_value)
    assert script.isascii()
    call = ast.parse(script).body[-1]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert [ast.literal_eval(argument) for argument in call.value.args] == [
        code,
        detail is ErrorDetail.traceback,
        shows_value,
    ]
