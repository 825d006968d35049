/* The live page: fix words, press play, and the model denoises a page of grids in the reader's browser. Tokens are text:
   they enter the page as text content and values only. No request leaves the folder of these files. */
import {noiseOf, openNetwork, unpack, writePage} from "./sampler.js";

const CALLS = [1, 2, 4, 8, 16, 32, 64], PLAY = "M4 2l10 6-10 6z", PAUSE = "M3 2h4v12H3zM9 2h4v12H9z";
const PARTS = `<p class="intro"></p><div class="stage" role="group" aria-label="The words of the page"></div>
<div class="controls"><button type="button" class="play" aria-label="Play"><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path/></svg></button>
<input type="range" min="0" step="1" aria-label="Call of the network" disabled><output></output></div>
<div class="options"><fieldset><legend>Clocks</legend><span class="clocks"></span></fieldset>
<label>Calls<select></select></label><label>Seed<input class="seed" type="number" min="0" max="4294967295" step="1" inputmode="numeric"></label>
<button type="button" class="again">Another page</button><button type="button" class="clear">Clear the words</button></div>
<p class="status" role="status"></p><p class="fault" role="alert"></p><datalist></datalist>`;  // no token is in here

const make = (tag, set = {}, ...inside) => {
  const made = Object.assign(document.createElement(tag), set);
  made.append(...inside);
  return made;
};
/* edits between two words: what was probably meant */
const apart = (a, b) => {
  let row = [...Array(b.length + 1).keys()];
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
    row = next;
  }
  return row[b.length];
};
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

class Live {
  constructor(root, told) {
    this.model = unpack(told);
    const {model} = this, at = this.at = make("div", {className: "live", innerHTML: PARTS});
    const pick = query => at.querySelector(query);
    Object.assign(this, {button: pick(".play"), icon: pick("path"), slider: pick("input[type=range]"), output: pick("output"), select: pick("select"),
      seed: pick(".seed"), status: pick(".status"), fault: pick(".fault"), network: null, frames: [], fresh: false, now: 0, timer: 0, run: 0, asked: 0});
    this.words = model.tokens.filter((_, i) => i !== model.pad);
    pick(".intro").textContent = "A language model, running in this page. Type words under the grids or leave them open, and press play: " +
      "noise becomes a sentence around your words. Click a grid, or press Enter, to keep its word.";
    const list = pick("datalist");
    list.id = "vtd-live-words";
    list.append(...this.words.map(value => make("option", {value})));
    this.places = Array.from({length: model.length}, (_, n) => this.place(n, list.id));
    pick(".stage").append(...this.places.map(place => place.box));
    pick(".clocks").append(...Object.keys(model.clocks).map(name => make("label", {}, make("input", {type: "radio", name: "vtd-clock", value: name}), name)));
    this.select.append(...[...new Set([...CALLS, model.calls])].sort((a, b) => a - b).map(n => make("option", {value: n, textContent: n})));
    this.listen(pick);
    this.begin();
    root.replaceChildren(at);
  }

  place(n, list) {
    const {shape: [H, W]} = this.model, canvas = make("canvas", {width: W, height: H}), bar = make("i");
    const grid = make("button", {type: "button", className: "grid", tabIndex: -1}, canvas);
    const word = make("input", {type: "text", className: "word", autocomplete: "off", autocapitalize: "off", spellcheck: false, placeholder: "·"});
    word.setAttribute("list", list);
    const box = make("div", {className: "tok"}, grid, make("span", {className: "known"}, bar), word);
    grid.onclick = () => this.toggle(n);
    word.onfocus = () => word.select();
    word.oninput = () => { this.stop(); box.dataset.typed = ""; };
    word.onchange = () => this.typed(n);
    word.onkeydown = event => {
      if (event.key !== "Enter") return;
      "typed" in box.dataset ? this.typed(n) : this.toggle(n);
    };
    return {box, grid, bar, word, pen: canvas.getContext("2d"), kept: -1, id: -1};
  }

  listen(pick) {
    this.button.onclick = () => this.timer ? this.stop() : this.play();
    this.slider.oninput = () => { this.stop(); this.draw(+this.slider.value); };
    pick(".options").addEventListener("change", () => this.changed());
    pick(".again").onclick = () => { this.seed.value = Math.floor(Math.random() * 1e4); this.changed(); this.play(); };
    pick(".clear").onclick = () => { this.places.forEach((_, n) => this.keep(n, -1, "")); this.say("", ""); };
    for (const kind of ["focusin", "pointerdown"]) this.at.addEventListener(kind, () => this.load().catch(() => {}), {once: true});
  }

  /* the page that was written when the book was made stands there first */
  begin() {
    const {model} = this, {seed, ids} = model.example, {D, signal} = model;
    this.seed.value = seed;
    this.select.value = model.calls;
    this.at.querySelector('[value="overlapping"]').checked = true;
    const cells = new Float32Array(ids.length * D);
    ids.forEach((id, n) => cells.set(signal.subarray(id * D, id * D + D), n * D));
    this.frames = [{call: 0, cells, ids, sure: ids.map(() => 1)}];
    this.draw(0);
    this.output.textContent = "";
    this.show(false);
    this.say("", `“${this.text(ids)}” was written when this book was made. Press play to watch it come out of noise.`);
  }

  /* the reader's words */
  typed(n) {
    const {box, word} = this.places[n], text = word.value.trim().toLowerCase(), id = this.model.index.get(text);
    if (!("typed" in box.dataset)) return;
    if (!text) return this.keep(n, -1, "");
    if (id !== undefined && id !== this.model.pad) return this.keep(n, id, text);
    word.setAttribute("aria-invalid", "true");
    this.blame();
  }
  keep(n, id, text) {
    const place = this.places[n], {D, signal} = this.model;
    delete place.box.dataset.typed;
    place.word.removeAttribute("aria-invalid");
    Object.assign(place, {kept: id, id});
    place.word.value = text;
    this.paint(n, id >= 0 ? signal.subarray(id * D, id * D + D) : this.noise().subarray(n * D, n * D + D));
    this.mark(n, id >= 0 ? 1 : 0);
    this.changed();
    this.blame();
  }
  toggle(n) {
    const {kept, id, word} = this.places[n], {tokens, pad} = this.model;
    if (this.timer) return;
    if (id < 0 || id === pad) return word.focus();
    if (kept < 0) this.keep(n, id, tokens[id]);
    else {
      this.places[n].kept = -1;
      this.mark(n, 1);
      this.changed();
    }
    this.say("", kept < 0 ? `“${tokens[id]}” stays.` : `“${tokens[id]}” is open again.`);
  }
  blame() {
    const wrong = this.places.find(place => place.word.getAttribute("aria-invalid"));
    if (!wrong) return this.fault.textContent = "", null;
    const text = wrong.word.value.trim().toLowerCase(), near = [...this.words].sort((a, b) => apart(text, a) - apart(text, b)).slice(0, 4);
    this.say("", "");
    this.fault.textContent = `“${text}” is not one of the ${this.words.length} words of this little world. Near it: ${near.join(", ")}.`;
    return wrong;
  }
  changed() { this.stop(); this.run++; this.fresh = false; this.slider.disabled = true; this.output.textContent = ""; }
  noise() { return noiseOf(this.number(), this.model.length * this.model.D); }
  number() { return Math.min(2 ** 32 - 1, Math.max(0, Math.floor(+this.seed.value || 0))); }
  say(fault, status) { this.fault.textContent = fault; this.status.textContent = status; }

  /* a place: its grid, its word, how certain */
  paint(n, cells) {
    const {shape: [H, W, C], mean, scale} = this.model, image = new ImageData(W, H);
    for (let i = 0; i < H * W; i++) {
      for (let c = 0; c < 3; c++) { const d = i * C + Math.min(c, C - 1); image.data[4 * i + c] = 255 * (cells[d] * scale + mean[d]); }
      image.data[4 * i + 3] = 255;
    }
    this.places[n].pen.putImageData(image, 0, 0);
  }
  mark(n, sure) {
    const {box, grid, bar, word, kept, id} = this.places[n], {tokens, pad} = this.model, name = id >= 0 && id !== pad ? tokens[id] : "";
    box.classList.toggle("kept", kept >= 0);
    box.classList.toggle("end", id === pad);
    box.style.setProperty("--sure", sure);
    bar.style.width = 100 * sure + "%";
    grid.setAttribute("aria-pressed", kept >= 0);
    grid.setAttribute("aria-label", name ? `Keep “${name}”` : `Word ${n + 1} is open`);
    grid.title = name && (kept >= 0 ? `${name}: stays. Click to open it again` : `${name}: click to keep it`);
    word.setAttribute("aria-label", `Word ${n + 1}, ${kept >= 0 ? "stays" : "open"}`);
  }
  shown() { return Math.round(this.now); }
  last() { return this.frames.length - 1; }
  draw(now) {
    this.now = Math.max(0, Math.min(this.last(), now));
    const {D, pad, tokens} = this.model, a = this.frames[Math.floor(this.now)], b = this.frames[Math.ceil(this.now)], share = this.now % 1;
    const near = share < .5 ? a : b, mixed = new Float32Array(D);
    this.places.forEach((place, n) => {
      for (let d = 0; d < D; d++) mixed[d] = a.cells[n * D + d] * (1 - share) + b.cells[n * D + d] * share;
      this.paint(n, mixed);
      place.id = near.ids[n];
      if (!("typed" in place.box.dataset)) place.word.value = place.id >= 0 && place.id !== pad ? tokens[place.id] : "";
      this.mark(n, a.sure[n] * (1 - share) + b.sure[n] * share);
    });
    this.slider.value = this.shown();
    this.slider.style.setProperty("--done", (this.slider.max > 0 ? 100 * this.now / this.slider.max : 0) + "%");
    this.output.textContent = `call ${this.shown()} of ${this.slider.max}`;
    this.slider.setAttribute("aria-valuetext", `${this.output.textContent}: ${this.text(near.ids)}`);
  }
  text(ids) { return ids.filter(id => id >= 0 && id !== this.model.pad).map(id => this.model.tokens[id]).join(" "); }
  show(playing) {
    this.icon.setAttribute("d", playing ? PAUSE : PLAY);
    this.button.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.at.classList.toggle("playing", playing);
    this.places.forEach(({word}) => word.readOnly = playing);
  }

  /* the network, fetched once, when somebody first touches the page */
  load() {
    this.network ??= openNetwork(this.model, new URL(".", import.meta.url)).catch(error => { this.network = null; throw error; });
    return this.network;
  }

  stop() { cancelAnimationFrame(this.timer); this.timer = 0; this.show(false); }
  async play() {
    if (!this.ready()) return;
    if (this.fresh) return this.go(this.shown() >= this.last() ? 0 : this.now);
    const asked = ++this.asked;
    this.button.setAttribute("aria-busy", "true");
    try {
      const slow = setTimeout(() => this.say("", `Fetching the model, ${((this.model.bytes + this.model.runtime) / 1e6).toFixed(1)} MB, once.`), 250);
      const denoise = await this.load().finally(() => clearTimeout(slow));
      if (asked === this.asked && this.ready()) await this.write(denoise, this.places.map(place => place.kept), ++this.run);
    } catch (error) { this.say(`The model could not be run: ${error.message}`, ""); }
    this.button.removeAttribute("aria-busy");
  }
  ready() {
    const wrong = this.blame(), full = this.places.every(place => place.kept >= 0);
    if (wrong) wrong.word.focus();
    else if (full) this.say("Every place is taken: clear a word for the model to write.", "");
    return !wrong && !full;
  }
  async write(denoise, kept, run) {
    const calls = +this.select.value, clock = this.at.querySelector("[name=vtd-clock]:checked").value, times = [];
    const timed = async (...given) => {
      const start = performance.now(), logits = await denoise(...given);
      times.push(performance.now() - start);
      return logits;
    };
    const watch = frame => {
      if (run !== this.run) return;
      this.frames.push(frame);
      return new Promise(done => setTimeout(done));  // the page stays quick to answer
    };
    this.frames = [];
    this.seed.value = this.number();
    this.slider.max = calls;
    this.say("", "");
    const writing = writePage(this.model, timed, {kept, calls, clock, seed: this.number(), watch, stopped: () => run !== this.run});
    writing.then(ids => {
      if (run !== this.run) return;
      this.fresh = true;
      this.slider.disabled = false;
      const each = [...times].sort((a, b) => a - b)[times.length >> 1];
      this.written = `“${this.text(ids)}”: ${calls} call${calls > 1 ? "s" : ""} of the network, ${each.toFixed(each < 10 ? 1 : 0)} ms each.`;
    }, () => {});
    if (still()) { await writing; if (run === this.run) { this.draw(calls); this.say("", this.written); } return; }
    while (!this.frames.length) await new Promise(requestAnimationFrame);
    if (run === this.run) this.go(0);
    await writing;
  }
  /* from one call to the next the picture is blended */
  go(from) {
    const calls = +this.slider.max, pace = Math.max(80, Math.min(300, 3600 / calls));
    let position = from, before = performance.now();
    const tick = time => {
      position = Math.min(this.last(), position + Math.max(0, time - before) / pace);
      before = time;
      this.draw(position);
      if (position < calls) return this.timer = requestAnimationFrame(tick);
      this.stop();
      this.say("", this.written);
    };
    if (still()) return this.draw(calls);
    this.show(true);
    this.timer = requestAnimationFrame(tick);
  }
}

for (const root of document.querySelectorAll(".vtd-hero.vtd-live")) {
  const note = text => root.append(make("p", {className: "note", textContent: text}));
  fetch(new URL("model.json", import.meta.url), {cache: "no-cache"}).then(answer => answer.json())
    .then(told => told.missing ? note(`The live model is not built into this copy of the book: ${told.missing}.`) : new Live(root, told))
    .catch(error => note(`The live model could not be set up: ${error.message}`));
}
