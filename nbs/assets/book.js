/* Draws the figures of a page and keeps its command boxes. No request leaves the folder of the book. */
(() => {
  if (window.vtdBook) return;
  window.vtdBook = true;
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const all = (query, start = document) => [...start.querySelectorAll(query)];

  /* figures: plotly.min.js is fetched when the first figure comes near, once */
  let plotly = null;
  const load = () => plotly ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = here + "plotly.min.js";
    script.onload = done;
    script.onerror = failed;
    document.head.append(script);
  });
  const dark = () => document.documentElement.dataset.theme === "dark" || document.body.classList.contains("quarto-dark");
  const inks = () => dark() ? ["#dfe4ea", "#3a434d"] : ["#1d2329", "#d9dee4"];
  const dress = layout => {
    const [ink, line] = inks(), dressed = {...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)"};
    delete dressed.sliders;  // the browser's own takes its place: see steps
    dressed.font = {...layout.font, color: ink};
    for (const key of Object.keys(layout).concat("xaxis", "yaxis").filter(k => /^[xy]axis\d*$/.test(k)))
      dressed[key] = {...layout[key], gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line};
    for (const key of ["annotations", "updatemenus"])
      if (layout[key]) dressed[key] = layout[key].map(item => ({...item, font: {...item.font, color: ink}}));
    return dressed;
  };
  const told = plot => JSON.parse(plot.nextElementSibling.textContent);
  const draw = async plot => {
    const figure = told(plot), look = figure.layout?.template;
    if (typeof look === "string") figure.layout.template = told(document.getElementById(look).firstElementChild).layout.template;  // as an earlier figure
    await load();
    const config = {displayModeBar: false, responsive: true, displaylogo: false};
    const slider = figure.frames?.length ? steps(plot, figure) : null;
    const frame = slider ? figure.frames[slider.value] : {};
    const data = figure.data?.map((trace, i) => ({...trace, ...frame.data?.[frame.traces?.indexOf(i) ?? i]}));
    await Plotly.react(plot, data ?? [], dress(figure.layout ?? {}), config);
    plot.dataset.drawn = "yes";
  };
  /* a figure with frames gets a slider of the browser's own: arrow keys, Home and End move it */
  const steps = (plot, figure) => {
    const known = plot.parentElement.querySelector(".vtd-steps input");
    if (known) return known;
    const box = document.createElement("div"), slider = document.createElement("input"), says = document.createElement("output");
    const last = figure.frames.length - 1, {active = last, currentvalue} = figure.layout.sliders?.[0] ?? {};
    const name = () => says.textContent = (currentvalue?.prefix ?? "step ") + figure.frames[slider.value].name;
    Object.assign(slider, {type: "range", min: 0, max: last, step: 1, value: active});
    slider.setAttribute("aria-label", "Step");
    const moved = () => slider.setAttribute("aria-valuetext", name());
    slider.addEventListener("input", () => { moved(); draw(plot); });
    box.className = "vtd-steps";
    box.append(slider, says);
    plot.nextElementSibling.after(box);
    moved();
    return slider;
  };
  const plots = all(".vtd-plot");
  const near = new IntersectionObserver(seen => seen.filter(s => s.isIntersecting).forEach(s => {
    near.unobserve(s.target);
    draw(s.target);
  }), {rootMargin: "400px"});
  plots.forEach(plot => near.observe(plot));
  const redraw = () => plots.filter(plot => plot.dataset.drawn).forEach(draw);
  new MutationObserver(redraw).observe(document.documentElement, {attributeFilter: ["data-theme"]});
  new MutationObserver(redraw).observe(document.body, {attributeFilter: ["class"]});

  /* the page reader: point at a grid anywhere, or step through a page with the arrow keys, to see its word, cells and neighbours */
  const GRIDS = ".vtd-player canvas, div[role=img] > div > img, svg[role=img] image";
  const wordOf = grid => {
    if (grid.matches("canvas")) return grid.closest(".tok")?.querySelector(".word")?.textContent ?? "";
    if (grid.matches("img")) return grid.parentElement.querySelector("span")?.title ?? "";
    const next = grid.nextElementSibling?.nextElementSibling;
    return next?.matches("text") ? next.querySelector("title")?.textContent ?? next.textContent : "";
  };
  const pixelsOf = async grid => {
    let from = grid;
    if (!grid.matches("canvas")) {
      from = new Image();
      from.src = grid.getAttribute("src") ?? grid.getAttribute("href");
      await from.decode();
    }
    const [w, h] = [from.naturalWidth || from.width, from.naturalHeight || from.height];
    const pen = Object.assign(document.createElement("canvas"), {width: w, height: h}).getContext("2d", {willReadFrequently: true});
    pen.drawImage(from, 0, 0);
    return pen.getImageData(0, 0, w, h);
  };
  const far = (a, b) => a.data.reduce((sum, value, i) => sum + (value - b.data[i]) ** 2, 0);
  const picture = (pixels, size) => {
    const canvas = Object.assign(document.createElement("canvas"), {width: pixels.width, height: pixels.height});
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.style.cssText = `width:${size}px;height:${Math.round(size * pixels.height / pixels.width)}px`;
    return canvas;
  };
  const line = (name, text) => Object.assign(document.createElement(name), {textContent: text});
  const reader = Object.assign(document.createElement("div"), {className: "vtd-reader", hidden: true});
  reader.setAttribute("role", "status");
  document.body.append(reader);
  let asked = null;
  const neighbours = async (grid, word, pixels) => {
    const words = new Map();
    for (const other of all(GRIDS)) {
      const name = wordOf(other);
      if (name && name !== word && !words.has(name) && words.size < 300) words.set(name, other);
    }
    const seen = await Promise.all([...words].map(async ([name, other]) => [name, await pixelsOf(other)]));
    return seen.filter(([, p]) => p.data.length === pixels.data.length).map(([name, p]) => [far(pixels, p), name, p]).sort((a, b) => a[0] - b[0]).slice(0, 3);
  };
  const read = async grid => {
    asked = grid;
    const word = wordOf(grid), pixels = await pixelsOf(grid), near = await neighbours(grid, word, pixels);
    if (asked !== grid) return;
    const coloured = pixels.data.some((value, i) => i % 4 && i % 4 < 3 && value !== pixels.data[i - i % 4]);
    const on = [0, 1, 2].map(k => pixels.data.filter((value, i) => i % 4 === k && value > 127).length);
    const cells = `${pixels.height} × ${pixels.width} places, ` + (coloured ? `lit: ${on[0]} red, ${on[1]} green, ${on[2]} blue` : `lit: ${on[0]}`);
    const list = document.createElement("ul");
    near.forEach(([distance, name, p]) => {
      const item = document.createElement("li"), apart = distance / (pixels.width * pixels.height * 3) / 255 ** 2;
      item.append(picture(p, 28), line("b", name), line("span", `${Math.round(100 * apart)} %`));
      list.append(item);
    });
    reader.replaceChildren(picture(pixels, 120), line("strong", word || "no word"), line("small", cells));
    if (near.length) reader.append(line("small", "nearest on this page, by cells that differ:"), list);
    reader.hidden = false;
    const box = grid.getBoundingClientRect(), [w, h] = [reader.offsetWidth, reader.offsetHeight];
    reader.style.left = Math.max(8, Math.min(innerWidth - w - 8, box.left + box.width / 2 - w / 2)) + "px";
    reader.style.top = (box.bottom + h + 12 < innerHeight ? box.bottom + 8 : Math.max(8, box.top - h - 8)) + "px";
  };
  const leave = () => { asked = null; reader.hidden = true; };
  const at = event => event.target.closest?.(GRIDS);
  document.addEventListener("pointerover", event => { const grid = at(event); grid ? read(grid) : leave(); });
  document.addEventListener("scroll", leave, {passive: true});
  document.addEventListener("keydown", event => event.key === "Escape" && leave());
  const pages = new Set(all(GRIDS).filter(g => !g.matches("canvas")).map(g => g.closest("[role=img]")));
  pages.forEach(page => {
    let index = -1;
    page.setAttribute("tabindex", "0");
    page.addEventListener("blur", leave);
    page.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key], grids = all(GRIDS, page);
      if (!step) return;
      event.preventDefault();
      read(grids[index = (index + step + grids.length) % grids.length]);
    });
  });

  /* a page opened as a file may not load the live model */
  if (location.protocol === "file:") all(".vtd-hero.vtd-live").forEach(root => {
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = "Opened as a file, this page shows a picture. Served (vtd serve), it is live: the model runs in it.";
    root.append(note);
  });

  /* run with these parameters */
  const quote = text => /^[\w.,:@%+=\/-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";
  all(".vtd-run").forEach(box => {
    const fields = all("input", box), [ours, plain] = all(".vtd-command code", box);
    const write = () => {
      const changed = fields.filter(f => f.value !== f.defaultValue);
      fields.forEach(f => f.classList.toggle("changed", changed.includes(f)));
      ours.textContent = ["vtd run", box.dataset.chapter, ...changed.map(f => "-p " + quote(`${f.name}=${f.value}`))].join(" ");
      const yaml = f => `${f.name}: ${f.dataset.kind.startsWith("str") && f.value !== "null" ? JSON.stringify(f.value) : f.value}`;
      const given = changed.length ? ["-y", "'{" + changed.map(yaml).join(", ").replaceAll("'", "'\\''") + "}'"] : [];
      plain.textContent = ["papermill", "nbs/" + box.dataset.notebook, "out.ipynb", ...given].join(" ");
    };
    fields.forEach(f => f.addEventListener("input", write));
  });
  all(".vtd-command button").forEach(button => button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => button.textContent = "Copy", 1500);
  }));

  /* the ledger: filter and sort */
  all(".vtd-ledger-tools").forEach(tools => {
    const body = document.querySelector(".vtd-ledger tbody"), rows = [...body.rows];
    const [find, order, says] = ["input[type=search]", "select", "output"].map(q => tools.querySelector(q));
    const wanted = all("input[type=checkbox]", tools), verdicts = wanted.map(box => box.value);
    const rank = {verdict: row => verdicts.indexOf(row.dataset.verdict), chapter: row => row.dataset.chapter};
    const show = () => {
      const kept = new Set(wanted.filter(box => box.checked).map(box => box.value)), text = find.value.trim().toLowerCase();
      rows.forEach(row => row.hidden = !kept.has(row.dataset.verdict) || !row.textContent.toLowerCase().includes(text));
      const key = rank[order.value], sorted = key ? rows.toSorted((a, b) => key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) : rows;
      body.append(...sorted);
      says.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} claims`;
    };
    tools.hidden = false;
    tools.addEventListener("input", show);
    show();
  });

  /* wide tables scroll on their own */
  all(".cell_output table, .bd-article table").filter(t => !t.closest(".vtd-ledger, .vtd-scroll")).forEach(table => {
    const box = document.createElement("div");
    box.className = "vtd-scroll";
    table.replaceWith(box);
    box.append(table);
  });
})();
