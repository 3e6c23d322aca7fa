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
  const [number, unit] = inUnit(Math.round((at - Date.now()) / 1000));
  return relative.format(number, unit);
}

function inUnit(seconds) {
  // At least two of a unit, so that rounding hides little: 118 minutes and not 1 hour.
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= 2 * size) || UNITS[3];
  return [Math.round(seconds / size), unit];
}

function spanText(seconds) {
  const [number, unit] = inUnit(seconds);
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "narrow" }).format(number);
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
const SCROLLS = ".scroll, .tabs, pre";
const TYPED = "input:not([type=checkbox], [type=hidden]), select, textarea";

function swap(id, markup) {
  const element = document.getElementById(id);
  held.delete(id);
  if (!element || shown.get(id) === markup) return;
  const active = document.activeElement;
  if (active && element.contains(active) && active.matches(TYPED)) { held.set(id, markup); return; }
  const focused = active && active !== element && element.contains(active) ? placeOf(active, element) : null;
  const open = [...element.querySelectorAll("details")].map((each) => each.open);
  const typed = typedIn(element);
  const current = aboutOf(element.querySelector("tr.current"));
  const scrolled = [...element.querySelectorAll(SCROLLS)].map((each) => [each.scrollLeft, each.scrollTop]);
  element.innerHTML = markup;
  shown.set(id, markup);
  element.querySelectorAll("details").forEach((each, index) => { if (open[index] !== undefined) each.open = open[index]; });
  for (const each of element.querySelectorAll(TYPED)) each.value = typed.get(nameOf(each)) ?? each.value;
  if (current) rowAbout(current, element)?.classList.add("current");
  showChosen();
  element.querySelectorAll(SCROLLS).forEach((each, index) => {
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
  const about = aboutOf(row);
  return { about, path: pathOf(node, about ? row : root), text: node.textContent };
}

function aboutOf(row) {
  return row?.querySelector("a")?.href;
}

function rowAbout(about, root) {
  return [...root.querySelectorAll("tr")].find((row) => aboutOf(row) === about);
}

function atPlace({ about, path, text }, root) {
  if (about) root = rowAbout(about, root);
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

// What was typed into the fields of a part, also before a form was refused.
function typedIn(root) {
  const fields = [...root.querySelectorAll(TYPED)].filter((each) => each.value !== each.defaultValue || "given" in each.dataset);
  return new Map(fields.map((each) => [nameOf(each), each.value]));
}

// Of several forms with the same fields, the hidden ones tell which thing each is about.
function nameOf(field) {
  const hidden = [...(field.form?.elements ?? [])].filter((each) => each.type === "hidden");
  return [field.form?.getAttribute("action"), field.name, ...hidden.map((each) => each.value)].join("\n");
}

// ---- boxes that are ticked stay so when their rows leave the page ----

const checkAll = document.querySelector("[data-check]"); // the button for every box of a name
const chosen = new Set(); // the values of those that are ticked
const count = document.createElement("span");

function boxes() {
  return checkAll ? [...document.querySelectorAll(`input[type=checkbox][name="${checkAll.dataset.check}"]`)] : [];
}

function choose(some, ticked) {
  for (const each of some) ticked ? chosen.add(each) : chosen.delete(each);
  showChosen();
}

function showChosen() {
  if (!checkAll) return;
  const here = boxes();
  for (const each of here) each.checked = chosen.has(each.value);
  const elsewhere = [...chosen].filter((value) => !here.some((each) => each.value === value));
  const said = elsewhere.length ? body.dataset.chosenElsewhere : body.dataset.chosen;
  count.querySelector(".said").textContent = said.replace("{count}", chosen.size).replace("{other}", elsewhere.length);
  count.querySelector(".elsewhere").replaceChildren(...elsewhere.map((value) => {
    const field = document.createElement("input");
    return Object.assign(field, { type: "hidden", name: checkAll.dataset.check, value });
  }));
  count.hidden = !chosen.size;
}

if (checkAll) {
  count.className = "chosen";
  count.innerHTML = '<span class="said" role="status"></span><span class="elsewhere"></span><button type="button" class="button quiet"></button>';
  count.lastChild.textContent = body.dataset.clear;
  count.lastChild.addEventListener("click", () => choose([...chosen], false));
  checkAll.after(count);
  checkAll.hidden = false;
  checkAll.addEventListener("click", () => {
    const here = boxes();
    choose(here.map((each) => each.value), here.some((each) => !each.checked));
  });
  document.addEventListener("change", ({ target }) => {
    if (boxes().includes(target)) choose([target.value], target.checked);
  });
  const keep = () => choose(boxes().filter((each) => each.checked).map((each) => each.value), true);
  keep();
  addEventListener("pageshow", keep); // the browser may have ticked them again, on the way back
}

// ---- live: asking for what has changed ----

const live = document.getElementById("live-switch");
const slow = document.getElementById("slow");
const known = new Map(); // the digest of each part that this page has
const LATE = 9; // whole seconds after which what is shown counts as old: that is told within 10
const RETRY = 5; // seconds after which a request that has failed is repeated
const TIMEOUT = 6; // seconds in which an answer has to come; a page takes at most 5

let asking = null; // the request under way
let timer = 0;
let readAt = Date.now(); // when the store was read for what is shown
let awakeAt = readAt; // since when it should be read again, if later
let slowUntil = 0; // how long it is told that this takes long
let problem = ""; // why this page is not updated
let ended = false; // the login

async function ask() {
  const request = asking = new AbortController();
  const late = setTimeout(() => request.abort(), TIMEOUT * 1000);
  let again = RETRY;
  try {
    const wanted = new URLSearchParams(body.dataset.query); // a form that was refused has another address than its page
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

function apply({ parts, age, at, again }) {
  for (const [id, digest, markup] of parts) {
    known.set(id, digest);
    swap(id, markup);
  }
  if (held.size) awakeAt = Date.now();
  else [readAt, slow.lastElementChild.textContent] = [Date.now() - age * 1000, at];
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
  const now = Date.now(), age = Math.max(0, Math.floor((now - readAt) / 1000));
  live.setAttribute("aria-pressed", String(isOn()));
  live.classList.toggle("lost", isOn() && problem !== "");
  live.classList.toggle("old", isOn() && age >= LATE);
  live.querySelector(".label").textContent = !isOn() ? live.dataset.off : problem ? live.dataset.stale : live.dataset.on;
  live.querySelector(".age").textContent = spanText(age);
  if (isOn() && !problem && !held.size && now - Math.max(readAt, awakeAt) >= LATE * 1000) slowUntil = now + 2 * LATE * 1000;
  slow.hidden = !isOn() || problem !== "" || ended || now >= slowUntil;
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

function wake() {
  awakeAt = Date.now();
  update();
}

if (live && document.querySelector("[data-live]")) {
  live.hidden = false;
  live.addEventListener("click", () => {
    localStorage.setItem(LIVE_KEY, isOn() ? "off" : "on");
    wake();
  });
  document.addEventListener("visibilitychange", wake);
  addEventListener("storage", wake);
  addEventListener("pagehide", sleep);
  addEventListener("pageshow", (event) => { timer = setTimeout(wake, event.persisted ? 0 : 1000); });
  setInterval(() => { if (!document.hidden) show(); }, 1000);
  show();
}

// ---- keys ----

let row = -1; // where the current one was last

function move(step) {
  const rows = [...document.querySelectorAll("table.rows tbody tr")];
  if (!rows.length) return;
  const current = rows.findIndex((each) => each.classList.contains("current"));
  rows[current]?.classList.remove("current");
  row = Math.min(rows.length - 1, Math.max(0, (current < 0 ? row : current) + step));
  rows[row].classList.add("current");
  rows[row].querySelector("a")?.focus();
  rows[row].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches(TYPED)) { if (event.key === "Escape") event.target.blur(); }
  else if (event.key === "/" && document.getElementById("search")) { event.preventDefault(); document.getElementById("search").focus(); }
  else if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "r") location.reload();
});

for (const each of document.querySelectorAll(".keys")) each.hidden = false;
for (const each of document.querySelectorAll(":is(.menu, .tabs) [aria-current]")) { // they scroll where the screen is narrow
  each.scrollIntoView({ block: "nearest", inline: "center" });
}
refreshTimes(document);
makeCopies(document);
setInterval(() => { if (!document.hidden) refreshTimes(document); }, 1000);
