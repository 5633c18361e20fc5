"use strict";
// Blue for more likely than not, orange for less; the number stands beside the colour, which alone says nothing.
const $ = (id) => document.getElementById(id);
const letter = (i) => String.fromCharCode(65 + i);
const percent = (p) => (p < 0.0005 ? "<0.1" : p > 0.9995 ? ">99.9" : (100 * p).toFixed(1)) + " %";
const equals = (p) => percent(p).replace(/^([<>])?/, (_, sign) => `${sign || "="} `);
const short = (x) => (x === null ? "–" : Math.abs(x) >= 1e4 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential(2) : x.toFixed(3));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const tiny = 1e-12;
const odds = {
  "log-odds": (x) => x,
  "probability": (p) => Math.log(Math.max(p, tiny)) - Math.log(Math.max(1 - p, tiny)),
  "log-probability": (l) => l - Math.log(Math.max(1 - Math.exp(l), tiny)),
};
const meaning = {
  "log-odds": "A score is a reward: only the difference between answers to the same prompt means something, and it is the log-odds that one is preferred.",
  "probability": "A score is the probability that the answer is right. A beats B here means: if exactly one of them is right, it is A.",
  "log-probability": "A score is the log-probability that the answer is right. A beats B here means: if exactly one of them is right, it is A.",
};
const cards = () => [...document.querySelectorAll(".answer")];

function tint(p) {
  const strength = Math.round(Math.abs(p - 0.5) * 90);
  return `color-mix(in srgb, var(${p >= 0.5 ? "--blue" : "--orange"}) ${strength}%, transparent)`;
}

function number() {
  cards().forEach((card, i) => {
    const box = card.querySelector("textarea");
    box.id = `answer-${i}`;
    card.querySelector("label").htmlFor = box.id;
    card.querySelector("label").textContent = `Answer ${letter(i)}`;
    card.querySelector(".remove").hidden = cards().length <= 2;
  });
  $("add").disabled = cards().length >= 8;
}

function forget() {
  $("result").hidden = true;
  for (const card of cards()) {
    card.classList.remove("best");
    card.querySelector(".judged").hidden = card.querySelector(".rank").hidden = true;
  }
}

function add() {
  const card = $("answer").content.firstElementChild.cloneNode(true);
  card.querySelector(".remove").addEventListener("click", () => { card.remove(); forget(); number(); });
  $("answers").append(card);
  number();
  return card;
}

function showSteps(list, steps) {
  list.replaceChildren(...steps.map((step) => {
    const item = document.createElement("li"), text = document.createElement("span"), chance = document.createElement("span");
    text.textContent = step.text;
    chance.textContent = percent(step.score);
    chance.className = "chance";
    item.className = step.score >= 0.5 ? "right" : "wrong";
    item.style.background = tint(step.score);
    item.append(text, chance);
    return item;
  }));
}

function showBeats(logits) {
  const table = $("beats");
  table.replaceChildren();
  table.createCaption().textContent = "P(row beats column)";
  const head = table.insertRow();
  head.append(document.createElement("th"), ...logits.map((_, i) => Object.assign(document.createElement("th"), { textContent: letter(i), scope: "col" })));
  logits.forEach((mine, i) => {
    const row = table.insertRow();
    row.append(Object.assign(document.createElement("th"), { textContent: letter(i), scope: "row" }));
    logits.forEach((other, j) => {
      const cell = row.insertCell();
      cell.textContent = i === j ? "" : percent(sigmoid(mine - other));
      if (i !== j) cell.style.background = tint(sigmoid(mine - other));
    });
  });
}

function show(answer) {
  const judged = answer.data[0].completions;
  judged.forEach((one, i) => {
    const card = cards()[i];
    card.classList.toggle("best", one.rank === 1);
    card.querySelector(".rank").textContent = one.rank === 1 ? "1st" : one.rank === 2 ? "2nd" : one.rank === 3 ? "3rd" : `${one.rank}th`;
    card.querySelector(".score").textContent = short(one.score);
    card.querySelector(".z").textContent = short(one.z);
    card.querySelector(".percentile").textContent = one.percentile === null ? "–" : one.percentile.toFixed(1);
    card.querySelector(".z").parentElement.hidden = one.z === null;
    card.querySelector(".percentile").parentElement.hidden = one.percentile === null;
    showSteps(card.querySelector(".steps"), one.steps);
    card.querySelector(".legend").hidden = one.steps.length === 0;
    card.querySelector(".judged").hidden = card.querySelector(".rank").hidden = false;
  });
  const logits = judged.map((one) => odds[answer.scale](one.score));
  const order = judged.map((_, i) => i).sort((a, b) => judged[a].rank - judged[b].rank);
  const [best, next] = order;
  $("verdict").textContent = judged[best].score === judged[next].score
    ? `${letter(best)} and ${letter(next)} are equally good to this model.`
    : `${letter(best)} is the best: P(${letter(best)} > ${letter(next)}) ${equals(sigmoid(logits[best] - logits[next]))}.`;
  $("meaning").textContent = meaning[answer.scale];
  showBeats(logits);
  $("result").hidden = false;
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  // A header holds bytes; a browser writes its characters as Latin-1, the server's key is UTF-8.
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value.trim()));
  if (key) headers["Authorization"] = `Bearer ${key}`;
  const response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail || `the server answered ${response.status}`);
  return answer;
}

async function compare(event) {
  event.preventDefault();
  if (!$("form").reportValidity()) return;
  $("compare").disabled = true;
  $("error").hidden = true;
  forget();
  try {
    const completions = cards().map((card) => card.querySelector("textarea").value);
    show(await ask("v1/rewards", { prompts: [$("prompt").value], completions: [completions] }));
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
  }
  $("compare").disabled = false;
}

async function watch() {
  let ready = false;
  try {
    ready = (await fetch("ready")).ok;
    if ($("model").textContent === "…") $("model").textContent = (await ask("v1/models")).data[0].id;
  } catch { /* the server is gone, or wants a key; it is asked again */ }
  $("state").textContent = ready ? "ready" : "not ready";
  $("state").classList.toggle("ready", ready);
  setTimeout(watch, ready ? 15000 : 1500);
}

$("form").addEventListener("submit", compare);
$("add").addEventListener("click", () => { forget(); add().querySelector("textarea").focus(); });
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) compare(event); });
add();
add();
watch();
