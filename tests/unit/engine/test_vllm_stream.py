import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from turnwise.engine.vllm import stream
from turnwise.engine.vllm.stream import Listener, fetched, own_address


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(300, 7, generator=generator),
        "half": torch.randn(5, 3, generator=generator).to(torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
        "last": torch.arange(11),
    }


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener("127.0.0.1", tensors(), timeout_s=5.0)
    yield one
    one.close()


def test_what_is_fetched_is_what_was_offered(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SLICE", 64)
    offer = listener.offer()
    found = dict(fetched(offer.text))
    torch.testing.assert_close(found, tensors(), rtol=0, atol=0)
    assert [*found] == [*tensors()]
    assert offer.num_slices == 132 + 1 + 1 + 2  # 300 * 7 * 4 bytes, 30 bytes, none, 4 bytes and 88, in pieces of 64


def test_all_fetch_at_once_and_each_at_its_own_pace(listener: Listener) -> None:
    slow, fast = fetched(listener.offer().text), listener.offer()
    next(slow)
    assert len(dict(fetched(fast.text))) == 5
    assert len(dict(slow)) == 4


@pytest.mark.parametrize("word", ["", "Bearer 0", "Bearer"])
def test_who_was_offered_nothing_gets_nothing(listener: Listener, word: str) -> None:
    told = json.loads(listener.offer().text)
    with socket.create_connection((told["host"], told["port"]), timeout=5) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nAuthorization: {word}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 403 ")
    assert answer.endswith(b"\r\n\r\n")
    with pytest.raises(OSError, match="refused to send weights: 403"):
        next(fetched(json.dumps({**told, "token": "0"})))


def test_an_offer_ends_with_the_listener(listener: Listener) -> None:
    offer = listener.offer()
    begun = socket.create_connection(("127.0.0.1", json.loads(offer.text)["port"]), timeout=5)
    time.sleep(0.05)
    listener.close()
    assert begun.recv(10) == b""
    begun.close()
    with pytest.raises(ConnectionRefusedError):
        next(fetched(offer.text))


def test_a_trainer_that_stalls_or_breaks_off_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = {"host": "127.0.0.1", "port": server.getsockname()[1], "token": "x", "timeout_s": 0.3}
        offer = json.dumps({**told, "tensors": [["a", "float32", [1000]]]})

        def answer(last: bytes) -> socket.socket:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 4000\r\n\r\n" + last)
            return connection

        kept: list[socket.socket] = []
        thread = threading.Thread(target=lambda: kept.append(answer(b"x" * 100)))
        thread.start()
        with pytest.raises(TimeoutError):
            next(fetched(offer))
        thread.join()
        thread = threading.Thread(target=lambda: answer(b"x" * 100).close())
        thread.start()
        with pytest.raises(OSError, match="the trainer broke off within a"):
            next(fetched(offer))
        thread.join()
        kept[0].close()


def test_own_address_is_the_one_towards_the_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert own_address("localhost", server.getsockname()[1]) == "127.0.0.1"
