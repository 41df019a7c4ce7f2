"use strict";
// Curves over the steps of an episode: what was recorded, the dream, and the branches that were left.

const Charts = (() => {
  const { prepared, style } = Pictures;
  const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 20;

  /** A chart with its title and caption: -> what draws it. `at` is told a step that was clicked. */
  function make(parent, { title, caption, unit, least, most }, at) {
    const figure = document.createElement("figure"), heading = document.createElement("h3");
    const value = document.createElement("span"), canvas = document.createElement("canvas");
    const words = document.createElement("figcaption");
    heading.textContent = title;
    value.className = "value";
    heading.append(value);
    words.textContent = caption;
    canvas.className = "chart";
    canvas.setAttribute("role", "img");
    figure.append(heading, canvas, words);
    parent.append(figure);
    let shown = null;
    canvas.addEventListener("click", (event) => {
      if (!shown) return;
      const share = (event.offsetX - LEFT) / (canvas.clientWidth - LEFT - RIGHT);
      at(Math.round(shown.from + share * (shown.to - shown.from)));
    });
    return (view) => {
      shown = view;
      const now = view.curves.map((curve) => `${curve.name} ${readable(curve.values[view.cursor - curve.begins])}`);
      const seen = view.curves.filter((curve) => curve.name);
      value.textContent = seen.map((curve) => readable(curve.values[view.cursor - curve.begins])).join(" · ");
      canvas.setAttribute("aria-label", `${title}${unit ? `, ${unit}` : ""}, step ${view.cursor}: ${now.filter((one) => one[0] !== " ").join(", ")}`);
      draw(prepared(canvas), view, least, most);
    };
  }

  /** Numbers as one reads them; a dash where there is none. */
  function readable(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
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
    for (const { begins, values, low: under, high: over, pale } of view.curves) {
      for (let step = Math.max(view.from, begins); step <= view.to; step++) {
        for (const one of pale ? [values] : [values, under, over]) {
          const value = one?.[step - begins];
          if (value === null || value === undefined || !Number.isFinite(value)) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    if (!(low <= high)) return [0, 1];
    const room = 0.06 * (high - low) || 0.5 * Math.max(Math.abs(high), 0.1);
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

  function stroke(context, view, { begins, values, low, high, colour, pale, width = 1.6 }, x, y) {
    const first = Math.max(0, view.from - begins), last = Math.min(values.length - 1, view.to - begins);
    const there = (value) => value !== null && value !== undefined && Number.isFinite(value);
    context.fillStyle = context.strokeStyle = style(colour);
    if (low && high && !pale && last > first) {
      context.globalAlpha = 0.16;
      context.beginPath();
      for (let i = first; i <= last; i++) if (there(high[i])) context.lineTo(x(begins + i), y(high[i]));
      for (let i = last; i >= first; i--) if (there(low[i])) context.lineTo(x(begins + i), y(low[i]));
      context.fill();
    }
    Object.assign(context, { globalAlpha: pale ? 0.35 : 1, lineWidth: pale ? 1.1 : width, lineJoin: "round" });
    context.beginPath();
    for (let i = first, drawing = false; i <= last; i++) {
      if (there(values[i])) context[drawing ? "lineTo" : "moveTo"](x(begins + i), y(values[i]));
      drawing = there(values[i]);
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
