"""How tensors are handed to kernels: in place, with constants that are the same for sequences of any length."""

import pytest
import torch

pytest.importorskip("triton")

from worldmodel.kernels.launch_triton import rows_of, strided


@pytest.mark.parametrize(
    ("x", "row", "layout"),
    [
        (torch.zeros(6, 4, 10), 1, (40, 10, 1)),  # rows touch
        (torch.zeros(6, 4, 10).mT, 1, (40, 1, 10)),
        (torch.zeros(6, 5, 32)[:, 0], 10, (16, 1)),  # one step of a sequence of 5
        (torch.zeros(6, 7, 32)[:, 0], 14, (16, 1)),  # and of 7: the constant is the same
        (torch.zeros(6, 5)[:, :3], 5, (1, 1)),
        (torch.zeros(6)[:, None].expand(6, 8), 1, (1, 0)),  # the gradient of a sum
        (torch.zeros(1, 1).expand(6, 8), 0, (16, 0)),
        (torch.zeros(9, 3, 8)[::9, 1:2], 0, (16, 0, 1)),  # one row of one group: their strides mean nothing
        (torch.zeros(6), 1, (1,)),
        (torch.zeros(1, 0), 0, (16, 0)),
    ],
    ids=lambda x: str(tuple(x.shape)) if isinstance(x, torch.Tensor) else str(x),
)
def test_the_distance_of_rows_is_a_number_of_units_and_all_else_a_constant(x, row, layout):
    arguments = strided(x=x)
    assert arguments == {"x_ptr": x, "x_row": row, "X": layout}
    assert arguments["x_ptr"] is x


def test_an_absent_tensor_has_no_layout():
    assert strided(kl_grad=None) == {"kl_grad_ptr": None, "kl_grad_row": None, "KL_GRAD": None}


def test_rows_of_evenly_spaced_steps_are_a_view_and_others_a_copy():
    x = torch.arange(240.0).view(3, 4, 4, 5)
    assert rows_of(x[:, :, 1:3], 2).data_ptr() == x[:, :, 1:3].data_ptr()
    crossed = x.transpose(0, 1)
    assert torch.equal(rows_of(crossed, 2), crossed.flatten(0, 1))
    assert rows_of(torch.zeros(5), 1).shape == (1, 5)
