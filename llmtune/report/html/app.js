// The pages' only script of ours: theme, sorting, charts, and (in `llmtune ui`) what moves. No text becomes markup here:
// everything is set as text.
(function () {
  "use strict";
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("page-data").textContent);

  // --- theme ---------------------------------------------------------------------------------------------------------
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  function readTheme() {
    try { return localStorage.getItem("llmtune-theme") || "system"; } catch { return "system"; }
  }
  function dress(theme) {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = "Theme: " + theme;
    try { localStorage.setItem("llmtune-theme", theme); } catch { /* a page from a file may keep nothing */ }
    charts.forEach((each) => each.draw());
  }

  // --- sorting -------------------------------------------------------------------------------------------------------
  function value(row, column) {
    const cell = row.cells[column];
    if (!cell) return "";
    const raw = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
    const number = raw === "" ? NaN : Number(raw);
    return Number.isNaN(number) ? raw : number;
  }
  function compare(a, b) {
    const numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a.localeCompare(b, undefined, { numeric: true });
  }
  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const numeric = head.classList.contains("n");
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : numeric;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(table.tBodies[0].rows, (row) => [value(row, column), row]);
    const empty = rows.filter(([key]) => key === "");
    const full = rows.filter(([key]) => key !== "");
    full.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...full.concat(empty).map(([, row]) => row));
  }
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      press.addEventListener("click", () => sort(table, column));
      head.append(press);
    });
  }

  // --- copying -------------------------------------------------------------------------------------------------------
  for (const press of document.querySelectorAll(".copy")) {
    press.addEventListener("click", async () => {
      const code = press.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        press.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        press.textContent = "Selected";
      }
      setTimeout(() => { press.textContent = "Copy"; }, 1500);
    });
  }

  // --- charts --------------------------------------------------------------------------------------------------------
  function spell(value) {
    if (value === null || value === undefined) return "\u2013";
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return value.toFixed(size >= 100 ? 1 : 4);
  }
  function ink(name) {
    const probe = document.createElement("span");
    probe.className = name;
    document.body.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  }
  // All curves of a chart on the steps of all of them together; a step that a curve lacks is undefined (joined over),
  // a value that no axis can show is null (a gap).
  function joined(curves) {
    const steps = Array.from(new Set(curves.flatMap((curve) => curve.steps))).sort((a, b) => a - b);
    const place = new Map(steps.map((step, index) => [step, index]));
    const columns = curves.map((curve) => {
      const column = new Array(steps.length);
      curve.steps.forEach((step, index) => { column[place.get(step)] = curve.values[index]; });
      return column;
    });
    return [steps, ...columns];
  }
  function unitless(chart, value) {
    return chart.unit === "share" ? (100 * value).toFixed(1) + "%" : spell(value);
  }

  class Chart {
    constructor(place, chart) {
      this.place = place;
      this.chart = chart;
      this.plot = null;
      this.range = null;
      place.tabIndex = 0;
      place.setAttribute("role", "group");
      place.setAttribute("aria-roledescription", "chart");
      place.setAttribute("aria-label", chart.title + ": " + chart.curves.map((each) => each.label).join(", "));
      place.addEventListener("keydown", (event) => this.key(event));
      const tools = document.createElement("span");
      tools.className = "zoom";
      for (const [text, name, act] of [
        ["\u2212", "Zoom out", () => this.zoom(2)],
        ["+", "Zoom in", () => this.zoom(0.5)],
        ["All", "Show all", () => this.all()],
      ]) {
        const press = document.createElement("button");
        press.type = "button";
        press.textContent = text;
        press.setAttribute("aria-label", name + " (" + chart.title + ")");
        press.addEventListener("click", act);
        tools.append(press);
      }
      place.parentElement.querySelector("figcaption").append(tools);
      this.draw();
      if (window.ResizeObserver) {
        new ResizeObserver(() => {
          if (this.plot && this.place.clientWidth && this.place.clientWidth !== this.plot.width) this.size();
        }).observe(place);
      }
    }
    height() { return this.place.parentElement.classList.contains("first") ? 280 : 190; }
    size() { this.plot.setSize({ width: this.place.clientWidth, height: this.height() }); }
    draw() {
      if (this.plot) this.plot.destroy();
      const line = ink("hint");
      const grid = { stroke: "rgba(128,128,128,.18)", width: 1 };
      const axis = { stroke: line, grid, ticks: grid, font: "12px system-ui, sans-serif" };
      const chart = this.chart;
      const many = chart.curves.some((curve) => curve.steps.length > 60);
      const options = {
        width: this.place.clientWidth || 600,
        height: this.height(),
        cursor: { sync: { key: "step", setSeries: false }, focus: { prox: 24 }, drag: { x: true, y: false, dist: 4 } },
        focus: { alpha: 0.5 },
        legend: { live: true },
        scales: { x: { time: false } },
        hooks: { setScale: [(plot, name) => { if (name === "x") this.moved(plot); }] },
        axes: [
          { ...axis, size: 34, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : "")) },
          { ...axis, size: 58, values: (_, ticks) => ticks.map((tick) => this.short(tick)) },
        ],
        series: [
          { label: "step", value: (_, step) => (step === null || step === undefined ? "\u2013" : String(step)) },
          ...chart.curves.map((curve, index) => {
            const sparse = curve.steps.length <= 60;
            return {
              label: curve.label,
              stroke: ink("k" + ((curve.colour === undefined ? index : curve.colour) % 8)),
              width: many && !sparse ? 1.25 : 2,
              spanGaps: false,
              points: { show: sparse, size: 5 },
              value: (_, value) => (value === null || value === undefined ? "\u2013" : unitless(chart, value)),
            };
          }),
        ],
      };
      this.plot = new uPlot(options, joined(chart.curves), this.place);
      if (this.range) this.plot.setScale("x", this.range);
    }
    short(tick) {
      if (this.chart.unit === "share") return Math.round(1000 * tick) / 10 + "%";
      const size = Math.abs(tick);
      if (tick !== 0 && (size < 1e-3 || size >= 1e5)) return tick.toExponential(1).replace(".0e", "e");
      return String(Number(tick.toPrecision(4)));
    }
    extent() {
      const steps = this.plot.data[0];
      return [steps[0], steps[steps.length - 1]];
    }
    moved(plot) {
      const steps = plot.data[0];
      if (!steps.length) return;
      const { min, max } = plot.scales.x;
      this.range = min > steps[0] || max < steps[steps.length - 1] ? { min, max } : null;
      this.place.dataset.zoomed = this.range ? "yes" : "no";
      this.place.dataset.range = min + " " + max;
    }
    all() {
      const [min, max] = this.extent();
      this.plot.setScale("x", { min, max });
    }
    zoom(factor) {
      const [first, last] = this.extent();
      const { min, max } = this.plot.scales.x;
      const at = this.plot.cursor.idx === null || this.plot.cursor.idx === undefined
        ? (min + max) / 2 : this.plot.data[0][this.plot.cursor.idx];
      const middle = Math.min(max, Math.max(min, at));
      const half = Math.max(1, ((max - min) * factor) / 2);
      const low = Math.max(first, Math.min(middle - half, last - 2 * half));
      this.plot.setScale("x", { min: low, max: Math.min(last, low + 2 * half) });
    }
    key(event) {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in steps || event.key === "Home" || event.key === "End") {
        const { min, max } = this.plot.scales.x;
        const [columns] = this.plot.data;
        let low = columns.findIndex((step) => step >= min);
        let high = columns.length - 1;
        while (high > low && columns[high] > max) high -= 1;
        let at = this.plot.cursor.idx;
        if (event.key === "Home") at = low;
        else if (event.key === "End") at = high;
        else at = at === null || at === undefined ? low : at + steps[event.key];
        at = Math.min(high, Math.max(low, at));
        this.plot.setCursor({ left: this.plot.valToPos(columns[at], "x"), top: this.plot.bbox.height / devicePixelRatio / 2 });
        const values = this.chart.curves
          .map((curve, index) => [curve.label, this.plot.data[index + 1][at]])
          .filter(([, value]) => value !== null && value !== undefined)
          .map(([label, value]) => label + " " + unitless(this.chart, value));
        announce("step " + columns[at] + ": " + values.join(", "));
      } else if (event.key === "+" || event.key === "=") this.zoom(0.5);
      else if (event.key === "-") this.zoom(2);
      else if (event.key === "0" || event.key === "Escape") this.all();
      else return;
      event.preventDefault();
    }
    take(curves) {
      const range = this.range;
      this.chart.curves = curves;
      if (this.plot.series.length !== curves.length + 1) { this.draw(); return; }
      this.plot.setData(joined(curves), !range);
      if (range) this.plot.setScale("x", range);
    }
  }

  // What the keyboard selects in a chart is announced to screen readers.
  const liveRegion = document.createElement("div");
  liveRegion.setAttribute("aria-live", "polite");
  liveRegion.className = "skip";
  document.body.append(liveRegion);
  function announce(text) { liveRegion.textContent = text; }

  const charts = new Map();
  function drawAll() {
    for (const place of document.querySelectorAll("[data-chart]")) {
      const chart = (data.charts || []).find((each) => each.id === place.dataset.chart);
      if (chart && !charts.has(chart.id)) charts.set(chart.id, new Chart(place, chart));
    }
  }
  drawAll();
  dress(readTheme());
  button.addEventListener("click", () => dress(themes[(themes.indexOf(readTheme()) + 1) % themes.length]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((each) => each.draw()));

  // --- a run that is still going (llmtune ui) ---------------------------------------------------------------------------
  function write(id, text) {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) place.textContent = text;
  }
  function grown(curve, news) {
    const known = new Map(curve.steps.map((step, index) => [step, curve.values[index]]));
    news.steps.forEach((step, index) => known.set(step, news.values[index]));
    const steps = Array.from(known.keys()).sort((a, b) => a - b);
    return { ...curve, steps, values: steps.map((step) => known.get(step)) };
  }
  async function ask(url) {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  }
  function again(seconds, action) {
    setTimeout(async () => {
      let wait = seconds;
      if (!document.hidden) {
        try { if ((await action()) === false) return; } catch { wait = 5 * seconds; }
      }
      again(wait, action);
    }, 1000 * seconds);
  }
  if (data.live) {
    let after = data.live.after;
    let events = data.live.events;
    let state = document.querySelector("[data-live='state']").textContent;
    again(1, async () => {
      const news = await ask(data.live.url + "?after=" + after + "&events=" + events);
      after = news.after;
      events = news.events;
      const list = document.querySelector("#events ul");
      for (const each of list ? news.said : []) {
        const line = document.createElement("li");
        line.textContent = each.message;
        line.className = each.level;
        list.prepend(line);
      }
      const mark = document.querySelector("[data-live='state']");
      if (news.state !== state) {
        state = news.state;
        mark.textContent = state;
        mark.className = "state " + state;
      }
      write("says", news.says);
      write("quiet", news.quiet);
      const progress = document.getElementById("progress");
      progress.max = news.total || 1;
      progress.value = news.step || 0;
      for (const each of news.curves) {
        const chart = charts.get(each.chart);
        const at = chart ? chart.chart.curves.findIndex((curve) => curve.name === each.name) : -1;
        if (at < 0) { location.reload(); return false; } // a curve that this page has no place for yet
        chart.take(chart.chart.curves.map((curve, index) => (index === at ? grown(curve, each) : curve)));
        const tile = document.querySelector("[data-live='" + CSS.escape(each.name) + "']");
        if (tile) tile.textContent = each.last;
        const label = document.querySelector("[data-live='" + CSS.escape(each.name + " step") + "']");
        if (label) label.textContent = label.dataset.title + " at step " + each.steps[each.steps.length - 1];
      }
      if (news.final) { location.reload(); return false; }
      return true;
    });
  }

  // --- the list of runs (llmtune ui) -----------------------------------------------------------------------------------
  if (data.list) {
    const rows = Array.from(document.querySelectorAll("#list tbody tr"));
    const find = document.getElementById("find");
    const wanted = document.getElementById("state");
    const compare_ = document.getElementById("compare");
    const ticks = rows.map((row) => row.querySelector("input"));
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const state = (row) => row.cells[2].dataset.v;
    function filter() {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const text = texts[index] + " " + state(row);
        row.hidden = !(words.every((word) => text.includes(word)) && (!wanted.value || state(row) === wanted.value));
        if (!row.hidden) shown += 1;
      });
      write("found", shown === rows.length ? "" : shown + " of " + rows.length);
    }
    function ticked() {
      const amount = ticks.filter((tick) => tick.checked).length;
      compare_.disabled = amount < 2;
      compare_.textContent = amount ? "Compare " + amount : "Compare";
    }
    find.addEventListener("input", filter);
    wanted.addEventListener("change", filter);
    document.getElementById("list").addEventListener("change", ticked);
    filter();
    ticked();

    const cells = Array.from(document.querySelectorAll("[data-result]"));
    (async () => {
      for (let at = 0; at < cells.length; at += data.list.at_once) {
        const some = cells.slice(at, at + data.list.at_once);
        const asked = some.map((cell) => "run=" + encodeURIComponent(cell.dataset.result)).join("&");
        const found = await ask(data.list.results + "?" + asked);
        for (const cell of some) {
          const result = found[cell.dataset.result];
          if (!result) continue;
          cell.textContent = result.text;
          cell.dataset.v = result.value;
        }
      }
    })().catch(() => { /* the server has gone; the list stays as it is */ });

    const byId = new Map(rows.map((row, index) => [ticks[index].value, row]));
    let going = new Set(rows.filter((row) => row.querySelector(".running, .queued, .planned, .uploading, .submitting, "
      + ".finalizing, .paused, .cancelling")).map((row) => row.querySelector("input").value));
    again(2, async () => {
      const news = await ask(data.list.moving);
      const now = new Set(news.runs.map((run) => run.id));
      if (Array.from(going).some((id) => !now.has(id)) || news.known !== data.list.known) {
        if (!ticks.some((tick) => tick.checked) && !find.value) { location.reload(); return false; }
        write("found", "There is news: load the page again.");
        return false;
      }
      going = now;
      for (const run of news.runs) {
        const row = byId.get(run.id);
        if (!row) continue;
        const mark = row.querySelector(".state");
        mark.textContent = run.state;
        mark.className = "state " + run.state;
        row.cells[2].dataset.v = run.state;
        row.cells[4].textContent = run.steps;
        row.cells[4].dataset.v = run.step === null ? "" : run.step;
      }
      return true;
    });
  }

  // --- paper: light, everything open, charts as wide as the sheet ---------------------------------------------------------
  let closed = [];
  addEventListener("beforeprint", () => {
    root.dataset.printing = "";
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach((each) => { each.open = true; });
    charts.forEach((each) => each.draw());
  });
  addEventListener("afterprint", () => {
    delete root.dataset.printing;
    closed.forEach((each) => { each.open = false; });
    charts.forEach((each) => each.draw());
  });
})();
