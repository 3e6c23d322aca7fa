"use strict";
// Live updates, relative times, copying, and keys. Every page works without this script, too.

const body = document.body;
const language = document.documentElement.lang;
const LIVE_KEY = "aiotaskq-live";

// ---- times: "3 min ago" beside the full time, which stays in the title ----

const relative = new Intl.RelativeTimeFormat(language, { numeric: "always", style: "short" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(element) {
  const at = Date.parse(element.dateTime);
  if (Number.isNaN(at)) return;
  if (!element.dataset.full) element.dataset.full = element.textContent;
  const text = sinceText(at);
  if (element.textContent !== text) element.textContent = text;
  element.title = element.dataset.full;
}

function sinceText(at) {
  const seconds = Math.round((at - Date.now()) / 1000);
  // At least two of a unit, so that rounding hides little: 118 minutes and not 1 hour.
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= 2 * size) || UNITS[3];
  return relative.format(Math.round(seconds / size), unit);
}

function refreshTimes(root) {
  for (const element of root.querySelectorAll("time[data-ago]")) ago(element);
}

// ---- copying ----

function makeCopies(root) {
  if (!navigator.clipboard) return; // browsers have it on encrypted pages and on localhost only
  for (const element of root.querySelectorAll(".copy")) {
    if (element.querySelector("button")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "button quiet";
    button.textContent = body.dataset.copy;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(element.dataset.text);
      button.textContent = body.dataset.copied;
      setTimeout(() => { button.textContent = body.dataset.copy; }, 1500);
    });
    element.append(" ", button);
  }
}

// ---- live: parts of the page that have changed ----

const shown = new Map(); // the markup of each part, as it came
const held = new Map(); // that of parts that changed while somebody was typing in them

function swap(id, markup) {
  const element = document.getElementById(id);
  held.delete(id);
  if (!element || shown.get(id) === markup) return;
  const active = document.activeElement;
  if (active && element.contains(active) && active.matches("input, select, textarea")) { held.set(id, markup); return; }
  const focused = active && active !== element && element.contains(active) ? placeOf(active, element) : null;
  const open = [...element.querySelectorAll("details")].map((each) => each.open);
  const checked = new Set([...element.querySelectorAll("input:checked")].map((each) => each.name + "=" + each.value));
  const scrolled = [...element.querySelectorAll(".scroll, pre")].map((each) => [each.scrollLeft, each.scrollTop]);
  element.innerHTML = markup;
  shown.set(id, markup);
  element.querySelectorAll("details").forEach((each, index) => { if (open[index] !== undefined) each.open = open[index]; });
  for (const each of element.querySelectorAll("input[type=checkbox]")) each.checked = checked.has(each.name + "=" + each.value);
  element.querySelectorAll(".scroll, pre").forEach((each, index) => {
    if (scrolled[index]) [each.scrollLeft, each.scrollTop] = scrolled[index];
  });
  refreshTimes(element);
  makeCopies(element);
  if (focused) atPlace(focused, element)?.focus({ preventScroll: true });
}

document.addEventListener("focusout", () => {
  // Later: a click that has moved the focus must still find its button.
  if (held.size) setTimeout(() => { for (const [id, markup] of held) swap(id, markup); }, 500);
});

// The place of the focus: in the row with the same first link, else the same text, so that it never moves to a button
// that does something else.
function placeOf(node, root) {
  const row = node.closest("tr");
  const about = row?.querySelector("a")?.href;
  return { about, path: pathOf(node, about ? row : root), text: node.textContent };
}

function atPlace({ about, path, text }, root) {
  if (about) root = [...root.querySelectorAll("tr")].find((row) => row.querySelector("a")?.href === about);
  const node = nodeAt(path, root);
  return about || !node?.matches("a, button") || node.textContent === text ? node : null;
}

function pathOf(node, root) {
  const path = [];
  for (; node !== root; node = node.parentElement) path.unshift([...node.parentElement.children].indexOf(node));
  return path;
}

function nodeAt(path, root) {
  return path.reduce((node, index) => node?.children[index], root);
}

const live = document.getElementById("live-switch");
const known = new Map(); // the digest of each part that this page has
const LATE = 10; // seconds after which the age of what is shown is told
const RETRY = 5; // seconds after which a request that has failed is repeated
const TIMEOUT = 15; // seconds in which an answer has to come

let asking = null; // the request under way
let timer = 0;
let readAt = Date.now(); // when the store was read for what is shown
let problem = ""; // why this page is not updated
let ended = false; // the login

async function ask() {
  const request = asking = new AbortController();
  const late = setTimeout(() => request.abort(), TIMEOUT * 1000);
  let again = RETRY;
  try {
    const wanted = new URLSearchParams(location.search);
    wanted.set("page", body.dataset.page);
    wanted.set("known", [...known.values()].join());
    const answer = await fetch("live?" + wanted, { signal: request.signal, redirect: "manual" });
    if (answer.status === 401 || answer.status === 403 || answer.type === "opaqueredirect") endLogin();
    else if (answer.ok) again = apply(await answer.json());
    else problem = (await answer.json().catch(() => ({}))).detail || live.dataset.lost;
  } catch {
    problem = live.dataset.lost;
  }
  clearTimeout(late);
  if (asking !== request) return; // the page was hidden or paused meanwhile
  asking = null;
  show();
  if (!ended) timer = setTimeout(update, again * 1000);
}

function apply({ parts, age, again }) {
  for (const [id, digest, markup] of parts) {
    known.set(id, digest);
    swap(id, markup);
  }
  readAt = Date.now() - age * 1000;
  problem = "";
  return again;
}

function endLogin() {
  ended = true;
  problem = "";
  document.getElementById("login-ended").hidden = false;
  live.hidden = true;
}

function sleep() {
  clearTimeout(timer);
  const request = asking;
  asking = null;
  request?.abort();
}

function isOn() {
  return localStorage.getItem(LIVE_KEY) !== "off";
}

function show() {
  const old = Date.now() - readAt > LATE * 1000;
  live.setAttribute("aria-pressed", String(isOn()));
  live.classList.toggle("lost", isOn() && problem !== "");
  live.classList.toggle("old", isOn() && old);
  const age = old && isOn() ? " · " + sinceText(readAt) : "";
  live.querySelector(".label").textContent = (!isOn() ? live.dataset.off : problem ? live.dataset.stale : live.dataset.on) + age;
  const said = document.getElementById("not-updated");
  said.hidden = !isOn() || !problem;
  if (said.lastElementChild.textContent !== problem) said.lastElementChild.textContent = problem;
}

function update() {
  if (ended) return;
  sleep();
  if (isOn() && !document.hidden) ask();
  show();
}

if (live && document.querySelector("[data-live]")) {
  live.hidden = false;
  live.addEventListener("click", () => {
    localStorage.setItem(LIVE_KEY, isOn() ? "off" : "on");
    update();
  });
  document.addEventListener("visibilitychange", update);
  addEventListener("storage", update);
  addEventListener("pagehide", sleep);
  addEventListener("pageshow", (event) => { timer = setTimeout(update, event.persisted ? 0 : 1000); });
  setInterval(() => { if (!document.hidden) show(); }, 1000);
}

// ---- checking every box of a name, or none ----

for (const button of document.querySelectorAll("[data-check]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const boxes = [...document.querySelectorAll(`input[type=checkbox][name="${button.dataset.check}"]`)];
    const wanted = boxes.some((each) => !each.checked);
    for (const each of boxes) each.checked = wanted;
  });
}

// ---- keys ----

let row = -1;

function move(step) {
  const rows = [...document.querySelectorAll("table.rows tbody tr")];
  if (!rows.length) return;
  rows[row]?.classList.remove("current");
  row = Math.min(rows.length - 1, Math.max(0, row + step));
  rows[row].classList.add("current");
  rows[row].querySelector("a")?.focus();
  rows[row].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "/" && document.getElementById("search")) { event.preventDefault(); document.getElementById("search").focus(); }
  else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "r") location.reload();
});

for (const each of document.querySelectorAll(".keys")) each.hidden = false;
refreshTimes(document);
makeCopies(document);
setInterval(() => { if (!document.hidden) refreshTimes(document); }, 1000);
