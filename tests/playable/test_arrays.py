"""Numbers for a page come back as they were put in."""

import base64

import numpy as np
import pytest
import torch

from worldmodel.playable.arrays import DTYPES, Arrays, plain


def read(arrays: Arrays, reference):
    store, begins, *shape = reference
    dtype, text = arrays.texts()[store]
    numbers = np.frombuffer(base64.b64decode(text), DTYPES[dtype])
    return numbers[begins : begins + int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize(("precision", "close"), [("float32", 0), ("float16", 2**-11)])
def test_weights_are_kept_in_the_precision_that_is_asked_for_and_numbers_in_float32(precision, close):
    arrays, generator = Arrays(precision), torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)
    kept = arrays.weights(first), arrays.weights(second), arrays.numbers(second)
    np.testing.assert_allclose(read(arrays, kept[0]), first, rtol=close)
    np.testing.assert_allclose(read(arrays, kept[1]), second, rtol=close)
    np.testing.assert_array_equal(read(arrays, kept[2]), second)
    assert arrays.count == 17 and arrays.texts()["weights"][0] == precision


def test_bytes_take_a_byte_each():
    arrays = Arrays()
    assert arrays.bytes(torch.tensor([[0, 255], [3, 4]])) == ["bytes", 0, 2, 2]
    assert base64.b64decode(arrays.texts()["bytes"][1]) == bytes([0, 255, 3, 4])


def test_weights_that_no_half_precision_holds_are_refused():
    Arrays().weights(torch.tensor([1e5]))
    with pytest.raises(ValueError, match="weights: expected numbers within 65504, got 100000"):
        Arrays("float16").weights(torch.tensor([1e5]))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weights: expected numbers within"):
            Arrays().weights(torch.tensor([value]))


def test_what_json_has_no_number_for_is_null():
    assert plain([1.23456789, float("nan"), float("-inf"), 0.0]) == [1.23457, None, None, 0.0]
