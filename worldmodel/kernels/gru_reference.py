"""A step of the block GRU and of the posterior's head, cut where the launches of a GPU are, as formulas in plain torch.

Each function is one launch of `gru_triton` or `gru_backward_triton`, takes what that takes and writes where that
writes. Letters are those of `models.scan`; s is the sigmoid, norm has no scale of its own, and k is `keep` [B, 1].
Between the launches a matrix product of torch's own gives what is called `from_...`, in the dtype of products P: that
of the matrices. The rest is float32 (here: whatever comes). What the next product reads is written a second time in P,
where P is narrower.

Forward, from h_{t-1} and z_{t-1}:

    product     from_deter = h_{t-1} R,  from_stoch = z_{t-1} Z
    mix         i_t, m_t
    gates       (r, u, c), h_t
    product     from_deter = h_t R, whose last columns the head reads
    layer       one hidden layer of the head; the last of them is head_gaussian or head_categorical, with the sample

Backward, from what reached i_{t+1} through its silu:

    draw_back   raw_t'
    product     from_raw = raw_t' M, and so on with `norm_back` through the layers
    read_back   what reaches h_t R: of i_{t+1}, and f_t'
    product     from_read = read' R
    gates_back  (r, u, c)', and what comes out of the silu of m_t
    mix_back    what comes out of the silu of i_t, and what reaches h_{t-1} past it
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from worldmodel.kernels import latent_reference
from worldmodel.kernels.gru_shapes import Draw, LayerInput, Normalised
from worldmodel.kernels.kl_reference import mix_uniform_probs, split_gaussian
from worldmodel.kernels.precision import full_precision


def mix(
    deter: Tensor, keep: Tensor, from_deter: Tensor, from_stoch: Tensor, action_mix: Tensor, bias: Tensor,
    scale: Tensor, shift: Tensor, shared: Tensor, own: Tensor, eps: float, inputs: Tensor, mixed: Tensor,
) -> None:  # fmt: skip
    """i = k from + b, two norms,    m = a + silu(scale norm(i) + shift) S + k h O.

    Args:
        deter: h [B, D]; own: O [G, d, d].
        from_deter, from_stoch: [B, I or more], of which the first I columns are read; [B, I].
        action_mix: a [B, D].
        bias, scale, shift: [2, I] of what is read of h and of z; shared: S [2 I, D].
        inputs, mixed: for i [B, 2, I] and m [B, D].
    """
    hidden = from_stoch.shape[-1]
    read = torch.stack([from_deter[:, :hidden], from_stoch], 1).to(deter.dtype)
    inputs.copy_(keep[:, None] * read + bias)
    active = silu(scale * _norm(inputs, eps) + shift).flatten(1)
    mixed.copy_(action_mix + _times(active, shared) + _flat(_times(_blocks(keep * deter, len(own)), own)))


def gates(
    deter: Tensor, keep: Tensor, mixed: Tensor, scale: Tensor, shift: Tensor, matrix: Tensor, bias: Tensor,
    eps: float, opened: Tensor, new: Tensor, new_narrow: Tensor | None,
) -> None:  # fmt: skip
    """(r, u, c) = silu(scale norm(m) + shift) G + b,    h' = k h + s(u) (tanh(s(r) c) - k h).

    Args:
        deter: h [B, D]; mixed: m [B, D]; scale, shift: [D].
        matrix, bias: G [G, d, 3 d] and [G, 1, 3 d].
        opened: for (r, u, c) [G, B, 3 d].
        new, new_narrow: for h' [B, D].
    """
    active = silu(scale * _norm(mixed, eps) + shift)
    opened.copy_(_times(_blocks(active, len(matrix)), matrix) + bias)
    r, u, c = opened.chunk(3, -1)
    _write(
        _flat(torch.lerp(_blocks(keep * deter, len(matrix)), torch.tanh(r.sigmoid() * c), u.sigmoid())), new, new_narrow
    )


def layer(x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, result: Tensor) -> None:
    """read = what the layer reads,    result = silu(scale norm(read) + shift) M^T + b, [B, I] each; M [J, I]."""
    result.copy_(_layer(x, matrix, bias, eps, read))


def head_gaussian(
    x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, raw: Tensor, noise: Tensor, draw: Draw,
    stoch: Tensor, stoch_narrow: Tensor | None,
) -> None:  # fmt: skip
    """A layer whose result is raw = (means, unconstrained stds) [B, 2 S] in P,    z = mean + std noise [B, S]."""
    raw.copy_(_layer(x, matrix, bias, eps, read))
    mean, std = split_gaussian(full_precision(raw), draw.setting)
    _write(mean + std * noise, stoch, stoch_narrow)


def head_categorical(
    x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor, raw: Tensor, noise: Tensor, draw: Draw,
    stoch: Tensor, stoch_narrow: Tensor | None,
) -> None:  # fmt: skip
    """A layer whose result is raw = logits [B, S K] in P,    z = onehot( argmax_k p_k / -log noise_k ) [B, S K]."""
    raw.copy_(_layer(x, matrix, bias, eps, read))
    probs = mix_uniform_probs(full_precision(raw).unflatten(-1, (draw.groups, draw.classes)), draw.setting)
    _write(latent_reference.one_hot_draw(probs, latent_reference.rates(noise)).flatten(-2), stoch, stoch_narrow)


def draw_back(
    reached: Normalised | None, keep: Tensor, stoch_in: Tensor, of_stoch: Tensor, of_raw: Tensor, raw: Tensor,
    noise: Tensor, draw: Draw, raw_narrow: Tensor | None, read: Tensor,
) -> None:  # fmt: skip
    """z' = cotangent + k i_z' Z,    raw' = cotangent + z' dz/draw; the next launch's skip is read' too.

    Args:
        reached: what is known of i of the next step, of which the second half is read; None at the last step.
        keep: of the next step.
        stoch_in: Z [I, Z].
        of_stoch, of_raw: the cotangents [B, Z] and [B, P]; raw' is written into the latter.
        raw: [B, P]; noise as for the sample.
        raw_narrow: for raw' [B, P].
        read: read' [B, I + W], of which what follows 2 I columns, if anything, becomes raw'.
    """
    z = of_stoch
    if reached is not None:
        z = z + _times(keep * _norm_back(reached)[:, 1], stoch_in)
    wide = full_precision(raw)
    if draw.classes:
        soft = wide.unflatten(-1, (draw.groups, draw.classes)).softmax(-1)
        z = z.unflatten(-1, soft.shape[-2:])
        through = ((1 - draw.setting) * soft * (z - (soft * z).sum(-1, keepdim=True))).flatten(-2)
    else:
        through = torch.cat([z, z * noise * wide.chunk(2, -1)[1].sigmoid()], -1)
    _write(of_raw + through, of_raw, raw_narrow)
    if skipped := read.shape[-1] - 2 * stoch_in.shape[0]:
        read[:, -skipped:] = of_raw


def norm_back(reached: Normalised, out: Tensor, out_narrow: Tensor | None) -> None:
    """What reaches the input of a norm [B, I]."""
    _write(_norm_back(reached), out, out_narrow)


def read_back(
    inputs: Normalised | None, keep: Tensor, layer: Normalised, read: Tensor, read_narrow: Tensor | None
) -> None:
    """read' = (k i_h', f', and raw' as `draw_back` left it) [B, I + W]; `inputs`: i of the next step, None: zeros."""
    hidden = layer.x.shape[-1]
    read[:, :hidden] = 0 if inputs is None else keep * _norm_back(inputs)[:, 0]
    read[:, hidden : 2 * hidden] = _norm_back(layer)
    if read_narrow is not None:
        read_narrow.copy_(read)


def gates_back(
    of_deter: Tensor, from_read: Tensor, slopes: Tensor, matrix: Tensor, opened: Tensor, active: Tensor
) -> None:
    """h' = of_deter + from_read [B, D],    (r, u, c)' = h' C [G, B, 3 d],    active' = (r, u, c)' G^T [B, D].

    Args:
        slopes: C [G, B, 3 d], that of r, of u and of c.
        matrix: G [G, d, 3 d].
        opened, active: for (r, u, c)' and active'.
    """
    deter = _blocks(of_deter + from_read.to(of_deter.dtype), len(matrix))
    opened.copy_(deter.repeat(1, 1, 3) * slopes)
    active.copy_(_flat(_times(opened, matrix.mT)))


def mix_back(
    of_deter: Tensor, from_read: Tensor, stay: Tensor, reached: Normalised, keep: Tensor, shared: Tensor, own: Tensor,
    active: Tensor, of_earlier: Tensor,
) -> None:  # fmt: skip
    """active' = m' S^T [B, 2, I],    of_earlier += k (h' (1 - s(u)) + m' O^T) [B, D].

    Args:
        of_deter, from_read: h' [B, D] is their sum; stay: 1 - s(u) [G, B, d].
        reached: what gives m' [B, D].
        active, of_earlier: the latter is what reached h_{t-1} otherwise.
    """
    mixed = _norm_back(reached)
    active.copy_(_times(mixed, shared.mT).view_as(active))
    held = (of_deter + from_read.to(of_deter.dtype)) * _flat(stay) + _flat(_times(_blocks(mixed, len(own)), own.mT))
    of_earlier.add_(keep * held)


def _layer(x: LayerInput, matrix: Tensor, bias: Tensor, eps: float, read: Tensor) -> Tensor:
    hidden = read.shape[-1]
    read.copy_(x.base[:, :hidden] if x.product is None else x.base[:, :hidden] + x.product[:, :hidden].to(x.base.dtype))
    result = _times(silu(x.scale * _norm(read, eps) + x.shift), matrix.mT) + bias
    return result if x.skip is None else result + sum(part[:, hidden:].to(result.dtype) for part in x.skip)


def _norm(x: Tensor, eps: float) -> Tensor:
    return torch.layer_norm(x, x.shape[-1:], eps=eps)


def _norm_back(reached: Normalised) -> Tensor:
    """With g = what reaches the norm's result and n that result: (g - mean(g) - n mean(g n)) / std."""
    g, normal = reached.active.to(reached.x.dtype) * reached.into, (reached.x - reached.mean) * reached.rstd
    return reached.rstd * (g - g.mean(-1, keepdim=True) - normal * (g * normal).mean(-1, keepdim=True))


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """Factors in the matrix's dtype, the product in that of x."""
    return x @ matrix if x.dtype == matrix.dtype else x.to(matrix.dtype).to(x.dtype) @ matrix.to(x.dtype)


def _write(x: Tensor, out: Tensor, narrow: Tensor | None) -> None:
    out.copy_(x)
    if narrow is not None:
        narrow.copy_(x)


def _blocks(x: Tensor, blocks: int) -> Tensor:
    """[B, D] -> [G, B, d]."""
    return x.unflatten(-1, (blocks, -1)).transpose(0, 1)


def _flat(x: Tensor) -> Tensor:
    """[G, B, d] -> [B, D]."""
    return x.transpose(0, 1).flatten(1)
