"use strict";
// The page itself: a dream that is stepped, branched and played, and the record that it began in.

const Player = (() => {
  const { element } = Controls;
  const LONGEST = 5000; // steps of a branch
  const SEEN = 200, AHEAD = 60, BEFORE = 20; // steps on a chart: at most, behind the start, and before it
  const byId = (id) => document.getElementById(id);

  const data = JSON.parse(byId("data").textContent);
  const stores = Runtime.readStores(data.stores);
  delete data.stores;
  const dream = new Runtime.Dream(data.model, stores);
  const records = data.recordings.map((one) => ({
    ...one, action: Runtime.resolved(stores, one.action), leaves: one.leaves.map(readLeaf),
    starts: one.starts.map((start) => Runtime.resolved(stores, start)),
  }));
  let random = Runtime.random(1);

  // ---- what is played: branches of steps from one start, and a place in one of them
  let record = records[0], start = record.starts[0], branches = [], current = null, place = 0;
  let timer = null, owed = 0, before = 0, taken = [], listed = "";

  function readLeaf(leaf) {
    if (!leaf.strip) return Runtime.resolved(stores, leaf);
    const strip = new Image();
    strip.addEventListener("load", () => show());
    strip.src = leaf.strip;
    return { strip };
  }

  /** A step as it is kept: an image's levels take a byte each. */
  function kept(step, action, of) {
    const leaves = step.leaves.map((leaf, i) =>
      data.leaves[i].kind === "image" ? { mean: Uint8ClampedArray.from(leaf.mean, Math.round) } : leaf);
    const earned = of === "start" ? 0 : current.steps[place].earned + step.reward.mean[0];
    return { ...step, leaves, action, of, earned, entropy: step.prior ? step.prior.entropy : record.entropy[start.row] };
  }

  function begin(episode, row) {
    record = records[episode];
    start = record.starts.find((one) => one.row === row) ?? record.starts[0];
    const state = { h: Float64Array.from(start.h), z: Float64Array.from(start.z) };
    const action = Float64Array.from(Runtime.rowOf(record.action, start.row));
    branches = [];
    add([kept({ ...state, ...dream.decode(state) }, action, "start")], null);
    pause();
    show();
  }

  function add(steps, from) {
    current = { name: nameOf(branches.length), steps, from, ended: false };
    branches.push(current);
    place = steps.length - 1;
  }

  const nameOf = (i) => i < 26 ? String.fromCharCode(65 + i) : `B${i - 25}`;
  const row = () => start.row + place;

  /** A new branch from here on; the old one keeps all its steps. */
  function branch() {
    add(current.steps.slice(0, place + 1), { branch: current.name, step: row() });
    show();
  }

  /** What is done next: one's own action, or the recorded one; null behind the end of the record. */
  function nextAction() {
    if (chosen("actor") === "mine") return controls.vector();
    return row() + 1 < record.rows ? Float64Array.from(Runtime.rowOf(record.action, row() + 1)) : null;
  }

  /** One step of the dream; at an earlier step than the last one it begins a new branch. -> whether there was one. */
  function step() {
    const action = nextAction();
    if (!action || current.steps.length > LONGEST) {
      say(action ? "This branch is as long as the page keeps them." : "The recorded actions end here. Act yourself, or reset.");
      pause();
      return false;
    }
    if (place < current.steps.length - 1) branch();
    const noise = chosen("draws") === "sample" ? random.draw(dream.noise) : null;
    current.steps.push(kept(dream.step(current.steps[place], action, noise), action, chosen("actor")));
    place += 1;
    taken.push(performance.now());
    const over = current.steps[place].goesOn < 0.5 && !current.ended;
    if (over) {
      current.ended = true;
      pause();
    }
    say(over ? "The model expects the episode to have ended here. Play goes on all the same." : "");
    return true;
  }

  function go(to) {
    place = Math.max(0, Math.min(current.steps.length - 1, to));
    show();
  }

  function choose(one) {
    current = one;
    place = one.steps.length - 1;
    show();
  }

  // ---- time

  function play() {
    if (timer !== null) return;
    [owed, before] = [0, performance.now()];
    timer = requestAnimationFrame(tick);
    showButtons();
  }

  function pause() {
    if (timer !== null) cancelAnimationFrame(timer);
    timer = null;
    showButtons();
  }

  /** As many steps as are due by now; at full speed as many as fit in 12 ms. */
  function tick(now) {
    timer = requestAnimationFrame(tick);
    const speed = Number(byId("speed").value), begun = performance.now();
    owed = speed ? Math.min(owed + (Math.max(0, now - before) * speed) / 1000, 4) : LONGEST;
    before = now;
    let count = 0;
    for (; owed >= 1 && timer !== null && performance.now() - begun < 12 && count < 200; owed -= 1, count += 1) if (!step()) break;
    if (count) show();
    else showRate();
  }

  /** Steps in the last second. */
  function rate() {
    const now = performance.now();
    taken = taken.filter((one) => now - one < 1000).slice(-2000);
    return taken.length < 2 ? 0 : ((taken.length - 1) * 1000) / Math.max(1, taken[taken.length - 1] - taken[0]);
  }

  // ---- what is shown

  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const say = (words) => { byId("said").textContent = words; };
  const controls = Controls.make(byId("actions"), data.controls, data.model.action, () => { if (timer === null) act(); });
  const act = () => { if (chosen("actor") === "mine" && step()) show(); };

  const panes = data.pictures.flatMap((picture) => ["dream", "recorded"].map((which) => {
    const leaf = data.leaves[picture.leaf], named = data.pictures.length > 1 ? ` ${leaf.path}` : "";
    const canvas = element("canvas", { className: "picture" });
    canvas.setAttribute("role", "img");
    const words = which === "dream" ? `Dream${named}` : `Recorded${named}`;
    const note = element("span", { className: "value" });
    const below = element("figcaption", { textContent: (which === "dream" && Pictures.WORDS[picture.kind]) || "" });
    byId("pictures").append(element("figure", { className: which }, element("h3", {}, words, note), canvas, below));
    return { picture, leaf, canvas, which, note, words };
  }));

  const traced = data.leaves.flatMap((leaf, l) => leaf.kind === "vector" || leaf.kind === "integer"
    ? leaf.names.slice(0, 8).map((name, i) => ({ name, of: (step) => step.leaves[l], i, recorded: (r, t) => {
        const values = r.leaves[l].values; return values[t * values.shape[1] + i]; } }))
    : []);
  const charts = traced.map((trace) => ({ ...trace, draw: chart({ title: trace.name, caption: "" }) }));
  const rewards = chart({ title: "Reward", caption: byId("about-reward").textContent, unit: "reward units" });
  const ends = chart({ title: "Goes on", caption: byId("about-continue").textContent, unit: "probability", least: 0, most: 1 });
  const spreads = chart({ title: "Spread of the prior", caption: byId("about-spread").textContent, unit: "nats" });
  const kls = chart({ title: "KL along the recorded episode", caption: byId("about-kl").textContent, unit: "nats", least: 0 });

  byId("charts").append(byId("groups").parentElement); // behind the charts

  function chart(options) {
    return Charts.make(byId("charts"), options, (at) => go(at - start.row));
  }

  /** A curve of the dream for every branch, the present one last and in full colour. */
  function curves(value, low, high) {
    const order = [...branches.filter((one) => one !== current), current];
    return order.map((one) => {
      const along = (of) => of && ((i) => of(one.steps[i]));
      const looks = { name: one === current ? "dream" : "", pale: one !== current, colour: "raw" };
      return { ...looks, begins: start.row, count: one.steps.length, value: along(value), low: along(low), high: along(high) };
    });
  }

  const recorded = (value) => ({ name: "recorded", begins: 0, count: record.rows, value, colour: "ink", width: 1.2 });

  function show() {
    if (!current) return;
    const end = start.row + Math.max(...branches.map((one) => one.steps.length)) - 1;
    const to = Math.max(start.row + AHEAD, end), from = Math.max(0, start.row - BEFORE, to - SEEN);
    const view = { from, to, cursor: row(), start: start.row };
    for (const { draw, of, i, recorded: real } of charts) {
      const band = of(current.steps[0]).low ? [(s) => of(s).low[i], (s) => of(s).high[i]] : [];
      draw({ ...view, curves: [recorded((t) => real(record, t)), ...curves((s) => of(s).mean[i], ...band)] });
    }
    const last = record.rows - 1, noReward = (s) => s.of === "start" && start.row === 0; // no reward leads to a first row
    rewards({ ...view, curves: [recorded((t) => t ? record.reward[t] : null), ...curves((s) => noReward(s) ? null : s.reward.mean[0])] });
    ends({ ...view, curves: [recorded((t) => t === last && record.terminal ? 0 : 1), ...curves((s) => s.goesOn)] });
    spreads({ ...view, beginsHigh: true, curves: [recorded((t) => record.entropy[t]), ...curves((s) => s.entropy)] });
    kls({ ...view, beginsHigh: true, curves: [recorded((t) => record.kl[t])] });
    panes.forEach(showPane);
    const { prior } = current.steps[place];
    if (prior) Charts.bars(byId("groups"), prior.spread, byId("groups-title").textContent);
    else Pictures.clear(byId("groups"));
    showNumbers();
    showButtons();
  }

  function showPane({ picture, leaf, canvas, which, note, words }) {
    const step = current.steps[place], dreamt = which === "dream", there = dreamt || row() < record.rows;
    canvas.setAttribute("aria-label", there ? `${words}, step ${row()}` : `${words}: the recording has ended`);
    note.textContent = there ? "" : "has ended";
    if (!there) { Pictures.clear(canvas); return; }
    const { strip, values } = record.leaves[picture.leaf];
    const action = dreamt ? step.action : Runtime.rowOf(record.action, row());
    if (!dreamt && strip) { if (strip.complete) Pictures.draw(canvas, { picture, strip, row: row() }); return; }
    const seen = dreamt ? step.leaves[picture.leaf].mean : Runtime.rowOf(values, row());
    Pictures.draw(canvas, { picture, leaf, values: seen, action, recorded: !dreamt });
  }

  function showNumbers() {
    const real = record.reward.slice(start.row + 1, row() + 1).reduce((sum, one) => sum + (one ?? 0), 0);
    byId("now").textContent = String(row());
    byId("return").textContent = Charts.readable(current.steps[place].earned);
    byId("real-return").textContent = row() < record.rows ? Charts.readable(real) : "–";
    byId("goes-on").textContent = Charts.readable(current.steps[place].goesOn);
    showRate();
  }

  function showRate() {
    byId("rate").textContent = timer === null ? "–" : rate().toFixed(0);
  }

  function showButtons() {
    if (!current) return;
    byId("play").textContent = timer === null ? "Play" : "Pause";
    byId("play").setAttribute("aria-pressed", String(timer !== null));
    Object.assign(byId("cursor"), { max: String(current.steps.length - 1) });
    byId("cursor").value = String(place);
    byId("cursor").setAttribute("aria-valuetext", `step ${row()} of ${start.row + current.steps.length - 1}`);
    const mine = chosen("actor") === "mine";
    byId("actions").classList.toggle("idle", !mine);
    if (!mine) controls.show(nextAction() ?? controls.vector());
    if (listed !== `${branches.length} ${current.name}`) listBranches();
  }

  function listBranches() {
    listed = `${branches.length} ${current.name}`;
    byId("branches").replaceChildren(...branches.map((one) => {
      const words = one.from ? `${one.name}, from ${one.from.branch} at ${one.from.step}` : one.name;
      const button = element("button", { type: "button", className: "choice", textContent: words });
      button.setAttribute("aria-pressed", String(one === current));
      button.addEventListener("click", () => choose(one));
      return button;
    }));
  }

  // ---- hands

  function fillStarts() {
    records.forEach((one, episode) => {
      const group = element("optgroup", { label: `Episode ${episode + 1}, ${one.rows} steps` });
      one.starts.forEach(({ row: at }) => group.append(element("option", { value: `${episode}:${at}`, textContent: `Episode ${episode + 1}, from step ${at}` })));
      byId("start").append(group);
    });
  }

  const reset = () => begin(records.indexOf(record), start.row);
  const COMMANDS = {
    p: () => (timer === null ? play() : pause()), " ": () => COMMANDS.p(), s: () => { pause(); if (step()) show(); },
    b: branch, r: reset, ",": () => { pause(); go(place - 1); }, ".": () => { pause(); go(place + 1); },
  };

  /** Action keys act, or make one step where nothing plays; letters are the buttons'. Fields keep their own keys. */
  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select")) return;
    const field = event.target.closest?.("input"), moves = /^(Arrow|Page|Home|End)/.test(event.key);
    if ((field && moves) || (event.key === " " && event.target.closest?.("button, input"))) return;
    if (chosen("actor") === "mine" && controls.press(event.key)) {
      if (timer === null) act();
    } else if (COMMANDS[event.key.toLowerCase()]) COMMANDS[event.key.toLowerCase()]();
    else return;
    event.preventDefault();
  }

  function listen() {
    document.addEventListener("keydown", pressed);
    document.addEventListener("keyup", (event) => { if (chosen("actor") === "mine") controls.release(event.key); });
    document.addEventListener("click", (event) => { // a mouse leaves the keys to the dream
      if (event.detail > 0) event.target.closest?.("button, input")?.blur();
    });
    const clicks = { play: COMMANDS.p, step: COMMANDS.s, branch, reset, back: COMMANDS[","] };
    for (const [id, click] of Object.entries(clicks)) byId(id).addEventListener("click", click);
    byId("cursor").addEventListener("input", (event) => { pause(); go(Number(event.target.value)); });
    byId("start").addEventListener("change", (event) => begin(...event.target.value.split(":").map(Number)));
    document.querySelectorAll('input[name="actor"]').forEach((one) => one.addEventListener("change", show));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    addEventListener("resize", show);
  }

  /** What this machine makes of the model: the largest difference from PyTorch, and steps a second. */
  function measure() {
    const off = Runtime.check(dream, stores, data.check), begun = performance.now();
    let step = { h: Float64Array.from(start.h), z: Float64Array.from(start.z) }, count = 0;
    const action = new Float64Array(data.model.action), noise = Runtime.random(0).draw(dream.noise);
    while (count < 300 && performance.now() - begun < 60) { step = dream.step(step, action, noise); count += 1; }
    const seconds = (performance.now() - begun) / 1000;
    byId("difference").textContent = off.toExponential(1).replace("-", "\u2212");
    byId("difference").dataset.value = String(off);
    byId("full-speed").textContent = seconds > 0 ? Math.round(count / seconds).toLocaleString("en") : "–";
    byId("full-speed").dataset.value = String(count / seconds);
    byId("astray").hidden = off < 1e-4;
  }

  fillStarts();
  listen();
  measure();
  begin(0, records[0].starts[0].row);
  return { play, pause, branch, step: () => act(), go, begin, get state() { return { branches, current, place, start }; } };
})();
