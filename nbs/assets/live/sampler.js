/* What vtd.browser.write_page does, once more in JavaScript: the same chance, the same clocks, the same steps. */

/* Threefry-2x32, 20 rounds (Salmon et al. 2011): two random words of a counter under a key */
const TURNS = [[13, 15, 26, 6], [17, 29, 16, 24]];
export const threefry = (key0, key1, counter0, counter1) => {
  const keys = [key0 | 0, key1 | 0, key0 ^ key1 ^ 0x1BD11BDA];
  let a = counter0 + keys[0] | 0, b = counter1 + keys[1] | 0;
  for (let group = 0; group < 5; group++) {
    for (const turn of TURNS[group % 2]) {
      a = a + b | 0;
      b = (b << turn | b >>> 32 - turn) ^ a;
    }
    a = a + keys[(group + 1) % 3] | 0;
    b = b + keys[(group + 2) % 3] + group + 1 | 0;
  }
  return [a >>> 0, b >>> 0];
};
const unit = word => (word + .5) / 2 ** 32;

/* the noise of a page: stream 0, two bell-curve numbers a counter; the draws: stream 1, counter (call, place) */
export const noiseOf = (seed, count) => {
  const noise = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const [u, v] = threefry(seed, 0, i / 2, 0).map(unit), radius = Math.sqrt(-2 * Math.log(u));
    noise[i] = radius * Math.cos(2 * Math.PI * v);
    if (i + 1 < count) noise[i + 1] = radius * Math.sin(2 * Math.PI * v);
  }
  return noise;
};
export const drawOf = (seed, call, place) => unit(threefry(seed, 1, call, place)[0]);

/* what model.json holds, unpacked: signal (V x D) of the codebook, levels, tokens */
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
export const unpack = told => {
  const [H, W, C] = told.shape, D = H * W * C, V = told.tokens.length, raw = bytes(told.codebook), mean = floats(told.mean);
  const signal = new Float32Array(V * D);
  for (let i = 0; i < V * D; i++) {
    const level = told.bits === 1 ? raw[i >> 3] >> 7 - i % 8 & 1 : raw[i] / 255;
    signal[i] = (level - mean[i % D]) / told.scale;
  }
  return {...told, D, V, mean, signal, ends: floats(told.ends), index: new Map(told.tokens.map((t, i) => [t, i]))};
};

/* log-SNR at a share of the information: straight lines between the ends of the schedule's bins */
export const levelAt = (model, progress) => {
  const {ends, span: [low, high]} = model, bins = ends.length - 1;
  let bin = 0;
  while (bin < bins - 1 && ends[bin + 1] <= progress) bin++;
  return low + (high - low) / bins * (bin + (progress - ends[bin]) / (ends[bin + 1] - ends[bin]));
};
/* levels (calls + 1) x L, infinite where a token is known; where all places stand together, few calls are better spent later */
export const pathOf = (model, clock, calls, kept) => {
  const {rank, overlap} = model.clocks[clock], top = Math.max(...rank), later = top ? 0 : model.later / (calls + 2);
  return Array.from({length: calls + 1}, (_, k) => rank.map((r, n) => {
    const progress = (k / calls * (top + overlap) - r) / overlap;
    return kept[n] >= 0 || progress > 1 - 1e-9 ? Infinity : levelAt(model, Math.fround(Math.max(0, progress))) + later;
  }));
};

/* belief of one place: softmax of logits / temperature */
const softmax = (logits, at, V, temperature) => {
  const belief = new Float64Array(V);
  let top = -Infinity, sum = 0;
  for (let v = 0; v < V; v++) top = Math.max(top, logits[at + v]);
  for (let v = 0; v < V; v++) sum += belief[v] = Math.exp((logits[at + v] - top) / temperature);
  for (let v = 0; v < V; v++) belief[v] /= sum;
  return belief;
};
const draw = (belief, u) => {
  let sum = 0, v = 0;
  while (v < belief.length - 1 && (sum += belief[v]) <= u) v++;
  return v;
};
const amplitude = level => 1 / Math.sqrt(1 + Math.exp(-level));

/* one step of DDIM at one place, z is changed; a place whose level becomes infinite takes the drawn token */
const step = (model, z, at, belief, token, now, then) => {
  const {D, V, signal} = model, a = amplitude(now), s = amplitude(-now), a2 = amplitude(then), s2 = amplitude(-then);
  if (then === Infinity) return z.set(signal.subarray(token * D, token * D + D), at);
  const mean = new Float64Array(D);
  for (let v = 0; v < V; v++) if (belief[v] > 1e-12) for (let d = 0; d < D; d++) mean[d] += belief[v] * signal[v * D + d];
  for (let d = 0; d < D; d++) z[at + d] = a2 * mean[d] + s2 * (z[at + d] - a * mean[d]) / s;
};

/* A page from noise. `denoise(cells, levels)` gives logits (L x V); `kept` has ids, -1 where open; `watch` sees each
   frame: cells, the likeliest token of each place, how certain. Returns the ids of the page. */
export const writePage = async (model, denoise, {kept, calls, clock, seed, temperature = model.temperature, noise, watch, stopped}) => {
  const {D, V, length: L, signal} = model, path = pathOf(model, clock, calls, kept), z = new Float32Array(noise ?? noiseOf(seed, L * D));
  const ids = [...kept], sure = kept.map(id => id >= 0 ? 1 : 0);
  kept.forEach((id, n) => id >= 0 && z.set(signal.subarray(id * D, id * D + D), n * D));
  await watch?.({call: 0, cells: z.slice(), ids: [...ids], sure: [...sure]});
  for (let k = 0; k < calls && !stopped?.(); k++) {
    const logits = await denoise(z, Float32Array.from(path[k]));
    for (let n = 0; n < L; n++) {
      const now = path[k][n], then = path[k + 1][n];
      if (now === Infinity) continue;
      const belief = softmax(logits, n * V, V, temperature), honest = softmax(logits, n * V, V, 1);
      const token = draw(belief, drawOf(seed, k, n));
      if (then > now) step(model, z, n * D, belief, token, now, then);
      ids[n] = then === Infinity ? token : honest.reduce((best, p, v) => p > honest[best] ? v : best, 0);
      sure[n] = then === Infinity ? 1 : honest[ids[n]];
    }
    await watch?.({call: k + 1, cells: z.slice(), ids: [...ids], sure: [...sure]});
  }
  return ids;
};

/* the network: ONNX Runtime Web on one thread of WebAssembly; `here` is the folder of these files */
const gunzip = data => new Uint8Array(data.slice(0, 2)).join() === "31,139"
  ? new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer() : data;
const fetched = async url => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url.pathname.split("/").pop()} did not come: ${answer.status}`);
  return answer.arrayBuffer();
};
export const openNetwork = async (told, here) => {
  const [ort, wasm, graph] = await Promise.all([import(new URL("ort.min.js", here)),
    fetched(new URL("ort.wasm.bin", here)).then(gunzip), fetched(new URL(`model.onnx.bin?${told.digest}`, here)).then(gunzip)]);
  Object.assign(ort.env.wasm, {wasmBinary: wasm, numThreads: 1, proxy: false});
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(new Uint8Array(graph), {executionProviders: ["wasm"]});
  const L = told.length, D = told.shape.reduce((a, b) => a * b);
  return async (cells, levels) => {
    const given = {cells: new ort.Tensor("float32", cells, [1, L, D]), log_snr: new ort.Tensor("float32", levels, [1, L])};
    return (await session.run(given)).logits.data;
  };
};
