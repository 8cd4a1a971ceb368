"use strict";
// Without this script the page is a plain document; with it, one can search and filter.
const $ = (id) => document.getElementById(id);
const groups = [...document.querySelectorAll("article")];
const entries = new Map([...document.querySelectorAll("#list li")].map((item) => [item.firstElementChild.hash.slice(1), item]));
const texts = new Map(groups.map((group) => [group, group.textContent.toLowerCase()]));
const distinct = (values) => [...new Set(values)].filter((value) => value !== undefined);
const kinds = distinct(groups.map((group) => group.dataset.kind)).sort();
const domains = distinct([...document.querySelectorAll(".side")].map((side) => side.dataset.domain));
const shown = () => groups.filter((group) => !group.hidden);

for (const kind of kinds) $("kind").append(new Option(kind, kind));
$("kinds").hidden = kinds.length < 2;
for (const domain of domains) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: domain });
  label.append(box, " " + domain);
  $("domains").append(label);
}
$("domains").hidden = domains.length < 2;

function filter() {
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("kind").value;
  for (const group of groups) {
    const text = texts.get(group);
    group.hidden = (kind !== "" && group.dataset.kind !== kind) || !words.every((word) => text.includes(word));
    entries.get(group.id).hidden = group.hidden;
  }
  const count = shown().length;
  $("found").textContent = `${count} of the ${groups.length} groups on this page`;
}

function columns() {
  const wanted = new Set([...$("domains").querySelectorAll("input:checked")].map((box) => box.value));
  for (const side of document.querySelectorAll(".side")) side.hidden = !wanted.has(side.dataset.domain);
}

function step(by) {
  const visible = shown();
  const at = visible.findLastIndex((group) => group.getBoundingClientRect().top < 40);
  visible[Math.max(0, Math.min(visible.length - 1, at + by))]?.scrollIntoView();
}

$("filter").hidden = false;
document.querySelector(".keys").hidden = false;
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("text").addEventListener("input", filter);
$("kind").addEventListener("change", filter);
$("domains").addEventListener("change", columns);
$("mark").addEventListener("change", () => document.body.classList.toggle("marked", $("mark").checked));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
// A graph wider than its frame begins in the middle; its width is known once it is drawn.
const middle = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    target.scrollLeft = (target.scrollWidth - target.clientWidth) / 2;
    middle.unobserve(target);
  }
});
for (const graph of document.querySelectorAll(".dag")) middle.observe(graph);
filter(); // a browser that reloads keeps what was typed
columns();
document.body.classList.toggle("marked", $("mark").checked);
