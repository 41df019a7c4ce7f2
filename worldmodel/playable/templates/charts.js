"use strict";
// Curves over the steps of an episode: what was recorded, the dream, and the branches that were left.

const Charts = (() => {
  const { prepared, style } = Pictures;
  const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;

  /** Entry i of a curve, undefined outside of it; `of` is one of its functions: value, low or high. */
  const at = (curve, i, of = "value") => i >= 0 && i < curve.count ? curve[of]?.(i) : undefined;

  /** A chart with its title and caption: -> what draws it. `go` is told a step that was clicked. */
  function make(parent, { title, caption, unit, least, most }, go) {
    const figure = document.createElement("figure"), heading = document.createElement("h3");
    const value = document.createElement("span"), canvas = document.createElement("canvas");
    const below = document.createElement("figcaption");
    heading.textContent = title;
    value.className = "value";
    heading.append(value);
    below.textContent = caption;
    canvas.className = "chart";
    canvas.setAttribute("role", "img");
    figure.append(heading, canvas, below);
    parent.append(figure);
    let shown = null;
    canvas.addEventListener("click", (event) => {
      if (!shown) return;
      const share = (event.offsetX - LEFT) / (canvas.clientWidth - LEFT - RIGHT);
      go(Math.round(shown.from + share * (shown.to - shown.from)));
    });
    return (view) => {
      shown = view;
      const here = view.curves.filter((curve) => curve.name).map((curve) => {
        const said = document.createElement("span");
        said.style.color = `var(--${curve.colour})`;
        said.textContent = readable(at(curve, view.cursor - curve.begins));
        return { said, words: `${curve.name} ${said.textContent}` };
      });
      value.replaceChildren(...here.map(({ said }) => said));
      const words = here.map((one) => one.words).join(", ");
      canvas.setAttribute("aria-label", `${title}${unit ? `, ${unit}` : ""}, step ${view.cursor}: ${words}`);
      draw(prepared(canvas), view, least, most);
    };
  }

  const there = (value) => value !== null && value !== undefined && Number.isFinite(value);

  /** Numbers as one reads them; a dash where there is none. */
  function readable(value) {
    if (!there(value)) return "–";
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.01 || value === 0 ? 2 : 4;
    return value.toFixed(digits).replace("-", "\u2212");
  }

  function draw({ context, width, height }, view, least, most) {
    const [low, high] = range(view, least, most);
    const x = (step) => LEFT + ((step - view.from) / Math.max(1, view.to - view.from)) * (width - LEFT - RIGHT);
    const y = (value) => height - BOTTOM - ((value - low) / (high - low)) * (height - TOP - BOTTOM);
    frame(context, width, height, view, low, high, x, y);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP - 2, width - LEFT - RIGHT, height - TOP - BOTTOM + 4);
    context.clip();
    for (const curve of view.curves) stroke(context, view, curve, x, y);
    context.restore();
    context.strokeStyle = style("muted");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(view.cursor), TOP);
    context.lineTo(x(view.cursor), height - BOTTOM);
    context.stroke();
  }

  /** The values that are in view, with some room around them. */
  function range(view, least, most) {
    let low = least ?? Infinity, high = most ?? -Infinity;
    for (const curve of view.curves) {
      // A first row of an episode may tell more than all others.
      for (let step = Math.max(view.from, curve.begins, view.beginsHigh ? 1 : 0); step <= view.to; step++) {
        for (const of of curve.pale ? ["value"] : ["value", "low", "high"]) {
          const value = at(curve, step - curve.begins, of);
          if (!there(value)) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    if (!(low <= high)) return [0, 1];
    const size = Math.max(Math.abs(low), Math.abs(high)) || 0.1, room = Math.max(0.06 * (high - low), (0.1 * size - (high - low)) / 2);
    return [least !== undefined && low >= least ? low : low - room, most !== undefined && high <= most ? high + 0.03 * (high - low) : high + room];
  }

  function frame(context, width, height, view, low, high, x, y) {
    context.fillStyle = style("raised"); // rows up to the start were seen
    context.fillRect(LEFT, TOP, Math.max(0, x(view.start) - LEFT), height - TOP - BOTTOM);
    Object.assign(context, { font: '11px system-ui, "Liberation Sans", sans-serif', lineWidth: 1, textBaseline: "middle", textAlign: "right" });
    for (const value of ticks(low, high, 3)) {
      context.strokeStyle = style("rule");
      context.beginPath();
      context.moveTo(LEFT, Math.round(y(value)) + 0.5);
      context.lineTo(width - RIGHT, Math.round(y(value)) + 0.5);
      context.stroke();
      context.fillStyle = style("muted");
      context.fillText(String(Number(value.toPrecision(6))).replace("-", "\u2212"), LEFT - 6, y(value));
    }
    Object.assign(context, { textAlign: "center", textBaseline: "alphabetic" });
    for (const step of ticks(view.from, view.to, 4).filter(Number.isInteger)) context.fillText(String(step), x(step), height - 5);
  }

  /** Round numbers between two, about so many. */
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough || 1));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? 10 * power, found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step && found.length < 12; i++) found.push(i * step);
    return found;
  }

  function stroke(context, view, curve, x, y) {
    const { begins, colour, pale, width = 1.6 } = curve, place = (i, value) => [x(begins + i), y(value)];
    const first = Math.max(0, view.from - begins), last = Math.min(curve.count - 1, view.to - begins);
    context.fillStyle = context.strokeStyle = style(colour);
    if (curve.high && !pale && last > first) {
      context.globalAlpha = 0.16;
      context.beginPath();
      for (let i = first; i <= last; i++) context.lineTo(...place(i, curve.high(i)));
      for (let i = last; i >= first; i--) context.lineTo(...place(i, curve.low(i)));
      context.fill();
    }
    Object.assign(context, { globalAlpha: pale ? 0.35 : 1, lineWidth: pale ? 1.1 : width, lineJoin: "round" });
    context.beginPath();
    for (let i = first, drawing = false; i <= last; i++) {
      const value = curve.value(i);
      if (there(value)) context[drawing ? "lineTo" : "moveTo"](...place(i, value));
      drawing = there(value);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** Bars of the present prior, one for each latent group. */
  function bars(canvas, spread, words) {
    const { context, width, height } = prepared(canvas), top = spread.reduce((a, b) => Math.max(a, b), 1e-9);
    const step = (width - LEFT - RIGHT) / spread.length;
    Object.assign(context, { font: '11px system-ui, "Liberation Sans", sans-serif', fillStyle: style("muted"), textAlign: "right", textBaseline: "top" });
    context.fillText(readable(top), LEFT - 6, TOP);
    context.textBaseline = "alphabetic";
    context.fillText("0", LEFT - 6, height - BOTTOM);
    context.fillStyle = style("raw");
    spread.forEach((value, i) => {
      const tall = (value / top) * (height - TOP - BOTTOM);
      context.fillRect(LEFT + i * step + 1, height - BOTTOM - tall, Math.max(1, step - 2), tall);
    });
    canvas.setAttribute("aria-label", `${words}: ${Array.from(spread, readable).join(", ")}`);
  }

  return { make, bars, readable };
})();
