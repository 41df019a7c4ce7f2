"""The KL divergences as Triton kernels: forward and backward, each a single launch. `kl_autograd_triton` launches them.

The formulas are those of `kl_reference`, computed in float32 from inputs of any float dtype and stride. A program takes
ROWS steps and walks over their groups, GROUPS at a time, so that a step's sum, which free nats need, never leaves it.
Backward computes everything again but which steps were clamped: reading the inputs a second time is cheaper than
writing and reading more, and a sum over groups would keep too much waiting in registers.
(`no_type_check`: Triton reads the source of a function, so the type checker of the tests must not wrap it.)
"""

from typing import NamedTuple, no_type_check

import triton
import triton.language as tl

from worldmodel.kernels import launch_triton


class Tile(NamedTuple):
    """How much one program takes: steps, groups at a time, classes of each (1 for Gaussians), and its warps."""

    rows: int
    groups: int
    classes: int
    num_warps: int


def gaussian_tile(groups: int, itemsize: int) -> Tile:
    """The tile for S Gaussian groups of `itemsize` bytes a number."""
    return _tile(min(triton.next_power_of_2(groups), 1024), 1, itemsize)


def categorical_tile(groups: int, classes: int, itemsize: int) -> Tile:
    """The tile for S groups of K classes of `itemsize` bytes a number."""
    width = triton.next_power_of_2(classes)
    return _tile(min(triton.next_power_of_2(groups), max(1, 2048 // width)), width, itemsize)


def _tile(groups: int, classes: int, itemsize: int) -> Tile:
    """At least 512 numbers a program, and one 16-byte load a thread: with more, registers limit the occupancy."""
    groups = max(groups, 1)  # where there is none a step still has its balanced KL
    rows = max(1, 512 // (groups * classes))
    threads = rows * groups * classes * itemsize // 16
    return Tile(rows, groups, classes, min(16, max(1, threads // launch_triton.lanes())))


@triton.jit
@no_type_check
def standard_deviation(raw, min_std):
    """min_std + softplus(raw), and its derivative sigmoid(raw)."""
    small = tl.exp(-tl.abs(raw))
    u = 1.0 + small
    inverse = 1.0 / u
    log1p_small = tl.log(u) - ((u - 1.0) - small) * inverse  # the second term is what 1 + small lost
    return min_std + tl.maximum(raw, 0.0) + log1p_small, tl.where(raw >= 0, 1.0, small) * inverse


@triton.jit
@no_type_check
def load_gaussian(ptr, at, inside, other_half, min_std):
    """Mean, standard deviation and the latter's derivative, in float32."""
    mean = tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)
    raw_std = tl.load(ptr + at + other_half, mask=inside, other=0.0).to(tl.float32)
    std, slope = standard_deviation(raw_std, min_std)
    return mean, std, slope


@triton.jit
@no_type_check
def gaussian_divergence(q_mean, q_std, p_mean, p_std):
    """KL, d = (m_q - m_p) / s_p, e (e + 2) with e = s_q / s_p - 1, and 1 / s_p; zero thrice for equal distributions."""
    inverse = 1.0 / p_std
    d = (q_mean - p_mean) * inverse
    e = (q_std - p_std) * inverse
    # log(1 + e) by way of log(u) and of what u = 1 + e lost, except near e = -1, which has itself lost s_q / s_p.
    narrow = e < -0.5
    u = tl.where(narrow, q_std * inverse, 1.0 + e)
    log_ratio = tl.log(u) - tl.where(narrow, 0.0, ((u - 1.0) - e) / u)
    square = e * (e + 2.0)
    return 0.5 * d * d + 0.5 * square - log_ratio, d, square, inverse


@triton.jit
@no_type_check
def gaussian_kl_forward(
    q_ptr, p_ptr, kl_ptr, q_entropy_ptr, p_entropy_ptr, balanced_ptr, clamped_ptr,
    n_rows, min_std, scale, floor,
    S: tl.constexpr, Q_ROW: tl.constexpr, Q_COL: tl.constexpr, P_ROW: tl.constexpr, P_COL: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Raw inputs [n_rows, 2S] -> kl and entropies [n_rows, S], scale * max(KL, floor) and KL < floor [n_rows]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        inside = (row < n_rows)[:, None] & (group < S)[None, :]
        q_at, p_at = row[:, None] * Q_ROW + group[None, :] * Q_COL, row[:, None] * P_ROW + group[None, :] * P_COL
        q_mean, q_std, _ = load_gaussian(q_ptr, q_at, inside, S * Q_COL, min_std)
        p_mean, p_std, _ = load_gaussian(p_ptr, p_at, inside, S * P_COL, min_std)
        kl, _, _, _ = gaussian_divergence(q_mean, q_std, p_mean, p_std)  # zero outside, where all is equal
        total += tl.sum(kl, axis=1)
        at = row[:, None] * S + group[None, :]
        tl.store(kl_ptr + at, kl, mask=inside)
        half_log_2pi_e = 1.4189385332046727
        tl.store(q_entropy_ptr + at, half_log_2pi_e + tl.log(q_std), mask=inside)
        tl.store(p_entropy_ptr + at, half_log_2pi_e + tl.log(p_std), mask=inside)
    clamped = total < floor
    tl.store(balanced_ptr + row, scale * tl.where(clamped, floor, total), mask=row < n_rows)
    tl.store(clamped_ptr + row, clamped, mask=row < n_rows)


@triton.jit
@no_type_check
def gaussian_kl_backward(
    q_ptr, p_ptr, kl_grad_ptr, q_entropy_grad_ptr, p_entropy_grad_ptr, balanced_grad_ptr, clamped_ptr,
    q_grad_ptr, p_grad_ptr,
    n_rows, min_std, dyn, rep,
    S: tl.constexpr, Q_ROW: tl.constexpr, Q_COL: tl.constexpr, P_ROW: tl.constexpr, P_COL: tl.constexpr,
    G_ROW: tl.constexpr, G_COL: tl.constexpr, B_ROW: tl.constexpr,
    HAS_KL: tl.constexpr, HAS_ENTROPY: tl.constexpr, HAS_BALANCED: tl.constexpr, CLAMPS: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Raw inputs and the cotangents that there are -> both gradients [n_rows, 2S]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        inside = (row < n_rows)[:, None] & (group < S)[None, :]
        q_at, p_at = row[:, None] * Q_ROW + group[None, :] * Q_COL, row[:, None] * P_ROW + group[None, :] * P_COL
        q_mean, q_std, q_slope = load_gaussian(q_ptr, q_at, inside, S * Q_COL, min_std)
        p_mean, p_std, p_slope = load_gaussian(p_ptr, p_at, inside, S * P_COL, min_std)
        _, d, square, inverse = gaussian_divergence(q_mean, q_std, p_mean, p_std)
        by_mean = d * inverse
        q_by_std, p_by_std = square * q_slope / q_std, -(d * d + square) * p_slope * inverse
        q_side, p_side = tl.zeros((ROWS, GROUPS), tl.float32), tl.zeros((ROWS, GROUPS), tl.float32)
        if HAS_BALANCED:
            balanced = tl.load(balanced_grad_ptr + row * B_ROW, mask=row < n_rows, other=0.0)
            if CLAMPS:
                clamped = tl.load(clamped_ptr + row, mask=row < n_rows, other=0)
                balanced = tl.where(clamped != 0, 0.0, balanced)
            q_side, p_side = q_side + rep * balanced[:, None], p_side + dyn * balanced[:, None]
        if HAS_KL:
            plain = tl.load(kl_grad_ptr + row[:, None] * G_ROW + group[None, :] * G_COL, mask=inside, other=0.0)
            q_side, p_side = q_side + plain, p_side + plain
        q_by_std, p_by_std = q_side * q_by_std, p_side * p_by_std
        if HAS_ENTROPY:
            at = row[:, None] * S + group[None, :]
            q_by_std += tl.load(q_entropy_grad_ptr + at, mask=inside, other=0.0) * q_slope / q_std
            p_by_std += tl.load(p_entropy_grad_ptr + at, mask=inside, other=0.0) * p_slope * inverse
        at = row[:, None] * (2 * S) + group[None, :]
        tl.store(q_grad_ptr + at, q_side * by_mean, mask=inside)
        tl.store(q_grad_ptr + at + S, q_by_std, mask=inside)
        tl.store(p_grad_ptr + at, -p_side * by_mean, mask=inside)
        tl.store(p_grad_ptr + at + S, p_by_std, mask=inside)


@triton.jit
@no_type_check
def load_categorical(ptr, at, inside, is_class, keep, uniform, MIXED: tl.constexpr):
    """softmax s, mixture q = keep s + uniform, and log q, of [ROWS, GROUPS, CLASSES] logits; zero where no class is."""
    # Of a row that is not there every class is zero, so that its largest logit is finite.
    logits = tl.where(is_class, tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32), -float("inf"))
    shifted = logits - tl.max(logits, axis=2, keep_dims=True)
    weight = tl.exp(shifted)
    normaliser = tl.sum(weight, axis=2, keep_dims=True)
    softmax = weight / normaliser
    if MIXED:
        mixture = keep * softmax + uniform
        log_mixture = tl.log(mixture)
    else:
        mixture = softmax
        log_mixture = shifted - tl.log(normaliser)
    return softmax, tl.where(is_class, mixture, 0.0), tl.where(is_class, log_mixture, 0.0)


@triton.jit
@no_type_check
def categorical_divergence(q, log_q, p, log_p):
    """sum_k q (u - 1 + exp(-u)), u = log q - log p, as a series where u is small: no term is below zero."""
    u = log_q - log_p
    x = -tl.minimum(tl.maximum(u, -0.5), 0.5)
    tail = 1 / 720 + x * (1 / 5040 + x * (1 / 40320 + x * (1 / 362880)))
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * tail))))
    return tl.sum(tl.where(tl.abs(u) < 0.5, q * series, q * u + (p - q)), axis=2)


@triton.jit
@no_type_check
def categorical_kl_forward(
    q_ptr, p_ptr, kl_ptr, q_entropy_ptr, p_entropy_ptr, balanced_ptr, clamped_ptr,
    n_rows, keep, uniform, scale, floor,
    S: tl.constexpr, K: tl.constexpr,
    Q_ROW: tl.constexpr, Q_GROUP: tl.constexpr, Q_CLASS: tl.constexpr,
    P_ROW: tl.constexpr, P_GROUP: tl.constexpr, P_CLASS: tl.constexpr,
    MIXED: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits [n_rows, S, K] -> kl and entropies [n_rows, S], scale * max(KL, floor) and KL < floor [n_rows]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, CLASSES)[None, None, :]
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        some = (row < n_rows)[:, None] & (group < S)[None, :]
        r, g, inside = row[:, None, None], group[None, :, None], some[:, :, None] & (k < K)
        q_at, p_at = r * Q_ROW + g * Q_GROUP + k * Q_CLASS, r * P_ROW + g * P_GROUP + k * P_CLASS
        _, q, log_q = load_categorical(q_ptr, q_at, inside, k < K, keep, uniform, MIXED)
        _, p, log_p = load_categorical(p_ptr, p_at, inside, k < K, keep, uniform, MIXED)
        kl = categorical_divergence(q, log_q, p, log_p)  # zero outside, where all is equal
        total += tl.sum(kl, axis=1)
        at = row[:, None] * S + group[None, :]
        tl.store(kl_ptr + at, kl, mask=some)
        tl.store(q_entropy_ptr + at, -tl.sum(q * log_q, axis=2), mask=some)
        tl.store(p_entropy_ptr + at, -tl.sum(p * log_p, axis=2), mask=some)
    clamped = total < floor
    tl.store(balanced_ptr + row, scale * tl.where(clamped, floor, total), mask=row < n_rows)
    tl.store(clamped_ptr + row, clamped, mask=row < n_rows)


@triton.jit
@no_type_check
def categorical_kl_backward(
    q_ptr, p_ptr, kl_grad_ptr, q_entropy_grad_ptr, p_entropy_grad_ptr, balanced_grad_ptr, clamped_ptr,
    q_grad_ptr, p_grad_ptr,
    n_rows, keep, uniform, dyn, rep,
    S: tl.constexpr, K: tl.constexpr,
    Q_ROW: tl.constexpr, Q_GROUP: tl.constexpr, Q_CLASS: tl.constexpr,
    P_ROW: tl.constexpr, P_GROUP: tl.constexpr, P_CLASS: tl.constexpr,
    G_ROW: tl.constexpr, G_COL: tl.constexpr, B_ROW: tl.constexpr,
    HAS_KL: tl.constexpr, HAS_ENTROPY: tl.constexpr, HAS_BALANCED: tl.constexpr, CLAMPS: tl.constexpr,
    MIXED: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Logits and the cotangents that there are -> both gradients [n_rows, S, K].

    With softmaxes s and t of the two logits, and dKL/dq = u, dKL/dp = 1 - q / p up to constants, which softmax ignores:
        keep * (s u - s sum_j s_j u_j)    and    keep * (t' - t sum_j t'_j),    t' = (p - q) t / p
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, CLASSES)[None, None, :]
    for start in range(0, S, GROUPS):
        group = start + tl.arange(0, GROUPS)
        some = (row < n_rows)[:, None] & (group < S)[None, :]
        r, g, inside = row[:, None, None], group[None, :, None], some[:, :, None] & (k < K)
        q_at, p_at = r * Q_ROW + g * Q_GROUP + k * Q_CLASS, r * P_ROW + g * P_GROUP + k * P_CLASS
        s, q, log_q = load_categorical(q_ptr, q_at, inside, k < K, keep, uniform, MIXED)
        t, p, log_p = load_categorical(p_ptr, p_at, inside, k < K, keep, uniform, MIXED)
        q_side, p_side = tl.zeros((ROWS, GROUPS), tl.float32), tl.zeros((ROWS, GROUPS), tl.float32)
        if HAS_BALANCED:
            balanced = tl.load(balanced_grad_ptr + row * B_ROW, mask=row < n_rows, other=0.0)
            if CLAMPS:
                clamped = tl.load(clamped_ptr + row, mask=row < n_rows, other=0)
                balanced = tl.where(clamped != 0, 0.0, balanced)
            q_side, p_side = q_side + rep * balanced[:, None], p_side + dyn * balanced[:, None]
        if HAS_KL:
            plain = tl.load(kl_grad_ptr + row[:, None] * G_ROW + group[None, :] * G_COL, mask=some, other=0.0)
            q_side, p_side = q_side + plain, p_side + plain
        q_part, p_part = q_side[:, :, None] * s * (log_q - log_p), p_side[:, :, None] * (p - q)
        if MIXED:
            p_part = tl.where(k < K, p_part * t / tl.where(k < K, p, 1.0), 0.0)
        if HAS_ENTROPY:
            at = row[:, None] * S + group[None, :]
            q_part -= tl.load(q_entropy_grad_ptr + at, mask=some, other=0.0)[:, :, None] * s * log_q
            p_part -= tl.load(p_entropy_grad_ptr + at, mask=some, other=0.0)[:, :, None] * t * log_p
        at = (r * S + g) * K + k
        tl.store(q_grad_ptr + at, keep * (q_part - s * tl.sum(q_part, axis=2, keep_dims=True)), mask=inside)
        tl.store(p_grad_ptr + at, keep * (p_part - t * tl.sum(p_part, axis=2, keep_dims=True)), mask=inside)
