"use strict";

// Borders of the colours, in bits; page.css has a colour for each.
const BORDERS = [0, 1, 2, 3, 5, 7, 9, 12];
const element = (id) => document.getElementById(id);
const counted = (number) => number.toLocaleString("en");
const fixed = (number, digits) => number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
let limits = { text_bytes: Infinity, new_tokens: 1000 };

// ---- Text, token by token ----

function heat(bits) {
  return BORDERS.findLastIndex((border) => bits >= border || border === 0);
}

/** A text that grows by tokens. Tokens that leave a character unfinished are shown with the one that completes it. */
class TokenText {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.held = { bits: 0, tokens: 0 };
  }

  add(token, given = false) {
    this.held.bits += token.bits;
    this.held.tokens += 1;
    if (token.text) this.show(token.text, given);
  }

  /** End the text; `rest` is what is left of a character that was never finished. */
  end(rest = "") {
    if (this.held.tokens) this.show(rest || "\ufffd", false);
  }

  separate() {
    this.root.append(document.createElement("hr"));
  }

  show(text, given) {
    const span = document.createElement("span");
    span.className = `t h${heat(this.held.bits)}${given ? " given" : ""}`;
    span.dataset.bits = this.held.bits;
    span.dataset.tokens = this.held.tokens;
    text.split("\n").forEach((line, index) => {
      if (index) {
        const mark = document.createElement("i");
        mark.className = "nl";
        span.append(mark, "\n");
      }
      span.append(line);
    });
    this.root.append(span);
    this.held = { bits: 0, tokens: 0 };
  }
}

// ---- What a token says when it is pointed at ----

function chance(bits) {
  const probability = 2 ** -bits;
  if (probability >= 0.01) return `${fixed(100 * probability, 1)} %`;
  const one_in = 2 ** bits;
  const digits = 10 ** Math.max(0, Math.floor(Math.log10(one_in)) - 1);
  return one_in < 1e9 ? `1 in ${counted(Math.round(one_in / digits) * digits)}` : `2^−${fixed(bits, 1)}`;
}

/** Spell out what cannot be seen: blanks, line ends, and by their numbers other characters without a shape. */
function visible(text) {
  const spelled = text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
  const number = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")} `;
  return spelled.replace(/[\p{Z}\p{C}]/gu, number);
}

function tell(span) {
  const tip = element("tip");
  document.querySelectorAll(".t.here").forEach((other) => other.classList.remove("here"));
  tip.hidden = !span;
  if (!span) return;
  span.classList.add("here");
  const bits = Number(span.dataset.bits);
  const name = document.createElement("b");
  name.textContent = visible(span.textContent);
  const several = span.dataset.tokens > 1 ? ` (${span.dataset.tokens} tokens)` : "";
  tip.replaceChildren(name, `${fixed(bits, 2)} bits, probability ${chance(bits)}${several}`);
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left), document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = at.top - tip.offsetHeight - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
}

function followPointer(root) {
  root.addEventListener("pointerover", (event) => tell(event.target.closest(".t")));
  root.addEventListener("pointerleave", () => tell(null));
  root.addEventListener("blur", () => tell(null));
  root.addEventListener("keydown", (event) => {
    const here = root.querySelector(".t.here");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") tell(null);
    if (!step) return;
    event.preventDefault();
    const spans = [...root.querySelectorAll(".t")];
    const next = spans[here ? spans.indexOf(here) + step : 0];
    if (!next) return;
    next.scrollIntoView({ block: "nearest" });
    tell(next);
  });
}

// ---- The server ----

/** Send JSON; return the answer, or throw an Error whose message is the server's sentence. */
async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached: is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error?.message ?? `The server answered with status ${response.status}.`);
}

/** Yield the events of a stream as [name, data]. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (buffer + value).split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n");
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

function showError(id, error) {
  element(id).hidden = !error;
  element(id).textContent = error ? error.message : "";
}

// ---- Write ----

const written = new TokenText(element("written"));
let writing = null;

function settings() {
  const seed = element("seed").value;
  return {
    prompt: element("prompt").value,
    temperature: Number(element("temperature").value),
    top_p: Number(element("top-p").value),
    max_new_tokens: Number(element("length").value),
    seed: seed === "" ? Math.floor(Math.random() * 1e6) : Number(seed),
    stream: true,
  };
}

function setWriting(on) {
  element("start").disabled = on;
  element("stop").disabled = !on;
  element("written").classList.toggle("writing", on);
}

async function write(event) {
  event.preventDefault();
  if (writing) return;
  writing = new AbortController();
  const asked = settings();
  showError("write-error", null);
  tell(null);
  written.clear();
  setWriting(true);
  element("write-status").textContent = "Writing …";
  try {
    await follow(await post("/weft/generate", asked, writing.signal), asked);
  } catch (error) {
    const stopped = error.name === "AbortError";
    element("write-status").textContent = stopped ? `Stopped (seed ${asked.seed}).` : "";
    if (!stopped) showError("write-error", error);
    if (stopped) written.end();
  }
  writing = null;
  setWriting(false);
}

async function follow(response, asked) {
  let done = null;
  for await (const [name, data] of events(response)) {
    if (name === "prompt") data.tokens.forEach((token) => written.add(token, true));
    if (name === "token") written.add(data);
    if (name === "done") done = data;
  }
  if (!done) throw new Error("The server ended the text before it was whole.");
  written.end(done.rest);
  const end = done.finish === "stop" ? "the document has ended" : "length reached";
  const each = done.bits_per_byte === null ? "" : `${fixed(done.bits_per_byte, 3)} bits per byte · `;
  element("write-status").textContent =
    `${counted(done.tokens)} tokens · ${each}${counted(Math.round(done.tokens / done.seconds))} tokens per second · ` +
    `seed ${asked.seed} · ${end}`;
}

// ---- Score ----

const scored = new TokenText(element("scored"));

async function score(event) {
  event.preventDefault();
  showError("score-error", null);
  tell(null);
  element("measure").disabled = true;
  try {
    const response = await post("/weft/score", { text: element("pasted").value });
    showScore(await response.json());
  } catch (error) {
    element("figure").hidden = true;
    scored.clear();
    showError("score-error", error);
  }
  element("measure").disabled = false;
}

function showScore(told) {
  const tokens = told.documents.reduce((sum, document) => sum + document.length, 0);
  element("bits-per-byte").textContent = fixed(told.bits_per_byte, 4);
  element("totals").textContent =
    `${fixed(told.bits, 1)} bits · ${counted(told.bytes)} bytes · ${counted(tokens)} tokens` +
    (told.documents.length > 1 ? ` · ${counted(told.documents.length)} documents` : "");
  element("figure").hidden = false;
  scored.clear();
  told.documents.forEach((tokens, index) => {
    if (index) scored.separate();
    tokens.forEach((token) => scored.add(token));
    scored.end();
  });
}

function showSize() {
  const size = new TextEncoder().encode(element("pasted").value).length;
  element("pasted-size").textContent = `${counted(size)} of at most ${counted(limits.text_bytes)} bytes`;
}

// ---- The page ----

function showFacts(model) {
  document.title = `${model.name} · Weft`;
  element("name").textContent = model.name;
  element("pattern").textContent = model.pattern;
  const facts = [
    ["parameters", counted(model.parameters)],
    ["without embeddings", counted(model.body_parameters)],
    ["vocabulary", `${counted(model.vocab_size)} (${model.tokenizer})`],
  ];
  if (model.test_bits_per_byte !== null) facts.push(["test text", `${fixed(model.test_bits_per_byte, 4)} bits per byte`]);
  const remembered = model.test_bits_per_byte_memory;
  if (remembered !== null && remembered !== undefined) facts.push(["with memory", `${fixed(remembered, 4)} bits per byte`]);
  for (const [name, value] of facts) {
    const group = document.createElement("div");
    const [term, data] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, data.textContent] = [name, value];
    group.append(term, data);
    element("facts").append(group);
  }
  limits = model.limits;
  element("length").max = Math.min(1000, limits.new_tokens);
  showSize();
}

function showLegend(legend) {
  const list = document.createElement("ol");
  for (const [index, border] of BORDERS.entries()) {
    const item = document.createElement("li");
    const swatch = document.createElement("i");
    swatch.className = `h${index}`;
    item.append(swatch, index + 1 < BORDERS.length ? `${border}` : `${border}+`);
    list.append(item);
  }
  legend.append("surprisal in bits", list);
}

function select(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    element(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  tell(null);
}

function start() {
  for (const name of ["temperature", "top-p", "length"]) {
    const show = () => (element(`${name}-value`).textContent = element(name).value);
    element(name).addEventListener("input", show);
    show();
  }
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[1 - tabs.indexOf(tab)];
      select(other);
      other.focus();
    });
  }
  for (const [form, area, run] of [["write-form", "prompt", write], ["score-form", "pasted", score]]) {
    element(form).addEventListener("submit", run);
    element(area).addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element(form).requestSubmit();
    });
  }
  element("stop").addEventListener("click", () => writing?.abort());
  element("pasted").addEventListener("input", showSize);
  [element("written"), element("scored")].forEach(followPointer);
  window.addEventListener("scroll", () => tell(null), { passive: true });
  document.querySelectorAll(".legend").forEach(showLegend);
  fetch("/weft/model")
    .then((response) => response.json())
    .then(showFacts)
    .catch(() => showError("write-error", new Error("The server cannot be reached: is it still running?")));
}

start();
