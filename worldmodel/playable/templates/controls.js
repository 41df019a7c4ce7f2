"use strict";
// One control for each action: buttons, sliders or switches, and the keys that move them.

const Controls = (() => {
  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const shownKey = { ArrowLeft: "\u2190", ArrowRight: "\u2192", ArrowUp: "\u2191", ArrowDown: "\u2193" };
  const keyWords = (keys) => keys.map((key) => shownKey[key] ?? key).join(" ");

  /** Numbers: -> a vector in [-1, 1]. A held arrow pushes to the end of the range; let go, it is back at the middle. */
  function continuous(parent, { entries }, width) {
    const values = new Float64Array(width);
    const units = ({ low, high }, value) => low + ((value + 1) / 2) * (high - low);
    const sliders = entries.map((entry, i) => {
      const output = element("output"), keys = entry.keys.length ? ` (${keyWords(entry.keys)})` : "";
      const slider = element("input", { type: "range", min: -1, max: 1, step: 0.01, value: 0 });
      const show = () => {
        output.textContent = Charts.readable(units(entry, values[i]));
        slider.setAttribute("aria-valuetext", `${entry.name} ${output.textContent}`);
      };
      slider.addEventListener("input", () => { values[i] = Number(slider.value); show(); });
      parent.append(element("label", { className: "slider" }, element("span", { textContent: entry.name + keys }), slider, output));
      show();
      return { set: (value) => { values[i] = value; slider.value = String(value); show(); } };
    });
    const move = (key, to) => entries.findIndex((entry, i) => {
      const end = entry.keys.indexOf(key);
      if (end >= 0) sliders[i].set(to * (2 * end - 1));
      return end >= 0;
    }) >= 0;
    return {
      vector: () => Float64Array.from(values),
      show: (vector) => sliders.forEach((slider, i) => slider.set(vector[i])),
      press: (key) => move(key, 1),
      release: (key) => move(key, 0),
    };
  }

  /** Classes: -> one-hot groups. What was chosen last stays chosen. */
  function categorical(parent, { groups }, width, acted) {
    const chosen = groups.map(() => 0), begins = [];
    groups.reduce((at, group) => (begins.push(at), at + group.choices.length), 0);
    const buttons = groups.map((group, g) => {
      const made = group.choices.map((choice, k) => {
        const button = element("button", { type: "button", className: "choice" }, element("span", { textContent: choice.name }));
        if (choice.keys.length) button.append(element("kbd", { textContent: keyWords(choice.keys) }));
        button.addEventListener("click", () => { choose(g, k); acted(); });
        return button;
      });
      const row = element("div", { className: "choices" }, ...made);
      row.setAttribute("role", "group");
      row.setAttribute("aria-label", group.name);
      parent.append(groups.length > 1 ? element("div", {}, element("span", { className: "unit", textContent: group.name }), row) : row);
      return made;
    });
    const choose = (g, k) => {
      chosen[g] = k;
      buttons[g].forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
    };
    groups.forEach((_, g) => choose(g, 0));
    const find = (key) => groups[0].choices.findIndex((choice) => choice.keys.includes(key));
    return {
      vector: () => {
        const vector = new Float64Array(width);
        chosen.forEach((k, g) => { vector[begins[g] + k] = 1; });
        return vector;
      },
      show: (vector) => groups.forEach((group, g) => {
        const part = Array.from(vector.subarray(begins[g], begins[g] + group.choices.length));
        choose(g, part.indexOf(Math.max(...part)));
      }),
      press: (key) => find(key) >= 0 && (choose(0, find(key)), true),
      release: () => false,
    };
  }

  /** Switches: -> zeros and ones. */
  function binary(parent, { entries }) {
    const boxes = entries.map((entry) => {
      const box = element("input", { type: "checkbox" });
      parent.append(element("label", { className: "switch" }, box, element("span", { textContent: `${entry.name}${entry.key ? ` (${entry.key})` : ""}` })));
      return box;
    });
    return {
      vector: () => Float64Array.from(boxes, (box) => Number(box.checked)),
      show: (vector) => boxes.forEach((box, i) => { box.checked = vector[i] > 0.5; }),
      press: (key) => entries.some((entry, i) => entry.key === key && ((boxes[i].checked = !boxes[i].checked), true)),
      release: () => false,
    };
  }

  const KINDS = { continuous, categorical, binary };
  /** The controls of a description, for vectors of this width; `acted` is told of a click on an action. */
  const make = (parent, description, width, acted) => KINDS[description.kind](parent, description, width, acted);

  return { make, element };
})();
