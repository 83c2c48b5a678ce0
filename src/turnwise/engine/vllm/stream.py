"""Weights over the network: the trainer offers them while a hand-over lasts, and workers fetch them slice by slice.

Workers import this module, so it needs no more than torch.
"""

import http.client
import http.server
import json
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

SLICE = 4 << 20
"""Bytes that are sent or read at a time: what a peer must take before the time to stall begins anew."""
FIRST_WORD_S = 10.0
"""Seconds that a connection has to say what it wants."""


def fetched(offer: str) -> Iterator[tuple[str, Tensor]]:
    """Fetches what an `Offer` describes, one tensor in memory at a time.

    Raises:
        OSError: The trainer cannot be reached, refuses, or stalls.
    """
    told = json.loads(offer)
    connection = http.client.HTTPConnection(told["host"], told["port"], timeout=told["timeout_s"])
    try:
        connection.request("GET", "/", headers={"Authorization": f"Bearer {told['token']}"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise OSError(f"the trainer at {told['host']}:{told['port']} refused to send weights: {response.status}")
        for name, dtype, shape in told["tensors"]:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            for piece in _slices(tensor):
                read = 0
                while read < len(piece):
                    if not (count := response.readinto(piece[read:])):
                        raise OSError(f"the trainer broke off within {name}")
                    read += count
            yield name, tensor
    finally:
        connection.close()


def _slices(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor on the CPU, in place."""
    if tensor.numel():
        flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        whole = memoryview(flat)
        for start in range(0, len(whole), SLICE):
            yield whole[start : start + SLICE]


class Offer:
    """What one server may fetch.

    Attributes:
        text: What its workers need to know, JSON.
        num_slices: How many slices they have taken so far: grows as long as the transfer does not stall.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_slices = 0


class Listener:
    """Sends tensors to whom an offer was made, to all at once, each at its own pace; no other peer gets an answer."""

    def __init__(self, host: str, tensors: Mapping[str, Tensor], timeout_s: float) -> None:
        """Listens on a free port of the address `host`.

        Args:
            host: An address of this host that the workers can reach.
            tensors: Contiguous ones, on the CPU.
            timeout_s: Seconds without progress after which a transfer is broken off.

        Raises:
            OSError: This host has no such address.
        """
        self._host = host
        self._tensors = tensors
        self._timeout_s = timeout_s
        self._offers: dict[str, Offer] = {}
        self._server = _Server(host, self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def offer(self) -> Offer:
        """Lets one more server fetch the tensors."""
        token = secrets.token_hex(32)
        table = [(name, str(one.dtype).removeprefix("torch."), [*one.shape]) for name, one in self._tensors.items()]
        told = {
            "host": self._host,
            "port": self._server.server_address[1],
            "token": token,
            "timeout_s": self._timeout_s,
            "tensors": table,
        }
        self._offers[f"Bearer {token}"] = offer = Offer(json.dumps(told))
        return offer

    def close(self) -> None:
        """Takes all offers back and ends every connection."""
        self._offers.clear()
        self._server.shutdown()
        self._server.server_close()

    def send(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answers one request."""
        offer = self._offers.get(request.headers.get("Authorization", ""))
        if offer is None:
            request.send_response_only(http.client.FORBIDDEN)
            request.end_headers()
            return
        request.connection.settimeout(self._timeout_s)
        request.send_response_only(http.client.OK)
        request.send_header("Content-Length", str(sum(one.nbytes for one in self._tensors.values())))
        request.end_headers()
        for tensor in self._tensors.values():
            for piece in _slices(tensor):
                request.wfile.write(piece)
                offer.num_slices += 1


class _Server(http.server.ThreadingHTTPServer):
    """The standard library's server on one address, whose connections end with it."""

    def __init__(self, host: str, listener: Listener) -> None:
        self.listener = listener
        self.address_family = socket.getaddrinfo(host, None)[0][0]
        self._connections: set[socket.socket] = set()
        super().__init__((host, 0), _Request)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a peer that broke off is heard of from its server."""

    def server_close(self) -> None:
        for connection in [*self._connections]:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer was first
                continue
        super().server_close()


class _Request(http.server.BaseHTTPRequestHandler):
    timeout = FIRST_WORD_S

    def do_GET(self) -> None:
        server: Any = self.server
        server.listener.send(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def own_address(host: str, port: int) -> str:
    """The address from which this host reaches a server: the one by which the server can reach this host.

    Raises:
        OSError: It does not reach it.
    """
    with socket.create_connection((host, port), timeout=FIRST_WORD_S) as connection:
        return connection.getsockname()[0]
