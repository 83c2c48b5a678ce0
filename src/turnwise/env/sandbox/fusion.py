"""Runs Python programs on a server that speaks SandboxFusion's HTTP API: `env/sandbox=fusion`.

This file asks the server and copes with what can go wrong on the way; what is sent for a program and what an answer
says of it, `turnwise.env.sandbox.fusion_program` knows. Isolation is the server's affair.
"""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from turnwise.env.sandbox.fusion_program import ServerFailure, read_answer, wrapped
from turnwise.env.sandbox.interface import ErrorDetail, Interpreter, ProgramResult
from turnwise.types import Isolation, ToolStatus

if TYPE_CHECKING:
    import httpx

CONNECT_S = 10.0
"""How long a connection may take to be made."""
KEEPALIVE_S = 4.0
"""How long an idle connection is kept; uvicorn, which serves SandboxFusion, closes it after 5 s."""
MAX_PAUSE_S = 60.0
"""The longest pause that a server may ask for; one that asks for more is out of order."""
BUSY_OR_BROKEN = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed; SandboxFusion itself answers 500 to whatever fails inside it."""
MAX_SERVER_CAPTURE_BYTES = 1 << 20
"""What SandboxFusion keeps of each stream: output that it cut could not be told from output that fits."""
ENVELOPE_BYTES = 1 << 16
"""Room for what surrounds output in an answer."""
TAG = re.compile("<[^<>]*>")
"""What an answer of a proxy is full of, which nobody wants to read."""
MAX_FAILURE_CHARS = 300
"""What is told of a failure."""


@dataclass(frozen=True, kw_only=True)
class FusionSandbox:
    """Where the server is, limits of a program, and how hard the server is pressed."""

    url: str
    """Where the server answers, such as http://127.0.0.1:8080; `/run_code` is added."""

    token_variable: str = ""
    """Environment variable that holds the bearer token which the server asks for; empty: none is sent."""

    wall_s: float = 5.0
    """Seconds until the server kills a program."""

    memory_mb: int = 1024
    """Memory of a program, in MiB; a server with its own cgroups (`isolation: lite`) has its own limit instead."""

    max_capture_bytes: int = 65536
    """Bytes of output that are kept; a program that prints more gets the status `output_limit`."""

    max_concurrency: int = 32
    """Programs that are sent at the same time, each over a connection that is kept; the others wait here."""

    grace_s: float = 20.0
    """Seconds over `wall_s` that an answer may take: the way there and back, and the server's own queue."""

    max_retries: int = 3
    """How often a program is sent again after a failure that is not its own."""

    retry_s: float = 0.5
    """Seconds before the first retry, doubled before each further one; the server may ask for more."""

    keeps_sessions = False

    def __post_init__(self) -> None:
        try:
            address = urlsplit(self.url)
            if address.username is not None:
                raise PermissionError
            is_address = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:
            is_address = False
        except PermissionError:
            raise ValueError(
                "url=...: holds a user name or password, which would stand in the name of the run and its folder; "
                "expected an address alone, and token_variable=NAME of an environment variable with a token"
            ) from None
        if self.token_variable and not os.environ.get(self.token_variable):
            raise ValueError(f"token_variable={self.token_variable}: no such environment variable is set")
        if not is_address:
            raise ValueError(f"url={self.url!r}: expected http://HOST:PORT of a SandboxFusion server")
        for name, low, high in (
            ("wall_s", 0.05, float("inf")),
            ("memory_mb", 64, float("inf")),
            ("max_capture_bytes", 64, MAX_SERVER_CAPTURE_BYTES),
            ("max_concurrency", 1, float("inf")),
            ("grace_s", 0.05, float("inf")),
            ("max_retries", 0, 20),
            ("retry_s", 0, MAX_PAUSE_S),
        ):
            if not low <= (value := getattr(self, name)) <= high or value == float("inf"):
                expected = f">= {low}" if high == float("inf") else f"in [{low}, {high}]"
                raise ValueError(f"{name}={value}: expected a finite number {expected}")

    def start(self) -> "FusionPool":
        """Has the server run one program, and connects; the caller closes the pool.

        Raises:
            ValueError: No server runs programs at `url`; says what failed.
        """

        async def probe() -> ProgramResult:
            pool = FusionPool(self)
            try:
                return await pool.run("print(6 * 7)")
            finally:
                await pool.close()

        with ThreadPoolExecutor(1) as thread:  # this one may have an event loop that runs
            result = thread.submit(asyncio.run, probe()).result()
        if (result.status, result.output) != (ToolStatus.ok, "42\n"):
            told = (
                result.stderr
                if result.status is ToolStatus.infrastructure
                else f"`print(6 * 7)` gave {result.output!r}"
            )
            raise ValueError(f"env.sandbox.url={self.url}: no SandboxFusion server runs Python there: {told}")
        return FusionPool(self)


class FusionPool:
    """Connections to the server. Any number of `run` may be under way, all of them in one event loop."""

    isolation = Isolation.remote

    def __init__(self, sandbox: FusionSandbox) -> None:
        import httpx

        self._sandbox = sandbox
        # One client for each connection: a request costs httpx more the more connections a client has. The one that
        # was used last is taken first, since the server may have closed the others.
        token = os.environ.get(sandbox.token_variable, "")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        trusted = httpx.create_ssl_context(trust_env=False)
        self._clients = [
            httpx.AsyncClient(
                base_url=sandbox.url,
                headers=headers,
                timeout=httpx.Timeout(None, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_S),
                verify=trusted,
                trust_env=False,
            )
            for _ in range(sandbox.max_concurrency)
        ]
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)
        self._resume_at = 0.0
        self._under_way: set[asyncio.Task[ProgramResult]] = set()
        self._is_closed = False

    async def run(
        self, code: str, error_detail: ErrorDetail = ErrorDetail.traceback, *, shows_value: bool = False
    ) -> ProgramResult:
        """Runs `code` as a program and returns its status and whatever it printed, an uncaught exception at the end.

        A request that fails through no fault of the program is sent again, at most `max_retries` times; then the
        status is `infrastructure` and the output names the last failure. A retry keeps its place among the
        `max_concurrency`, so that a server in trouble is asked less. Where an answer says `Retry-After`, nothing is
        sent before. Cancelling closes the connection; the program itself still ends within the server's limits.

        Raises:
            RuntimeError: The pool is closed.
        """
        if self._is_closed:
            raise RuntimeError("the sandbox pool is closed")
        started = time.monotonic()
        work = asyncio.create_task(self._run(wrapped(code, error_detail, shows_value=shows_value)))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        try:
            await asyncio.wait([work])
        finally:
            work.cancel()
        return _failed("the sandbox pool was closed", started) if work.cancelled() else work.result()

    def session(self) -> Interpreter:
        """There is none (`keeps_sessions`).

        Raises:
            ValueError: Always.
        """
        raise ValueError("a SandboxFusion server keeps nothing between programs")

    async def close(self) -> None:
        """Ends the connections and the runs under way, as failures of the infrastructure; safe to call twice."""
        self._is_closed = True
        for work in self._under_way:
            work.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        for client in self._clients:
            await client.aclose()

    async def _run(self, script: str) -> ProgramResult:
        sandbox, started = self._sandbox, time.monotonic()
        request = {
            "code": script,
            "language": "python",
            "compile_timeout": sandbox.wall_s,
            "run_timeout": sandbox.wall_s,
            "memory_limit_MB": sandbox.memory_mb,
        }
        client = await self._idle.get()
        try:
            return await self._sent(client, request)
        except ServerFailure as error:
            failure = str(error).replace(request["code"], "...")[:MAX_FAILURE_CHARS]
            return _failed(failure, started)
        finally:
            self._idle.put_nowait(client)

    async def _sent(self, client: "httpx.AsyncClient", request: Mapping[str, Any]) -> ProgramResult:
        """The result of `request`, sent again where that may help.

        Raises:
            ServerFailure: The last failure.
        """
        pause_s, num_left = 0.0, self._sandbox.max_retries
        while True:
            await asyncio.sleep(max(pause_s, self._resume_at - time.monotonic()))
            sent = time.monotonic()
            try:
                body = await self._post(client, request)
                return read_answer(body, self._sandbox.max_capture_bytes, time.monotonic() - sent)
            except ServerFailure as error:
                if error.is_final:
                    raise
                self._resume_at = max(self._resume_at, time.monotonic() + error.retry_after_s)
                if num_left == 0:
                    raise
            pause_s, num_left = 2 * pause_s or self._sandbox.retry_s, num_left - 1

    async def _post(self, client: "httpx.AsyncClient", request: Mapping[str, Any]) -> bytes | None:
        """The body of the server's answer; None when it is longer than output that is kept can make it."""
        import httpx

        limit_s = self._sandbox.wall_s + self._sandbox.grace_s
        # JSON writes a byte in up to six.
        max_bytes = 6 * (self._sandbox.max_capture_bytes + len(request["code"])) + ENVELOPE_BYTES
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s), client.stream("POST", "/run_code", json=request) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > max_bytes:
                        break
        except TimeoutError as error:
            raise ServerFailure(f"no answer within {limit_s:g} s") from error
        except httpx.HTTPError as error:
            raise ServerFailure(f"{type(error).__name__}: {error}") from error
        if response.status_code == 200:
            return bytes(body) if len(body) <= max_bytes else None
        waits = response.headers.get("Retry-After", "")
        retry_after_s = float(waits) if waits.isdecimal() else 0.0  # it may be a date, too, which no server sends
        raise ServerFailure(
            f"{response.request.url} answered {response.status_code} {response.reason_phrase}: "
            f"{' '.join(TAG.sub(' ', body.decode(errors='replace')).split())}",
            is_final=response.status_code not in BUSY_OR_BROKEN or retry_after_s > MAX_PAUSE_S,
            retry_after_s=retry_after_s,
        )


def _failed(what: str, started: float) -> ProgramResult:
    wall_s = time.monotonic() - started
    return ProgramResult(status=ToolStatus.infrastructure, stdout="", stderr=what, wall_s=wall_s)
