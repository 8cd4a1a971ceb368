"use strict";
// Without this script the page is a document with tables; with it, figures are drawn as they come into sight.
const $ = (id) => document.getElementById(id);
const themes = JSON.parse($("themes").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const figures = new Map([...document.querySelectorAll(".figure")].map((node) => [node, null]));

// Colours stand in a figure as roles ("@ink", "@c1/0.2"), under keys whose names end in color or colorscale.
function resolve(value, theme, key = "") {
  if (Array.isArray(value)) return value.map((item) => resolve(item, theme, key));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolve(item, theme, name)]));
  const role = typeof value === "string" && /color(scale)?$/.test(key) && value.match(/^@([a-z]+\d?)(?:\/([\d.]+))?$/);
  if (!role) return value;
  const colour = theme[role[1]];
  if (Array.isArray(colour)) return colour.map((step, i) => [i / (colour.length - 1), step]);
  if (!role[2]) return colour;
  const part = (i) => parseInt(colour.slice(i, i + 2), 16);
  return `rgba(${part(1)},${part(3)},${part(5)},${role[2]})`;
}

function state(node) {
  if (figures.get(node) === null) {
    const spec = JSON.parse(node.querySelector("script").textContent);
    const last = spec.frames ? spec.frames.labels.length - 1 : 0;
    figures.set(node, { spec, frame: last, off: new Set(), plot: node.querySelector(".plot"), drawn: false, width: 0 });
    legend(node);
    if (spec.frames && last > 0) slider(node, last);
  }
  return figures.get(node);
}

function draw(node) {
  const of = state(node);
  of.width = of.plot.clientWidth;
  if (of.width === 0) return;
  const theme = themes[dark.matches ? "dark" : "light"];
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const layout = resolve(narrow ? of.spec.narrow : of.spec.layout, theme);
  if (coarse.matches) layout.dragmode = false;
  layout.width = of.width;
  const data = resolve(of.spec.data, theme);
  data.forEach((trace, i) => {
    trace.visible = !of.off.has(trace.legendgroup);
    if (of.spec.frames) Object.assign(trace, frame(of, i));
  });
  Plotly.react(of.plot, data, layout, { displayModeBar: false, responsive: false });
  of.drawn = true;
}

function frame(of, trace) {
  const z = of.spec.frames.z[of.frame][trace];
  return { z, customdata: of.spec.frames.values?.[of.frame][trace] ?? z };
}

function legend(node) {
  const of = figures.get(node);
  const entries = new Map();
  for (const trace of of.spec.data)
    if (trace.legendgroup !== undefined && trace.showlegend !== false && !entries.has(trace.legendgroup))
      entries.set(trace.legendgroup, trace);
  if (entries.size < 2) return;
  for (const [name, trace] of entries) {
    const colour = `var(--${(trace.line ?? trace.marker).color.slice(1)})`;
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(swatch(trace, colour), label(trace.name));
    button.addEventListener("click", () => {
      of.off.has(name) ? of.off.delete(name) : of.off.add(name);
      button.setAttribute("aria-pressed", String(!of.off.has(name)));
      draw(node);
    });
    node.querySelector(".legend").append(button);
  }
  node.querySelector(".legend").hidden = false;
}

// A trace's name is escaped for plotly, which reads markup.
function label(name) {
  const signs = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };
  return name.replace(/&(?:lt|gt|amp);/g, (sign) => signs[sign]);
}

function swatch(trace, colour) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", trace.line ? "line" : "path");
  const dashes = { dot: "2 3", dash: "6 4", dashdot: "7 3 2 3" };
  const signs = { diamond: "M7 .5L12.5 6L7 11.5L1.5 6Z", square: "M2.5 1.5H11.5V10.5H2.5Z" };
  const shape = trace.line
    ? { x1: 1, x2: 21, y1: 6, y2: 6, stroke: colour, "stroke-width": 2.4, "stroke-dasharray": dashes[trace.line.dash] ?? "none" }
    : { d: signs[trace.marker.symbol] ?? "M2.5 6a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", fill: colour };
  svg.setAttribute("width", trace.line ? 22 : 14);
  svg.setAttribute("height", 12);
  svg.setAttribute("aria-hidden", "true");
  for (const [name, value] of Object.entries(shape)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

function slider(node, last) {
  const of = figures.get(node);
  const [bar, play, range, told] = [".slider", ".slider button", ".slider input", ".slider output"].map((s) => node.querySelector(s));
  let timer = null;
  const show = (index) => {
    of.frame = index;
    range.value = index;
    told.textContent = of.spec.frames.labels[index];
    range.setAttribute("aria-valuetext", told.textContent);
    if (!of.drawn) return;
    const update = of.spec.data.map((_, i) => frame(of, i));
    Plotly.restyle(of.plot, { z: update.map((u) => u.z), customdata: update.map((u) => u.customdata) });
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
  };
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (of.frame === last) show(0);
    play.textContent = "❚❚ Pause";
    timer = setInterval(() => (of.frame >= last || node.hidden ? stop() : show(of.frame + 1)), 220);
  });
  range.addEventListener("input", () => {
    stop();
    show(Number(range.value));
  });
  range.max = last;
  bar.hidden = false;
  show(last);
}

// Figures are drawn when they come near; a hidden one has no place and comes near when it is shown.
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting && !figures.get(target)?.drawn) draw(target);
  },
  { rootMargin: "400px" },
);
for (const node of figures.keys()) near.observe(node);
const redraw = () => figures.forEach((of, node) => of?.drawn && draw(node));
dark.addEventListener("change", redraw);
addEventListener("beforeprint", () => {
  figures.forEach((_, node) => draw(node));
  // What must be known before believing a figure belongs on paper too.
  for (const folded of document.querySelectorAll(".reservations details")) folded.open = true;
});
new ResizeObserver(() => requestAnimationFrame(() => figures.forEach((of, node) => of?.drawn && of.plot.clientWidth !== of.width && draw(node)))).observe(document.body);

// One run at a time, the same everywhere where there is a choice.
const choices = [...document.querySelectorAll("select.run")];
function choose(run) {
  for (const select of choices) {
    if (![...select.options].some((option) => option.value === run)) continue;
    select.value = run;
    for (const node of select.closest(".choice").querySelectorAll(".figure")) node.hidden = node.dataset.run !== run;
  }
}
for (const select of choices) select.addEventListener("change", () => choose(select.value));
for (const select of choices) choose(select.value);
const masked = document.querySelector("[id^=figure-mask-]");
if (masked) choose(masked.dataset.run); // of a run with a mask there is most to see

const headings = [...document.querySelectorAll("main > section")];
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(
  () => {
    const at = headings.findLast((section) => section.getBoundingClientRect().top < 160) ?? headings[0];
    links.forEach((link, id) => link.classList.toggle("here", id === at.id));
  },
  { rootMargin: "-140px 0px -60% 0px", threshold: [0, 0.02, 0.1, 0.5, 1] },
);
for (const section of headings) reading.observe(section);

const groups = [...document.querySelectorAll(".group")];
if (groups.length > 0) {
  const texts = new Map(groups.map((group) => [group, group.textContent.toLowerCase()]));
  const filters = [...document.querySelectorAll(".filter select")];
  for (const select of filters) {
    const values = new Set(groups.flatMap((group) => (group.dataset[select.name] ?? "").split("\n").filter(Boolean)));
    for (const value of values) select.append(new Option(value, value));
    select.closest("label").hidden = values.size < 2;
  }
  const filter = () => {
    const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const group of groups) {
      const fits = filters.every((s) => s.value === "" || (group.dataset[s.name] ?? "").split("\n").includes(s.value));
      group.hidden = !fits || !words.every((word) => texts.get(group).includes(word));
    }
    $("found").textContent = `${groups.filter((group) => !group.hidden).length} of the ${groups.length} groups on this page`;
  };
  document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".filter").addEventListener("input", filter);
  document.querySelector(".filter").hidden = false;
  filter();
}
