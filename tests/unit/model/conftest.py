import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> None:
    """Models of a few thousand parameters are slower on two threads than on one."""
    torch.set_num_threads(1)
