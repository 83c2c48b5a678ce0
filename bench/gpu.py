"""Update, decoding and a whole step of Qwen2.5 shapes with random weights on one GPU, in bfloat16."""

import gc

import torch

from gpu_decode import measure_decode
from gpu_step import measure_step
from gpu_update import measure_update
from prepared import Unsuitable
from random_qwen import SIZES, qwen_config
from rates import copy_rate, product_rate, published_tflops

SQUARE = 8192
COPIED_BYTES = 2 << 30


def measure() -> dict[str, float]:
    """Figures of both sizes, as `measure_update`, `measure_decode` and `measure_step` describe them.

    100% of the update is the rate that the maker publishes for dense bfloat16 products, or the measured one of large
    squares for a GPU that is not in the table: `peak_published_gflops` or `peak_measured_gflops` says which.

    Raises:
        Unsuitable: There is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise Unsuitable(f"needs a CUDA device, which torch {torch.__version__} does not find here")
    device = torch.device("cuda")
    square = product_rate(torch.bfloat16, SQUARE, SQUARE, SQUARE, device)
    bytes_per_s = copy_rate(COPIED_BYTES, device)
    published = published_tflops(torch.cuda.get_device_name(device))
    peak = square if published is None else published * 1e12
    figures = {
        "square_gflops": square / 1e9,
        "peak_measured_gflops" if published is None else "peak_published_gflops": peak / 1e9,
        "copy_bandwidth": bytes_per_s / 1e9,
    }
    for size, sizes in SIZES.items():
        config = qwen_config(**sizes)
        for part, measured in (
            ("update", lambda config=config: measure_update(config, device, peak)),
            ("decode", lambda config=config: measure_decode(config, device, bytes_per_s)),
            ("step", lambda config=config: measure_step(config, device)),
        ):
            print(f"  {size} {part} ...", flush=True)
            figures |= {f"{size}_{part}_{name}": value for name, value in measured().items()}
            gc.collect()  # models that refer to themselves
            torch.cuda.empty_cache()
    return figures
