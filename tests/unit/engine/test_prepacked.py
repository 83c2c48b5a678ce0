import pytest
import torch
from torch import nn

from tiny_models import small_model
from turnwise.engine.prepacked import DTYPES, PrepackedLinear, prepack

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")

in_half_precision = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not compute in bfloat16"
)
IN_EACH = [pytest.param(dtype, marks=in_half_precision if dtype is torch.bfloat16 else ()) for dtype in DTYPES]


@pytest.mark.parametrize("dtype", IN_EACH)
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_packed_map_gives_what_the_plain_one_gives_for_any_number_of_rows(dtype: torch.dtype, has_bias: bool) -> None:
    plain = nn.Linear(48, 80, bias=has_bias, dtype=dtype).requires_grad_(False)
    packed = PrepackedLinear(plain)
    for shape in ((1, 48), (32, 48), (1, 700, 48), (0, 48)):
        rows = torch.randn(shape, dtype=torch.float32).to(dtype)
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(packed(rows), plain(rows), rtol=tolerance, atol=tolerance)


@in_half_precision
def test_packing_anew_changes_the_map_and_keeps_its_precision() -> None:
    packed = PrepackedLinear(nn.Linear(4, 4, bias=False, dtype=torch.bfloat16))
    packed.pack(2 * torch.eye(4))
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16)
    assert packed(rows).equal(2 * rows)


def test_every_linear_map_of_a_model_is_packed_under_the_name_of_its_weights() -> None:
    model = small_model()
    names = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    assert prepack(model).keys() == names
    assert not any(type(module) is nn.Linear for module in model.modules())


def test_maps_of_another_kind_or_precision_stay_and_without_onednn_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Linear):
        pass

    kept = nn.Sequential(Scaled(2, 2), nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2, device="meta"))
    assert prepack(kept) == {}
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert prepack(nn.Sequential(nn.Linear(2, 2))) == {}
