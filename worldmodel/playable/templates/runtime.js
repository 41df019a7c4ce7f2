"use strict";
// A world model's dream in a browser: the recurrence, the prior and the decoder of a description that
// `worldmodel.playable.networks` wrote, in float64. Pictures and controls know nothing of it but `Dream`.

const Runtime = (() => {
  // ---- numbers of the page

  /** Base64 -> the stores of the page by name, each a typed array. */
  function readStores(texts) {
    const read = { uint8: (bytes) => bytes, float32: fromFloat, float16: fromHalf };
    return Object.fromEntries(Object.entries(texts).map(([name, [dtype, text]]) => [name, read[dtype](fromText(text))]));
  }

  function fromText(text) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  function fromFloat(bytes) {
    const view = new DataView(bytes.buffer), numbers = new Float32Array(bytes.length / 4);
    for (let i = 0; i < numbers.length; i++) numbers[i] = view.getFloat32(4 * i, true);
    return numbers;
  }

  /** Half precision: 1 bit of sign, 5 of exponent, 10 of mantissa; there are no infinities among weights. */
  function fromHalf(bytes) {
    const view = new DataView(bytes.buffer), numbers = new Float32Array(bytes.length / 2);
    for (let i = 0; i < numbers.length; i++) {
      const half = view.getUint16(2 * i, true), exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ff;
      const size = exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -14 * (mantissa / 1024);
      numbers[i] = half & 0x8000 ? -size : size;
    }
    return numbers;
  }

  /** A reference [store, begins, ...shape] -> its numbers; its shape stays with it. */
  function look(stores, reference) {
    const [store, begins, ...shape] = reference;
    const numbers = stores[store].subarray(begins, begins + shape.reduce((a, b) => a * b, 1));
    return Object.assign(numbers, { shape });
  }

  /** A description in which every reference has become its numbers. */
  function resolved(stores, part) {
    if (Array.isArray(part)) {
      return part.length > 1 && typeof part[0] === "string" && part[0] in stores && Number.isInteger(part[1])
        ? look(stores, part) : part.map((one) => resolved(stores, one));
    }
    if (part === null || typeof part !== "object") return part;
    return Object.fromEntries(Object.entries(part).map(([name, one]) => [name, resolved(stores, one)]));
  }

  // ---- layers

  const sigmoid = (x) => x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x));
  const softplus = (x) => x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x));
  const symexp = (x) => Math.sign(x) * Math.expm1(Math.abs(x));
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  function joined(...parts) {
    const out = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) { out.set(part, at); at += part.length; }
    return out;
  }

  function linear({ weight, bias }, x) {
    const [outputs, inputs] = weight.shape, y = new Float64Array(outputs);
    for (let o = 0, at = 0; o < outputs; o++) {
      let sum = bias ? bias[o] : 0;
      for (let i = 0; i < inputs; i++, at++) sum += weight[at] * x[i];
      y[o] = sum;
    }
    return y;
  }

  /** Normalises x[begin], x[begin + stride], ...: `count` numbers, with a weight and a bias each. */
  function normalise(x, y, begin, stride, { weight, bias, eps }) {
    const count = weight.length;
    let mean = 0, variance = 0;
    for (let i = 0; i < count; i++) mean += x[begin + i * stride] / count;
    for (let i = 0; i < count; i++) variance += (x[begin + i * stride] - mean) ** 2 / count;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0, at = begin; i < count; i++, at += stride) y[at] = (x[at] - mean) * scale * weight[i] + bias[i];
  }

  function norm(operation, x) {
    const y = new Float64Array(x.length);
    normalise(x, y, 0, 1, operation);
    return y;
  }

  /** Over the channels of every pixel of x [channels, pixels]. */
  function channelNorm(operation, x) {
    const y = new Float64Array(x.length), pixels = x.length / operation.weight.length;
    for (let pixel = 0; pixel < pixels; pixel++) normalise(x, y, pixel, pixels, operation);
    return y;
  }

  /** The transposed convolution of 4 x 4 with stride 2 and padding 1: [channels, side, side] -> twice the side. */
  function double({ weight, bias }, x) {
    const [inputs, outputs] = weight.shape, side = Math.round(Math.sqrt(x.length / inputs)), wide = 2 * side;
    const y = new Float64Array(outputs * wide * wide);
    for (let o = 0; o < outputs; o++) y.fill(bias[o], o * wide * wide, (o + 1) * wide * wide);
    for (let i = 0; i < inputs; i++) for (let o = 0; o < outputs; o++) for (let tap = 0; tap < 16; tap++) {
      const down = (tap >> 2) - 1, across = (tap & 3) - 1, factor = weight[(i * outputs + o) * 16 + tap];
      for (let row = 0; row < side; row++) {
        const r = 2 * row + down;
        if (r < 0 || r >= wide) continue;
        const from = (i * side + row) * side, to = (o * wide + r) * wide + across;
        const first = across < 0 ? 1 : 0, last = across > 1 ? side - 1 : side;
        for (let column = first; column < last; column++) y[to + 2 * column] += factor * x[from + column];
      }
    }
    return y;
  }

  const LAYERS = {
    linear, norm, double,
    channel_norm: channelNorm,
    silu: (_, x) => x.map((one) => one * sigmoid(one)),
  };
  const run = (layers, x) => layers.reduce((y, operation) => LAYERS[operation.op](operation, y), x);

  // ---- the recurrence

  /** y_g = x_g W_g + b_g; `inputOf(g)` is what block g reads. */
  function blockLinear({ weight, bias }, inputOf) {
    const [blocks, inputs, outputs] = weight.shape, y = new Float64Array(blocks * outputs);
    for (let g = 0, at = 0; g < blocks; g++) {
      const x = inputOf(g), to = g * outputs;
      for (let o = 0; o < outputs; o++) y[to + o] = bias[to + o];
      for (let i = 0; i < inputs; i++) for (let o = 0; o < outputs; o++, at++) y[to + o] += x[i] * weight[at];
    }
    return y;
  }

  function blockGRU(cell, h, z, action) {
    const blocks = cell.mix.weight.shape[0], width = h.length / blocks;
    const shared = joined(run(cell.deter_in, h), run(cell.stoch_in, z), action);
    const own = (x, g) => x.subarray(g * width, (g + 1) * width);
    const mixed = LAYERS.silu(null, norm(cell.norm, blockLinear(cell.mix, (g) => joined(own(h, g), shared))));
    const gates = blockLinear(cell.gates, (g) => own(mixed, g));
    return h.map((old, i) => {
      const g = Math.floor(i / width), at = g * 3 * width + (i % width);
      const candidate = Math.tanh(sigmoid(gates[at]) * gates[at + width]);
      return old + sigmoid(gates[at + 2 * width] - 1) * (candidate - old);
    });
  }

  function plainGRU(cell, h, z, action) {
    const { weight_ih, weight_hh, bias_ih, bias_hh } = cell.gru, width = h.length;
    const read = linear({ weight: weight_ih, bias: bias_ih }, joined(run(cell.stoch_in, z), action));
    const kept = linear({ weight: weight_hh, bias: bias_hh }, h);
    return h.map((old, i) => {
      const reset = sigmoid(read[i] + kept[i]), update = sigmoid(read[width + i] + kept[width + i]);
      const fresh = Math.tanh(read[2 * width + i] + reset * kept[2 * width + i]);
      return fresh + update * (old - fresh);
    });
  }

  // ---- latents: raw numbers of the prior -> what is drawn from it, and how wide it is

  const HALF_LOG_2_PI_E = 0.5 * Math.log(2 * Math.PI * Math.E);

  const LATENTS = {
    gaussian: ({ groups, min_std }, raw) => {
      const std = raw.slice(groups).map((x) => min_std + softplus(x)), mean = raw.slice(0, groups);
      const entropy = std.reduce((sum, s) => sum + HALF_LOG_2_PI_E + Math.log(s), 0);
      return { mean, spread: std, entropy, draw: (noise) => mean.map((m, i) => m + std[i] * noise[i]) };
    },
    /** z = m + L e with L = diag(s) (I + N); N's entries below the diagonal come row by row. */
    gaussian_full: ({ groups, min_std }, raw) => {
      const mean = raw.slice(0, groups), own = raw.slice(groups, 2 * groups).map((x) => min_std + softplus(x));
      const below = (i, j) => raw[2 * groups + (i * (i - 1)) / 2 + j];
      const entropy = own.reduce((sum, s) => sum + HALF_LOG_2_PI_E + Math.log(s), 0);
      const along = (i, f) => Array.from({ length: i }, (_, j) => f(j)).reduce((a, b) => a + b, 0);
      const spread = own.map((s, i) => s * Math.sqrt(1 + along(i, (j) => below(i, j) ** 2)));
      const draw = (noise) => mean.map((m, i) => m + own[i] * (noise[i] + along(i, (j) => below(i, j) * noise[j])));
      return { mean, spread, entropy, draw };
    },
    categorical: ({ groups, classes, unimix }, raw) => {
      const probs = new Float64Array(raw.length), spread = new Float64Array(groups);
      for (let g = 0; g < groups; g++) {
        const soft = softmax(raw.subarray(g * classes, (g + 1) * classes));
        for (let k = 0; k < classes; k++) {
          const p = (1 - unimix) * soft[k] + unimix / classes;
          probs[g * classes + k] = p;
          if (p > 0) spread[g] -= p * Math.log(p);
        }
      }
      const hot = (score) => {
        const z = new Float64Array(raw.length);
        for (let g = 0; g < groups; g++) {
          let best = g * classes;
          for (let at = best + 1; at < (g + 1) * classes; at++) if (score(at) > score(best)) best = at;
          z[best] = 1;
        }
        return z;
      };
      const rate = (u) => -1 / Math.log(clamp(u, 2 ** -23, 1 - 2 ** -23));
      const draw = (noise) => hot((at) => probs[at] * rate(noise[at]));
      return { mean: hot((at) => probs[at]), spread, entropy: spread.reduce((a, b) => a + b, 0), draw };
    },
  };

  function softmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity), raised = logits.map((x) => Math.exp(x - top));
    const total = raised.reduce((a, b) => a + b, 0);
    return raised.map((x) => x / total);
  }

  // ---- likelihoods: what the decoder says of one leaf, its mean and where that has one the band of one std

  const HEADS = {
    gaussian: (head, features, z) => {
      const raw = linear(head.mean, features), skip = head.skip ? linear(head.skip, z) : null;
      const wide = head.raw_std ? linear(head.raw_std, features).map((x) => head.resolution + softplus(x)) : null;
      const units = (x, i) => head.symlog ? symexp(x) : head.scale ? head.location[i] + head.scale[i] * x : x;
      const at = (side) => raw.map((m, i) => units(m + (skip ? skip[i] : 0) + side * (wide ? wide[i] : head.fixed_std), i));
      return { mean: at(0), low: at(-1), high: at(1) };
    },
    image: (head, features) => {
      const x = run(head.layers, linear(head.stem, features)), [height, width, channels] = head.location.shape;
      const mean = new Float64Array(x.length), area = height * width; // [channels, area] -> [area, channels]
      for (let pixel = 0, i = 0; pixel < area; pixel++) for (let c = 0; c < channels; c++, i++) {
        mean[i] = clamp(head.location[i] + head.unit[i] * x[c * area + pixel], 0, 255);
      }
      return { mean };
    },
    categorical: (head, features) => {
      const logits = linear(head.layer, features);
      let at = 0;
      return { mean: joined(...head.classes.map((count) => softmax(logits.subarray(at, (at += count))))) };
    },
    binary: (head, features) => ({ mean: linear(head.layer, features).map(sigmoid) }),
    integer: (head, features) => ({ mean: integerMeans(head, linear(head.layer, features)) }),
    twohot: (head, features) => ({ mean: Float64Array.of(twoHotMean(linear(head.layer, features), head.bins)) }),
    atoms: (head, features) => {
      const logits = linear(head.layer, features).map((x, i) => head.is_atom[i] ? x : -Infinity);
      const inside = softmax(logits).reduce((sum, p, i) => sum + p * head.atoms[i], 0);
      return { mean: Float64Array.of((1 - head.escape) * inside + head.escape * head.location) };
    },
  };

  /** E[x] of a density whose logarithm is linear between bins: `likelihoods.TwoHot`. */
  function twoHotMean(logits, bins) {
    const count = bins.length - 1, masses = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const slope = Math.abs(logits[i + 1] - logits[i]);
      const integral = slope < 1e-2 ? slope * (slope / 24 - 0.5) : Math.log(-Math.expm1(-slope) / slope);
      masses[i] = Math.max(logits[i], logits[i + 1]) + integral;
    }
    return softmax(masses).reduce((sum, p, i) => {
      const slope = logits[i + 1] - logits[i];
      const share = Math.abs(slope) < 1e-2 ? 0.5 + slope / 12 : -1 / Math.expm1(-slope) - 1 / slope;
      return sum + p * (bins[i] + (bins[i + 1] - bins[i]) * share);
    }, 0);
  }

  /** E[x] of mixtures of rounded logistics: `likelihoods.IntegerMixture`; raw is [logits, locations, scales], [n, K]. */
  function integerMeans(head, raw) {
    const K = head.components, size = head.low.length * K;
    return Float64Array.from(head.low, (low, i) => {
      const high = head.high[i], centre = head.location[i], unit = head.unit[i];
      const weight = softmax(raw.subarray(i * K, (i + 1) * K));
      let mean = head.escape * roundedMean(centre, head.escape_units * unit, low, high, head.near);
      for (let k = 0; k < K; k++) {
        const location = centre + unit * (raw[size + i * K + k] - 1 + (2 * k) / (K - 1));
        const scale = unit * softplus(raw[2 * size + i * K + k]) + head.sharpest;
        mean += (1 - head.escape) * weight[k] * roundedMean(location, scale, low, high, head.near);
      }
      return mean;
    });
  }

  function roundedMean(location, scale, low, high, near) {
    const first = clamp(Math.floor(location) - near, low, high), last = clamp(Math.floor(location) + near, low, high);
    let total = first;
    for (let k = first; k < last; k++) total += sigmoid((location - k - 0.5) / scale);
    const soft = (x) => softplus(x / scale);
    return total + scale * (soft(location - last) - soft(location - high) - soft(first - location) + soft(low - location));
  }

  // ---- the dream

  class Dream {
    /** Of a description, and the stores that it refers to. */
    constructor(description, stores) {
      this.model = resolved(stores, description);
    }

    /** How many numbers of noise a step takes, and of which kind. */
    get noise() {
      const { family, groups, classes } = this.model.latent;
      return family === "categorical" ? { count: groups * classes, kind: "uniform" } : { count: groups, kind: "normal" };
    }

    /** One step from (h, z) under an action: the next state, the prior that it is drawn from, what it looks like.
     *  Without noise z is the prior's mean, or its likeliest classes. */
    step({ h, z }, action, noise = null) {
      const { model } = this, cell = model.cell.kind === "block_gru" ? blockGRU : plainGRU;
      const next = cell(model.cell, h, z, run(model.action_in, action));
      const raw = run(model.prior.layers, next), skip = model.prior.skip ? linear(model.prior.skip, next) : null;
      const prior = LATENTS[model.latent.family](model.latent, skip ? raw.map((x, i) => x + skip[i]) : raw);
      const state = { h: next, z: noise ? prior.draw(noise) : prior.mean };
      return { ...state, prior, ...this.decode(state) };
    }

    /** What a state looks like: every leaf, the reward, and the probability that the episode goes on. */
    decode({ h, z }) {
      const { model } = this, features = joined(h, z), trunk = model.trunk && run(model.trunk, features);
      const leaf = (head) => HEADS[head.kind](head, head.kind === "image" ? features : trunk, z);
      const reward = HEADS[model.reward.head.kind](model.reward.head, run(model.reward.trunk, features), z);
      return { leaves: model.observations.map(leaf), reward, goesOn: sigmoid(run(model.continue, features)[0]) };
    }
  }

  /** The largest difference from what PyTorch had of the same start, actions and noise; relative beyond one. */
  function check(dream, stores, given) {
    const { start, action, noise, expected } = resolved(stores, given);
    let state = { h: Float64Array.from(start.h), z: Float64Array.from(start.z) }, worst = 0;
    const compare = (got, all, t, every = 1) => {
      const row = rowOf(all, t);
      for (let i = 0; i < row.length; i++) {
        const truth = row[i], off = Math.abs(got[i * every] - truth) / Math.max(1, Math.abs(truth));
        worst = off >= 0 ? Math.max(worst, off) : Infinity; // NaN is as wrong as can be
      }
    };
    const row = (all, t) => Float64Array.from(rowOf(all, t));
    for (let t = 0; t < action.shape[0]; t++) {
      state = dream.step(state, row(action, t), row(noise, t));
      compare(state.h, expected.h, t);
      compare(state.z, expected.z, t);
      compare([state.prior.entropy], expected.entropy, t);
      compare([state.goesOn], expected.goes_on, t);
      [...state.leaves, state.reward].forEach((got, i) => {
        const { mean, high, every } = expected.outputs[i];
        compare(got.mean, mean, t, every);
        if (high) compare(got.high, high, t, every);
      });
    }
    return worst;
  }

  /** Row t of numbers [T, ...]. */
  function rowOf(numbers, t) {
    const count = numbers.length / numbers.shape[0];
    return numbers.subarray(t * count, (t + 1) * count);
  }

  /** Random numbers that a seed decides: uniform in (0, 1), and standard normal by Box and Muller. */
  function random(seed) {
    let state = seed >>> 0;
    const uniform = () => { // mulberry32
      state = (state + 0x6d2b79f5) >>> 0;
      let x = Math.imul(state ^ (state >>> 15), 1 | state);
      x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
      return (((x ^ (x >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    return { draw: ({ count, kind }) => Float64Array.from({ length: count }, kind === "uniform" ? uniform : normal) };
  }

  return { Dream, check, random, readStores, resolved, rowOf };
})();

if (typeof module !== "undefined") module.exports = Runtime;
