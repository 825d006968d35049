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
  const draw = async plot => {
    const figure = JSON.parse(plot.nextElementSibling.textContent);
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

  /* a page opened as a file may not load the live model */
  if (location.protocol === "file:") all(".vtd-live").forEach(root => {
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

  /* wide tables scroll on their own */
  all(".cell_output table, .bd-article table").filter(t => !t.closest(".vtd-ledger, .vtd-scroll")).forEach(table => {
    const box = document.createElement("div");
    box.className = "vtd-scroll";
    table.replaceWith(box);
    box.append(table);
  });
})();
