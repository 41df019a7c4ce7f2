"""The maths that all Triton kernels share: where numbers lie, standard deviations, mixed softmaxes and divergences.

Everything is computed in float32, whatever the dtype of the inputs; the formulas are those of `kl_reference`. What a
layout is, `launch_triton` says. (`no_type_check`: Triton reads the source of a function, so the type checker of the
tests must not wrap it.)
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def rows_here(ROWS: tl.constexpr):
    """The rows that this program takes, as int64, so that no offset overflows."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
@no_type_check
def offsets(row, group, distance, LAYOUT: tl.constexpr):
    """Where the first number of each group lies: `distance` between rows in units of LAYOUT[0], groups LAYOUT[1]."""
    return row * distance * LAYOUT[0] + group * LAYOUT[1]


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
    """Mean, standard deviation, and the derivative of the latter by what was loaded."""
    mean = tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)
    raw_std = tl.load(ptr + at + other_half, mask=inside, other=0.0).to(tl.float32)
    std, slope = standard_deviation(raw_std, min_std)
    return mean, std, slope


@triton.jit
@no_type_check
def load_categorical(ptr, at, inside, is_class, keep, uniform, MIXED: tl.constexpr):
    """softmax s, mixture q = keep s + uniform, and log q, of [ROWS, GROUPS, CLASSES] logits; zero where no class is."""
    return mixed_softmax(tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32), is_class, keep, uniform, MIXED)


@triton.jit
@no_type_check
def mixed_softmax(logits, is_class, keep, uniform, MIXED: tl.constexpr):
    """What `load_categorical` returns, of logits [ROWS, GROUPS, CLASSES]."""
    # Every class of a row beyond the last is zero, so that its largest logit is finite.
    logits = tl.where(is_class, logits, -float("inf"))
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
def gaussian_divergence(q_mean, q_std, p_mean, p_std):
    """KL, d = (m_q - m_p) / s_p, e (e + 2) with e = s_q / s_p - 1, and 1 / s_p.

    The first three are exactly zero for equal distributions.
    """
    inverse = 1.0 / p_std
    d = (q_mean - p_mean) * inverse
    e = (q_std - p_std) * inverse
    # log(1 + e) is log(u) of the rounded u = 1 + e, corrected by what the rounding lost. Where e is near -1 the digits
    # of s_q / s_p are lost already, and u is that quotient itself.
    narrow = e < -0.5
    u = tl.where(narrow, q_std * inverse, 1.0 + e)
    log_ratio = tl.log(u) - tl.where(narrow, 0.0, ((u - 1.0) - e) / u)
    square = e * (e + 2.0)
    return 0.5 * d * d + 0.5 * square - log_ratio, d, square, inverse


@triton.jit
@no_type_check
def categorical_divergence(q, log_q, p, log_p):
    """sum_k q (u - 1 + exp(-u)), u = log q - log p, as a series where u is small: no term is below zero."""
    u = log_q - log_p
    x = -tl.minimum(tl.maximum(u, -0.5), 0.5)
    tail = 1 / 720 + x * (1 / 5040 + x * (1 / 40320 + x * (1 / 362880)))
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * tail))))
    return tl.sum(tl.where(tl.abs(u) < 0.5, q * series, q * u + (p - q)), axis=2)
