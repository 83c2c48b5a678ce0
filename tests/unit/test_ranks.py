"""What another rank's end looks like, and what does not."""

from pathlib import Path

import pytest

from ranks_at_work import outlive
from several_ranks import together
from turnwise.ranks import RankLost, noticing_loss

GONE = (
    "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:9. This is",
    "[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:2467: Connection reset by peer",
    "[gloo/transport/tcp/pair.cc:448] writev [::1]:9: Broken pipe",
    "NCCL error: remote process exited or there was a network error",
)


@pytest.mark.parametrize("text", GONE)
def test_words_of_the_libraries_become_one_of_ours(text: str):
    with pytest.raises(RankLost, match=r"^another process of this run has ended; start it again$"):  # noqa: SIM117
        with noticing_loss(lambda: "start it again"):
            raise RuntimeError(text)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Connection reset by peer"),
        RuntimeError("[gloo/transport/tcp/pair.cc:1] Timed out waiting 1000ms for recv operation to complete"),
        ConnectionResetError("Connection reset by peer"),
        ValueError("gloo/transport/tcp: Connection closed by peer"),
    ],
)
def test_other_errors_pass_as_they_are(error: Exception):
    with pytest.raises(type(error)) as caught, noticing_loss(lambda: ""):
        raise error
    assert caught.value is error


def test_what_the_first_cannot_do_fails_on_all_and_a_rank_that_is_gone_is_noticed(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"1\.pt"):  # the second has left no result
        together(outlive, 2, tmp_path, str(tmp_path))
    heard = [(tmp_path / f"heard-{rank}").read_text().splitlines() for rank in range(2)]
    assert heard[0] == ["OSError: no space", "RankLost: another process of this run has ended; go on"]
    assert heard[1] == ["RankFailed: rank 0: OSError: no space"]
