"use strict";
// What an observation looks like: a known environment's drawing, an image, MiniGrid's view, or bars of probabilities.

const Pictures = (() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  /** A canvas made as sharp as the screen is: -> its context, in CSS pixels, and its size in them. */
  function prepared(canvas) {
    const width = canvas.clientWidth || 320, height = canvas.clientHeight || 320, dense = window.devicePixelRatio || 1;
    const [across, down] = [Math.round(width * dense), Math.round(height * dense)];
    if (canvas.width !== across || canvas.height !== down) Object.assign(canvas, { width: across, height: down });
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.clearRect(0, 0, width, height);
    return { context, width, height };
  }

  function line(context, from, to, width, colour) {
    Object.assign(context, { lineWidth: width, strokeStyle: colour, lineCap: "round" });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  function disc(context, x, y, radius, colour) {
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  /** As Gymnasium draws it: upright where the cosine is one, turning to the left with the sine; the torque as an arc. */
  function pendulum({ context, width, height }, { picture, values, action }) {
    const angle = Math.atan2(values[picture.entries.sine], values[picture.entries.cosine]);
    const size = Math.min(width, height), [x, y] = [width / 2, height / 2], length = 0.4 * size;
    line(context, [x, y], [x - length * Math.sin(angle), y - length * Math.cos(angle)], 0.075 * size, "#cc4d4d");
    disc(context, x, y, 0.018 * size, style("ink"));
    const torque = action ? action[0] : 0;
    if (Math.abs(torque) < 0.02) return;
    const radius = 0.13 * size, begin = -Math.PI / 2, end = begin - torque * 2.2, side = torque > 0 ? -1 : 1;
    Object.assign(context, { lineWidth: 2.5, strokeStyle: style("muted"), fillStyle: style("muted") });
    context.beginPath();
    context.arc(x, y, radius, begin, end, torque > 0);
    context.stroke();
    const [tipX, tipY] = [x + radius * Math.cos(end), y + radius * Math.sin(end)], along = end + (side * Math.PI) / 2;
    context.beginPath();
    for (const turn of [0, 2.5, -2.5]) context.lineTo(tipX + 8 * Math.cos(along + turn), tipY + 8 * Math.sin(along + turn));
    context.fill();
  }

  /** As Gymnasium draws it: the track is 4.8 wide, the pole 1 long. */
  function cartpole({ context, width, height }, { picture, values }) {
    const unit = Math.min(width / 4.8, height / 3), angle = values[picture.entries.angle];
    const x = width / 2 + Math.max(-3, Math.min(3, values[picture.entries.position])) * unit, track = 0.72 * height;
    line(context, [0, track], [width, track], 1, style("ink"));
    const across = 0.42 * unit, tall = 0.26 * unit, axle = track - tall / 2;
    context.fillStyle = style("ink");
    context.fillRect(x - across, axle - tall, 2 * across, 1.5 * tall);
    const length = 1.6 * unit, tip = [x + length * Math.sin(angle), axle - 0.75 * tall - length * Math.cos(angle)];
    line(context, [x, axle - 0.75 * tall], tip, 0.16 * unit, "#ca9865");
    disc(context, x, axle - 0.75 * tall, 0.06 * unit, "#8184cb");
  }

  const small = document.createElement("canvas");

  /** Levels [height, width, channels]; of other than one or three channels, the last. */
  function image({ context, width, height }, { picture, values, strip, row }) {
    context.imageSmoothingEnabled = false;
    const side = Math.min(width, height), place = [(width - side) / 2, (height - side) / 2, side, side];
    if (strip) {
      context.drawImage(strip, 0, row * picture.height, picture.width, picture.height, ...place);
      return;
    }
    Object.assign(small, { width: picture.width, height: picture.height });
    const to = small.getContext("2d"), pixels = to.createImageData(picture.width, picture.height);
    for (let i = 0; i < picture.width * picture.height; i++) {
      for (let c = 0; c < 3; c++) {
        pixels.data[4 * i + c] = values[i * picture.channels + (picture.channels === 3 ? c : picture.channels - 1)];
      }
      pixels.data[4 * i + 3] = 255;
    }
    to.putImageData(pixels, 0, 0);
    context.drawImage(small, ...place);
  }

  const COLOURS = ["#d64545", "#3f9e4d", "#3d6fd0", "#8d4fc0", "#d9b62b", "#8b949e"]; // MiniGrid's, in its order
  const UNSEEN = 0, WALL = 2, FLOOR = 3, DOOR = 4, KEY = 5, BALL = 6, BOX = 7, GOAL = 8, LAVA = 9;

  /** MiniGrid's view: what stands in each cell, the fainter the less sure the model is; the agent is below, looking up. */
  function grid({ context, width, height }, { picture, values, recorded }) {
    const { side, kinds } = picture, size = Math.min(width, height), cell = size / side, cells = side * side;
    const left = (width - size) / 2, top = (height - size) / 2;
    for (let k = 0; k < cells; k++) {
      const object = likeliest(values, recorded, 0, k, kinds[0]);
      const colour = likeliest(values, recorded, cells * kinds[0], k, kinds[1], cells);
      const x = left + Math.floor(k / side) * cell, y = top + (k % side) * cell;
      context.globalAlpha = object.sure;
      thing(context, object.which, COLOURS[colour.which] ?? style("muted"), x, y, cell);
      Object.assign(context, { globalAlpha: 1, lineWidth: 1, strokeStyle: style("rule") });
      context.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
    }
    const x = left + (side >> 1) * cell + cell / 2, y = top + (side - 1) * cell + cell / 2, r = 0.3 * cell;
    Object.assign(context, { lineWidth: 2, strokeStyle: "#d64545" });
    context.beginPath();
    context.moveTo(x, y - r);
    context.lineTo(x + r, y + r);
    context.lineTo(x - r, y + r);
    context.closePath();
    context.stroke();
  }

  /** The class of variable k, and how sure it is: of probabilities, or of a recorded class. */
  function likeliest(values, recorded, begins, k, count, before = 0) {
    if (recorded) return { which: values[before + k], sure: 1 };
    let which = 0;
    const at = begins + k * count;
    for (let i = 1; i < count; i++) if (values[at + i] > values[at + which]) which = i;
    return { which, sure: values[at + which] };
  }

  function thing(context, which, colour, x, y, cell) {
    const middle = [x + cell / 2, y + cell / 2], fills = { [UNSEEN]: style("grid"), [WALL]: style("muted"), [GOAL]: "#3f9e4d", [LAVA]: "#e07b2d" };
    if (which in fills) {
      context.fillStyle = fills[which];
      context.fillRect(x, y, cell, cell);
    }
    Object.assign(context, { strokeStyle: colour, lineWidth: Math.max(2, 0.09 * cell), lineCap: "round" });
    if (which === BALL) disc(context, ...middle, 0.3 * cell, colour);
    if (which === BOX) context.strokeRect(x + 0.22 * cell, y + 0.22 * cell, 0.56 * cell, 0.56 * cell);
    if (which === DOOR) {
      context.strokeRect(x + 0.1 * cell, y + 0.1 * cell, 0.8 * cell, 0.8 * cell);
      disc(context, x + 0.72 * cell, middle[1], 0.07 * cell, colour);
    }
    if (which === KEY) {
      line(context, [middle[0], y + 0.38 * cell], [middle[0], y + 0.82 * cell], 0.09 * cell, colour);
      line(context, [middle[0], y + 0.78 * cell], [middle[0] - 0.16 * cell, y + 0.78 * cell], 0.09 * cell, colour);
      disc(context, middle[0], y + 0.28 * cell, 0.15 * cell, colour);
    }
    if (which === FLOOR || which > LAVA) {
      context.fillStyle = colour;
      context.globalAlpha *= 0.35;
      context.fillRect(x, y, cell, cell);
    }
  }

  const MOST_BARS = 240;

  /** A bar for every class of every variable; what was recorded has a bar of one. */
  function bars({ context, width, height }, { leaf, values, recorded }) {
    const classes = leaf.kind === "binary" ? leaf.names.map(() => 1) : leaf.classes;
    const shown = classes.filter((_, i) => classes.slice(0, i + 1).reduce((a, b) => a + b, 0) <= MOST_BARS);
    const tall = height / Math.max(1, shown.length);
    let at = 0;
    shown.forEach((count, i) => {
      const floor = (i + 1) * tall - 4, step = width / count;
      line(context, [0, floor], [width, floor], 1, style("rule"));
      for (let k = 0; k < count; k++) {
        const sure = recorded ? (leaf.kind === "binary" ? values[i] : Number(values[i] === k)) : values[at + k];
        context.fillStyle = recorded ? style("ink") : style("raw");
        context.fillRect(k * step + 1, floor - sure * (tall - 10), Math.max(1, step - 2), sure * (tall - 10));
      }
      at += count;
    });
  }

  const WORDS = { // below the dream's picture
    grid: "The fainter a cell, the less sure the model is of it. Walls stand out, plain grey cells are out of sight. The agent is the red triangle and looks up.",
    bars: "A bar for every class, as tall as it is probable.",
  };
  const KINDS = { pendulum, cartpole, image, grid, bars };
  /** Draw one; `seen` has the picture's description, its leaf's, and the values, recorded or dreamt. */
  const draw = (canvas, seen) => KINDS[seen.picture.kind](prepared(canvas), seen);
  const clear = (canvas) => prepared(canvas);
  return { WORDS, draw, clear, prepared, style };
})();
