"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- Charts, drawn by uPlot.
let plots = [];
const WHOLE = [1, 10, 100, 1e3, 1e4, 1e5].flatMap((power) => [power, 2 * power, 5 * power]);

function format(value, percent) {
  if (value == null) return "";
  if (percent) return Number((100 * value).toPrecision(3)) + " %";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  for (const [size, letter] of [[1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + letter;
  return String(Number(value.toPrecision(3)));
}

// An exponential moving average without the bias of its start.
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    norm = norm * weight + 1 - weight;
    return sum / norm;
  });
}

// Every curve on top of those before it, the highest first: each is filled to the bottom, and lower ones cover it.
function stacked(curves) {
  const top = curves[0].y.map(() => 0);
  return curves.map((curve) => ({ ...curve, share: curve.y, y: curve.y.map((value, i) => (top[i] += value)) })).reverse();
}

function yRange(chart, low, high) {
  if (chart.stacked || low === null || (low === 0 && high === 0)) return [0, 1];
  return uPlot.rangeNum(chart.zero ? Math.min(0, low) : low, high, 0.08, true);
}

// The interval of each point, as a stroke: a band around a few points is hard to see.
function drawIntervals(plot) {
  const { ctx } = plot;
  plot.series.forEach((series, i) => {
    if (!series.hasInterval || !series.show || plot.data[0].length > 40) return;
    ctx.strokeStyle = series.stroke();
    ctx.lineWidth = devicePixelRatio;
    plot.data[0].forEach((x, at) => {
      if (plot.data[i + 1][at] == null || x < plot.scales.x.min || x > plot.scales.x.max) return;
      const place = plot.valToPos(x, "x", true);
      ctx.beginPath();
      ctx.moveTo(place, plot.valToPos(plot.data[i + 1][at], "y", true));
      ctx.lineTo(place, plot.valToPos(plot.data[i + 2][at], "y", true));
      ctx.stroke();
    });
  });
}

function draw(chart, figure) {
  const axis = byId("axis").value;
  let curves = chart.curves.map((curve) => ({ ...curve, x: data.axes[curve.axis][axis],
    y: curve.low ? curve.y : smoothed(curve.y, Number(byId("smoothing").value)) }));
  if (chart.stacked) curves = stacked(curves);
  const xName = axis === "step" ? "updates" : "minutes of training";
  const series = [{ label: axis === "step" ? "update" : "minute", value: (u, x) => (x == null ? "" : format(x)) }];
  const bands = [];
  for (const curve of curves) {
    const stroke = color(curve.color);
    series.push({
      label: curve.name, stroke, width: 1.8, spanGaps: true, hasInterval: Boolean(curve.low), fill: chart.stacked ? stroke : undefined,
      dash: curve.dashes ? [9 / curve.dashes, 4] : undefined, points: chart.stacked ? { show: false } : undefined,
      value: (u, y, i, at) => {
        const text = format(curve.share ? curve.share[at] : y, chart.percent);
        if (!curve.low || !text) return text;
        return `${text} [${format(u.data[i + 2][at], true)}, ${format(u.data[i + 1][at], true)}]`;
      },
    });
    if (!curve.low) continue;
    series.push(...["high", "low"].map((label) => ({ label, class: "edge", points: { show: false } })));
    bands.push({ series: [series.length - 2, series.length - 1], fill: stroke + "2b" });
  }
  const look = { stroke: color("soft"), grid: { stroke: color("rule"), width: 1 }, ticks: { stroke: color("rule") },
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18 };
  return new uPlot({
    ...sizeOf(figure), series, bands, class: chart.stacked ? "stacked" : undefined,
    scales: { x: { time: false }, y: { range: (u, low, high) => yRange(chart, low, high) } },
    axes: [
      { ...look, label: xName, size: 32, space: 60, incrs: axis === "step" ? WHOLE : undefined },
      { ...look, label: chart.unit, size: 52, values: (u, ticks) => ticks.map((tick) => format(tick, chart.percent)) },
    ],
    cursor: { sync: { key: "report" }, drag: { x: true, y: false } },
    hooks: { draw: [drawIntervals] },
  }, uPlot.join(curves.map((curve) => [curve.x, curve.y, ...(curve.low ? [curve.high, curve.low] : [])])), figure);
}

const sizeOf = (figure) => ({ width: figure.clientWidth - 24, height: 240 });

function drawAll() {
  const word = byId("filter").value.toLowerCase();
  for (const plot of plots) plot.destroy();
  byId("charts").replaceChildren();
  plots = [];
  for (const chart of data.charts) {
    if (![chart.title, ...chart.curves.map((curve) => curve.name)].some((text) => text.toLowerCase().includes(word))) continue;
    const figure = element("figure");
    figure.append(element("figcaption", "", chart.title));
    byId("charts").append(figure);
    plots.push(draw(chart, figure));
    if (chart.note) figure.append(element("p", "", chart.note));
  }
  zoom();
}

// Show the part of all curves that the two sliders say.
function zoom() {
  const xs = data.axes.flatMap((axis) => axis[byId("axis").value]);
  const first = xs.reduce((a, b) => Math.min(a, b), Infinity), last = xs.reduce((a, b) => Math.max(a, b), -Infinity);
  const [from, to] = ["from", "to"].map((id) => Number(byId(id).value) / 100).sort((a, b) => a - b);
  if (first === last || from === to) return;
  for (const plot of plots) plot.setScale("x", { min: first + from * (last - first), max: first + to * (last - first) });
}

if (data.charts.length) {
  byId("curves").hidden = false;
  byId("axis").value = data.axis;
  byId("smoothing").value = data.smoothing;
  for (const id of ["axis", "smoothing", "filter"]) byId(id).addEventListener("input", drawAll);
  for (const id of ["from", "to"]) byId(id).addEventListener("input", zoom);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("resize", () => plots.forEach((plot) => plot.setSize(sizeOf(plot.root.parentElement))));
  drawAll();
}

// ---- The sample programs. Their text only ever becomes text nodes.
const PAGE = 10;
const samples = data.samples;
const anchor = (sample) => "#sample-" + encodeURIComponent(`${sample.run}/${sample.refresh}/${sample.completion_id}`);

function codeOf(turn) {
  const code = element("pre", "code");
  const most = Math.max(...turn.tokens.map((token) => Math.abs(token[1])), 1e-9);
  let line = 1;
  let row = null;
  const newRow = () => {
    row = element("span", line === turn.error_line ? "row error" : "row");
    row.dataset.line = line++;
    code.append(row);
  };
  newRow();
  const last = turn.tokens.at(-1);
  if (last) last[0] = last[0].trimEnd();
  for (const [text, weight] of turn.tokens) {
    text.split("\n").forEach((part, index) => {
      if (index > 0) newRow();
      if (!part) return;
      const span = element("span", "", part);
      if (Math.abs(weight) > 1e-6) {
        const shade = weight < 0 ? "--bad" : "--good";
        span.style.background = `rgba(var(${shade}), ${(0.08 + 0.42 * Math.abs(weight) / most).toFixed(3)})`;
        span.title = "weight " + weight;
      }
      row.append(span);
    });
  }
  return code;
}

function badgeOf(outcome) {
  const badge = element("span", "badge", outcome.replaceAll("_", " "));
  badge.style.background = `var(--o-${outcome})`;
  return badge;
}

// A turn of a dialogue: its outcome, its program, and what the model read next.
function turnOf(turn, index) {
  const section = element("section", "turn");
  const heading = element("h3", "", `Turn ${index + 1}`);
  heading.append(element("span", "facts", turn.feedback == null ? "all tests" : "examples"), badgeOf(turn.outcome));
  section.append(heading, codeOf(turn));
  if (turn.feedback != null)
    section.append(element("div", "facts", "What the model read next"), element("blockquote", "", turn.feedback));
  return section;
}

function cardOf(sample) {
  const card = element("article", "program");
  card.id = anchor(sample).slice(1);
  const header = element("header");
  const turns = [...sample.earlier, sample];
  const passed = sample.tests.filter((test) => test === "passed").length;
  const facts = `${passed} of ${sample.tests.length} tests, reward ${sample.reward.toFixed(2)}, refresh ${sample.refresh}`
    + (turns.length > 1 ? `, ${turns.length} turns` : "");
  const link = element("a", "facts", "link");
  link.href = anchor(sample);
  header.append(badgeOf(sample.outcome), element("code", "", sample.task_id), element("span", "facts", facts), link);
  const more = element("div", "more");
  if (sample.error_type) {
    const place = sample.error_line ? ` in line ${sample.error_line}` : "";
    more.append(element("div", "", `${sample.error_type}${place}: ${sample.error_message}`));
  }
  const tests = element("div", "tests");
  for (const outcome of sample.tests) {
    const mark = element("i");
    mark.style.background = `var(--o-${outcome}, var(--rule))`;
    mark.title = outcome;
    tests.append(mark);
  }
  more.append(tests);
  const parts = [["Failing test", sample.failing_test, true], ["What came out", sample.actual, true],
    ["Problem", sample.statement, false]];
  for (const [name, text, open] of parts) {
    if (text == null) continue;
    const part = element("details");
    part.open = open;
    part.append(element("summary", "", name), element("pre", "", text));
    more.append(part);
  }
  card.append(header, ...(turns.length > 1 ? turns.map(turnOf) : [codeOf(sample)]), more);
  return card;
}

// Mark the rows of a program that are new since the one `before`, a list of lines, and put the lines that are gone
// between them. What both have is a longest common subsequence; common[i * width + j] is its length from lines i and j on.
function compare(before, code) {
  const rows = [...code.children], after = linesOf(code);
  const width = after.length + 1;
  const common = new Uint16Array((before.length + 1) * width);
  for (let i = before.length - 1; i >= 0; i--)
    for (let j = after.length - 1; j >= 0; j--)
      common[i * width + j] = before[i] === after[j] ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  let i = 0;
  rows.forEach((row, j) => {
    for (; i < before.length && before[i] !== after[j] && common[(i + 1) * width + j] === common[i * width + j]; i++)
      row.before(element("span", "row removed", before[i]));
    if (i < before.length && before[i] === after[j]) i++;
    else row.classList.add("added");
  });
  code.append(...before.slice(i).map((line) => element("span", "row removed", line)));
}

const linesOf = (code) => [...code.children].map((row) => row.textContent);

// Show or hide what each turn changed. Programs are compared when that is first asked for.
function showChanges() {
  const shown = byId("programs");
  shown.classList.toggle("changes", byId("changes").checked);
  if (!byId("changes").checked) return;
  for (const card of shown.querySelectorAll(".program:not(.compared)")) {
    card.classList.add("compared");
    const codes = [...card.querySelectorAll(".code")];
    const lines = codes.map(linesOf);
    codes.slice(1).forEach((code, i) => compare(lines[i], code));
  }
}

const chosen = { run: byId("run"), refresh: byId("refresh"), outcome: byId("outcome"), dialogue: byId("dialogue") };
let matching = [];

function showMore() {
  const shown = byId("programs").childElementCount;
  byId("programs").append(...matching.slice(shown, shown + PAGE).map(cardOf));
  byId("more").hidden = byId("programs").childElementCount >= matching.length;
  showChanges();
}

function show(found) {
  matching = found;
  byId("programs").replaceChildren();
  byId("found").textContent = `${matching.length} of ${samples.length} programs`;
  showMore();
}

function applyFilters() {
  const word = byId("search").value.toLowerCase();
  show(samples.filter((sample) =>
    Object.entries(chosen).every(([name, select]) => !select.value || String(sample[name]) === select.value) &&
    [sample.task_id, sample.completion_id, sample.statement, sample.error_type, sample.error_message, sample.failing_test,
      ...[...sample.earlier, sample].flatMap((turn) => [turn.feedback, turn.tokens.map((token) => token[0]).join("")]),
    ].some((text) => (text ?? "").toLowerCase().includes(word))));
}

// The address of a sample shows this one alone.
function showAnchor() {
  if (!location.hash.startsWith("#sample-")) return;
  const found = samples.filter((sample) => anchor(sample) === location.hash);
  show(found);
  if (!found.length) byId("found").textContent = "This sample is no longer in the report; its run folder has it in samples/.";
  byId("browser").scrollIntoView();
}

if (samples.length) {
  byId("browser").hidden = false;
  for (const [name, select] of Object.entries(chosen)) {
    const values = new Set(samples.map((sample) => String(sample[name])));
    select.append(new Option("all", ""));
    for (const value of values) select.append(new Option(value.replaceAll("_", " "), value));
    select.parentElement.hidden = values.size < 2;
    select.addEventListener("change", applyFilters);
  }
  byId("search").addEventListener("input", applyFilters);
  byId("changes").parentElement.hidden = samples.every((sample) => !sample.earlier.length);
  byId("changes").addEventListener("change", showChanges);
  byId("more").addEventListener("click", showMore);
  addEventListener("hashchange", showAnchor);
  applyFilters();
  showAnchor();
}
