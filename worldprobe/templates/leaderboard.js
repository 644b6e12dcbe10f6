
"use strict";
(() => {
  // Text from results reaches the page as textContent, never as markup.
  const byId = (id) => document.getElementById(id);
  const given = JSON.parse(byId("data").textContent);
  const rows = given.rows.map((cells, order) => {
    const row = { order };
    given.fields.forEach((field, i) => { row[field] = cells[i]; });
    return row;
  });
  const PER_PAGE = 50;
  const has = (x) => x !== null && x !== undefined && x !== "";

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "circle", "rect"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
    made.append(...children.filter(has));
    return made;
  }

  const number = (x) => !has(x) ? "–" : Math.abs(x) >= 1000 ? x.toLocaleString("en", { maximumFractionDigits: 0 })
    : (Math.abs(x) < 0.0005 ? 0 : x).toFixed(3);
  const interval = (low, high) => has(low) ? `[${number(low)}, ${number(high)}]` : "";

  // A number with its interval, and both drawn: band of random directions, bar of a shortcut, whisker, dot.
  function whisker(cell, row, key, { low = 0, high = 1, tick = null, band = null, zero = false, kind = "score" }) {
    const value = row[key];
    if (!has(value)) { cell.append("–"); return; }
    const at = (x) => 4 + 112 * Math.min(1, Math.max(0, (x - low) / (high - low)));
    const parts = [];
    if (band && has(row[band[0]])) {
      const [a, b] = [at(row[band[0]]), at(row[band[1]])];
      parts.push(make("rect", { class: "band", x: a, y: 2, width: Math.max(1.5, b - a), height: 12 }));
    }
    parts.push(make("path", { class: "axis", d: "M2 8H118" }));
    if (zero) parts.push(make("path", { class: "zero", d: `M${at(0)} 1V15` }));
    if (tick && has(row[tick])) parts.push(make("path", { class: "tick", d: `M${at(row[tick])} 2V14` }));
    if (has(row[`${key}_low`])) {
      const [a, b] = [at(row[`${key}_low`]), at(row[`${key}_high`])];
      parts.push(make("path", { class: "ci", d: `M${a} 8H${b}M${a} 5V11M${b} 5V11` }));
    }
    parts.push(make("circle", { class: "dot", cx: at(value), cy: 8, r: 3.5 }));
    cell.append(number(value), " ", make("span", { class: "ci" }, interval(row[`${key}_low`], row[`${key}_high`])),
      make("svg", { class: kind, viewBox: "0 0 120 16", width: 120, height: 16, "aria-hidden": "true" }, ...parts));
  }

  const STATES = { yes: "yes", no: "no", "no news": "partly" };
  const word = (cell, text) => cell.append(has(text) ? make("span", { class: STATES[text] || "" }, text) : "–");
  const most = (key) => rows.reduce((m, r) => has(r[key]) ? Math.max(m, r[key]) : m, 0);
  const erasedMost = most("erased_high") || 1;
  const rank = (row) => !has(row.best_rank) ? "–" : row.best_rank === row.worst_rank ? `${row.best_rank}`
    : `${row.best_rank}–${row.worst_rank}`;
  const text = (key) => ({ value: (r) => r[key], draw: (c, r) => { c.classList.add("wide"); c.append(has(r[key]) ? r[key] : "–"); } });
  const plainNumber = (key) => ({ number: true, value: (r) => r[key], draw: (c, r) => c.append(number(r[key])) });

  const ASIDE = "on cases set aside";
  const [READ, WRITTEN] = ["Read from the states", "Written into the states"];
  const COLUMNS = [
    { key: "model", name: "Model", on: true, value: (r) => r.model, about: "The model; choose it for everything that is known of the row.", draw: opener },
    { key: "task", name: "Task", on: true, ...text("task"), about: "The task whose prompts were read." },
    { key: "label", name: "Label", on: true, ...text("label"), about: "What is read, and written: a scheme of labels." },
    { key: "place", name: "Place", on: rows.some((r) => has(r.place)), ...text("place"), about: "The tokens that are read, where a task has several." },
    { key: "probe", name: "Probe", on: true, ...text("probe"), about: "The probe, or the direction of an edit that is no probe's." },
    { key: "layer", name: "Layer", on: true, number: true, low: true, value: (r) => r.depth, draw: (c, r) => { c.classList.add("wide"); c.append(has(r.where) ? r.where.replace(/^layers? /, "") : "–"); }, about: "Where the probe reads, from 0; chosen on validation." },
    { key: "score", name: "Score", group: READ, on: true, number: true, value: (r) => r.score, draw: (c, r) => { whisker(c, r, "score", { tick: "shortcut" }); if (has(r.metric)) c.append(make("span", { class: "of" }, r.metric)); }, about: "On the test split, with its 95 % interval (bootstrap over groups). The bar is the strongest shortcut." },
    { key: "rank", name: "Rank", group: READ, on: true, number: true, low: true, value: (r) => has(r.best_rank) ? r.best_rank + r.worst_rank / 1e6 : null, draw: (c, r) => c.append(make("span", { class: r.best_rank === r.worst_rank ? "" : "tie" }, rank(r)), make("span", { class: "of" }, has(r.of) ? ` of ${r.of}` : "")), about: "Among probes that were asked the same. Overlapping intervals leave ranks open: 1–3 ties for the first three." },
    { key: "reads", name: "Reads", group: READ, on: true, value: (r) => r.reads, draw: (c, r) => word(c, r.reads), about: "yes: beyond every control and shortcut. no news: beyond chance, not beyond the strongest of them. no: not beyond chance." },
    { key: "shortcut", name: "Shortcut", group: READ, on: true, number: true, value: (r) => r.shortcut, draw: (c, r) => { c.classList.add("wide"); c.append(number(r.shortcut), has(r.shortcut) ? make("span", { class: "of" }, ` ${r.shortcut_name.replace("shortcut: ", "")}`) : ""); }, about: "The best score without the model's inference: a rule that the task knows of." },
    { key: "selectivity", name: "Selectivity", group: READ, on: true, ...plainNumber("selectivity"), about: "The score minus that of the same probe on shuffled labels." },
    { key: "control", name: "Best control", group: READ, on: false, number: true, value: (r) => r.control, draw: (c, r) => { c.classList.add("wide"); c.append(number(r.control), has(r.control) ? make("span", { class: "of" }, ` ${r.control_name}`) : ""); }, about: "The strongest of all controls: majority, shuffled labels, random weights, the input alone, the embedding, shortcuts." },
    { key: "n", name: "n", group: READ, on: false, number: true, value: (r) => r.n, draw: (c, r) => c.append(has(r.n) ? `${r.n.toLocaleString("en")} in ${has(r.n_groups) ? r.n_groups.toLocaleString("en") : "–"} groups` : "–"), about: "Targets that the score counts, in how many groups." },
    { key: "effect", name: "Causal effect", group: WRITTEN, on: true, number: true, value: (r) => r.effect, draw: (c, r) => { whisker(c, r, "effect", { low: -0.2, zero: true, band: ["band_low", "band_high"], kind: "effect" }); if (has(r.edit)) c.append(make("span", { class: "of" }, r.edit)); if (has(r.chosen) && r.chosen !== ASIDE) c.append(make("span", { class: "how" }, r.chosen)); }, about: "What the answers do when the direction is written: 0 is no edit, 1 all that is to be had. The grey band holds random directions of the same length. Layer, dose and way to write were chosen on cases set aside, unless it is said that the best of several here is given." },
    { key: "enough", name: "Is enough", group: WRITTEN, on: true, value: (r) => r.enough, draw: (c, r) => word(c, r.enough), about: "yes: the interval of the effect lies beyond no edit and beyond the band of random directions." },
    { key: "dose", name: "Dose at equal cost", group: WRITTEN, on: true, number: true, low: true, value: (r) => r.dose, draw: (c, r) => { c.classList.add("wide"); c.append(number(r.dose), has(r.dose) ? make("span", { class: "of" }, ` ${r.dose_unit}`) : ""); }, about: "The dose at which the divergence of the next token first reaches the common price, between two doses on a line." },
    { key: "effect_at_dose", name: "Effect there", group: WRITTEN, on: false, ...plainNumber("effect_at_dose"), about: "The effect at that dose." },
    { key: "cost", name: "Cost", group: WRITTEN, on: true, number: true, low: true, value: (r) => r.cost, draw: (c, r) => c.append(number(r.cost), has(r.cost) ? make("span", { class: "of" }, " nats") : ""), about: "The side effect of the edit whose effect is given: divergence of the next token from the unedited model." },
    { key: "erased", name: "Erased", group: WRITTEN, on: false, number: true, value: (r) => r.erased, draw: (c, r) => { whisker(c, r, "erased", { low: -0.1 * erasedMost, high: erasedMost, zero: true, band: ["erased_band_low", "erased_band_high"], kind: "effect" }); if (has(r.eraser)) c.append(make("span", { class: "of" }, r.eraser)); }, about: "Wrong and missing tokens per case that taking the label away adds, beside random directions or subspaces." },
    { key: "used", name: "Is used", group: WRITTEN, on: rows.some((r) => has(r.used)), value: (r) => r.used, draw: (c, r) => word(c, r.used), about: "yes: taking the label away hurts more than doing nothing and more than taking away as much at random." },
    { key: "origin", name: "Origin", on: true, ...text("origin"), about: "run: from the folder of a run. self-reported: sent in. recomputed: sent in with the scores of its examples, which gave the same numbers." },
    { key: "report", name: "Report", on: true, value: (r) => r.run, draw: (c, r) => c.append(/^reports\/[\w.-]+\.html#[\w-]+$/.test(r.report || "") ? make("a", { href: r.report }, r.run) : r.run), about: "The report of the run, at the section about this label." },
  ];
  const column = (key) => COLUMNS.find((c) => c.key === key);
  const shown = (c, r) => { const v = c.value(r); return has(v) ? `${v}` : ""; };
  for (const row of rows) row.words = COLUMNS.filter((c) => !c.number).map((c) => shown(c, row)).join("\n").toLowerCase();

  const FEW = new Set(["model", "label", "probe", "score", "effect"]); // what a phone starts with
  const few = matchMedia("(max-width: 40rem)").matches;
  const START = { sort: [], q: "", cols: COLUMNS.filter((c) => few ? FEW.has(c.key) : c.on).map((c) => c.key), page: 1, row: null };
  let state = { ...START };
  let view = rows;

  // The address: #sort=-score,task&q=othello&cols=model,score&page=2&row=1a2b3c4d
  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const sort = (asked.get("sort") || "").split(",").map((s) => ({ key: s.replace(/^-/, ""), down: s.startsWith("-") })).filter((s) => column(s.key));
    const cols = (asked.get("cols") || "").split(",").filter(column);
    state = { sort, q: (asked.get("q") || "").slice(0, 200), cols: cols.length ? [...new Set(cols)] : START.cols,
      page: Math.max(1, parseInt(asked.get("page"), 10) || 1), row: asked.get("row") };
  }

  function writeAddress() {
    const said = [];
    if (state.sort.length) said.push(`sort=${state.sort.map((s) => (s.down ? "-" : "") + s.key).join(",")}`);
    if (state.q) said.push(`q=${encodeURIComponent(state.q)}`);
    if (state.cols.join() !== START.cols.join()) said.push(`cols=${state.cols.join(",")}`);
    if (state.page > 1) said.push(`page=${state.page}`);
    if (state.row) said.push(`row=${encodeURIComponent(state.row)}`);
    history.replaceState(null, "", `#${said.join("&")}`);
  }

  // Every column as whole numbers in the order of its values, made once: sorting then compares numbers alone.
  const ranks = new Map();
  function ranksOf(c) {
    if (!ranks.has(c.key)) {
      const values = rows.map(c.value);
      const collator = new Intl.Collator("en", { numeric: true });
      const order = [...new Set(values.filter(has))].sort(c.number ? (a, b) => a - b : collator.compare);
      const place = new Map(order.map((v, i) => [v, i]));
      ranks.set(c.key, Int32Array.from(values, (v) => has(v) ? place.get(v) : -1));
    }
    return ranks.get(c.key);
  }

  function arrange() {
    const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = terms.map((term) => {
      const not = term.length > 1 && term.startsWith("-");
      const [, key, rest] = /^([a-z_]+):(.+)$/.exec(not ? term.slice(1) : term) || [];
      const c = key && column(key);
      const find = c ? (r) => shown(c, r).toLowerCase().includes(rest) : (r) => r.words.includes(not ? term.slice(1) : term);
      return not ? (r) => !find(r) : find;
    });
    view = tests.length ? rows.filter((r) => tests.every((test) => test(r))) : rows.slice();
    const keys = state.sort.map((s) => ({ at: ranksOf(column(s.key)), sign: s.down ? -1 : 1 }));
    if (keys.length) {
      view.sort((a, b) => {
        for (let i = 0; i < keys.length; i += 1) {
          const x = keys[i].at[a.order];
          const y = keys[i].at[b.order];
          if (x !== y) return x < 0 ? 1 : y < 0 ? -1 : keys[i].sign * (x - y); // what is missing comes last either way
        }
        return a.order - b.order;
      });
    }
  }

  function opener(cell, row) {
    cell.append(make("button", { type: "button", "aria-expanded": `${state.row === row.id}`, "data-id": row.id }, row.model || "–"));
  }

  const NOT_LISTED = new Set(["order", "words", "id", "report", "best_rank", "worst_rank", "of"]);
  function detail(row, span) {
    const list = make("dl");
    for (const field of given.fields) {
      if (has(row[field]) && !NOT_LISTED.has(field) && !/_(low|high)$/.test(field)) {
        const value = typeof row[field] === "number" ? `${row[field]} ${interval(row[`${field}_low`], row[`${field}_high`])}` : row[field];
        list.append(make("div", {}, make("dt", {}, field.replaceAll("_", " ")), make("dd", {}, value)));
      }
    }
    return make("tr", { class: "detail" }, make("td", { colspan: span }, list));
  }

  function drawHeads() {
    const groups = [];
    for (const key of state.cols) {
      const group = column(key).group || "";
      if (groups.length && groups.at(-1).group === group) groups.at(-1).span += 1;
      else groups.push({ group, span: 1 });
    }
    byId("groups").replaceChildren(...groups.map(({ group, span }) => group
      ? make("th", { scope: "colgroup", colspan: span, class: "group" }, group) : make("td", { colspan: span })));
    const arrows = (s, i) => ` ${s.down ? "▼" : "▲"}${state.sort.length > 1 ? i + 1 : ""}`;
    byId("heads").replaceChildren(...state.cols.map((key) => {
      const c = column(key);
      const i = state.sort.findIndex((s) => s.key === key);
      const s = state.sort[i];
      const button = make("button", { type: "button", title: c.about, "data-key": key, class: s ? "sorted" : null }, c.name);
      if (s) {
        button.append(make("span", { class: "arrow", "aria-hidden": "true" }, arrows(s, i)),
          make("span", { class: "hidden" }, i ? `, sort key ${i + 1}, ${s.down ? "descending" : "ascending"}` : ""));
      }
      return make("th", { scope: "col", "aria-sort": i === 0 ? (s.down ? "descending" : "ascending") : null }, button);
    }));
  }

  function draw() {
    arrange();
    if (state.row) {
      const at = view.findIndex((r) => r.id === state.row);
      if (at >= 0) state.page = Math.floor(at / PER_PAGE) + 1;
    }
    const pages = Math.max(1, Math.ceil(view.length / PER_PAGE));
    state.page = Math.min(state.page, pages);
    const first = (state.page - 1) * PER_PAGE;
    const some = view.slice(first, first + PER_PAGE);
    const body = [];
    for (const row of some) {
      const cells = state.cols.map((key, i) => {
        const cell = make(i ? "td" : "th", i ? {} : { scope: "row" });
        column(key).draw(cell, row);
        return cell;
      });
      body.push(make("tr", { class: state.row === row.id ? "hit" : null }, ...cells));
      if (state.row === row.id) body.push(detail(row, cells.length));
    }
    if (!some.length) body.push(make("tr", {}, make("td", { colspan: state.cols.length }, "No row has all these words.")));
    byId("body").replaceChildren(...body);
    drawHeads();
    const by = state.sort.map((s) => `${column(s.key).name.toLowerCase()} (${s.down ? "high to low" : "low to high"})`);
    const n = (x) => x.toLocaleString("en");
    byId("status").textContent = `${view.length === rows.length ? n(rows.length) : `${n(view.length)} of ${n(rows.length)}`} rows`
      + (by.length ? `, sorted by ${by.join(", then ")}.` : ", in the order of their results.");
    byId("where").textContent = `${n(Math.min(first + 1, view.length))} to ${n(first + some.length)} of ${n(view.length)}`;
    document.querySelector(".pages").hidden = pages === 1;
    byId("before").disabled = state.page === 1;
    byId("after").disabled = state.page === pages;
    if (document.activeElement !== byId("filter")) byId("filter").value = state.q;
    for (const box of document.querySelectorAll("#picker input")) box.checked = state.cols.includes(box.value);
  }

  function change(part, focus) {
    state = { ...state, ...part };
    draw();
    writeAddress();
    if (focus) document.querySelector(focus)?.focus();
  }

  function sortBy(key, more) {
    const old = state.sort.find((s) => s.key === key);
    const c = column(key);
    const start = Boolean(c.number) && !c.low;
    let sort;
    if (!more) sort = [{ key, down: old && state.sort.length === 1 ? !old.down : start }];
    else if (!old) sort = [...state.sort, { key, down: start }];
    else if (old.down === start) sort = state.sort.map((s) => s === old ? { key, down: !start } : s);
    else sort = state.sort.filter((s) => s !== old);
    change({ sort, page: 1, row: null }, `[data-key="${key}"]`);
  }

  // As in the exported files: a spreadsheet runs no cell that starts with an apostrophe.
  function csvCell(value) {
    if (!has(value)) return "";
    if (typeof value === "number") return `${value}`;
    const risky = /^[\s\x00-\x20\u200b\ufeff]*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|^[\s\x00-\x20\ufeff']/.test(value);
    return `"${(risky ? "'" : "") + value.replaceAll("\"", "\"\"")}"`;
  }

  function saveCsv() {
    const fields = given.fields;
    const lines = [fields.map(csvCell), ...view.map((r) => fields.map((f) => csvCell(r[f])))];
    const url = URL.createObjectURL(new Blob([lines.map((l) => l.join(",")).join("\n") + "\n"], { type: "text/csv" }));
    make("a", { href: url, download: "leaderboard.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  const fieldset = document.querySelector("#picker fieldset");
  for (const c of COLUMNS.slice(1)) fieldset.append(make("label", {}, make("input", { type: "checkbox", value: c.key }), c.name));
  for (const c of COLUMNS) byId("meaning").append(make("div", {}, make("dt", {}, c.name), make("dd", {}, c.about)));
  byId("heads").addEventListener("click", (e) => { const b = e.target.closest("button"); if (b) sortBy(b.dataset.key, e.shiftKey); });
  byId("body").addEventListener("click", (e) => {
    const b = e.target.closest("button");
    if (b) change({ row: state.row === b.dataset.id ? null : b.dataset.id }, `[data-id="${CSS.escape(b.dataset.id)}"]`);
  });
  fieldset.addEventListener("change", () => {
    const on = new Set([...fieldset.querySelectorAll("input:checked")].map((box) => box.value));
    change({ cols: COLUMNS.filter((c, i) => i === 0 || on.has(c.key)).map((c) => c.key) });
  });
  byId("picker").addEventListener("keydown", (e) => {
    if (e.key === "Escape") { byId("picker").open = false; document.querySelector("#picker summary").focus(); }
  });
  document.addEventListener("click", (e) => { if (!byId("picker").contains(e.target)) byId("picker").open = false; });
  byId("filter").addEventListener("input", () => change({ q: byId("filter").value.slice(0, 200), page: 1, row: null }));
  byId("tools").addEventListener("submit", (e) => e.preventDefault());
  byId("csv").addEventListener("click", saveCsv);
  byId("reset").addEventListener("click", () => { byId("filter").value = ""; change({ ...START }); });
  byId("before").addEventListener("click", () => change({ page: state.page - 1, row: null }));
  byId("after").addEventListener("click", () => change({ page: state.page + 1, row: null }));
  window.addEventListener("hashchange", () => { readAddress(); draw(); });
  readAddress();
  draw();
  document.querySelector("tr.hit")?.scrollIntoView({ block: "center" });
})();
