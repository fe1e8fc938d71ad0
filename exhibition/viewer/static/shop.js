// Places orders, and shows the trace of each as it arrives. The gateway draws it: templates/waterfall.html.

// The network may be slow: wait for an order longer than the gateway works on it, and for a page while more of it comes.
const ANSWER_MS = 30_000;
const SILENCE_MS = 30_000;
// Tail sampling decides ten seconds after the first span.
const FIRST_SPANS_MS = 30_000;
const QUIET_MS = 10_000;
const LONGEST_MS = 120_000;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 2_000;

const form = document.getElementById("shop");
const outcome = document.getElementById("outcome");
const said = document.getElementById("said");
const again = document.getElementById("again");
const place = document.getElementById("trace");

let placing = false;
let unsettled = {};
let shown = {};
let last;

if (form) {
  const scenario = document.getElementById("scenario");
  scenario?.addEventListener("change", () => {
    document.getElementById("scenario-text").textContent = scenario.selectedOptions[0].dataset.text;
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    placeOrder(scenario?.value);
  });
}
again.addEventListener("click", () => follow(shown.traceId, shown.before));
window.addEventListener("hashchange", highlight);
if (place.dataset.traceId) follow(place.dataset.traceId);

async function placeOrder(scenario) {
  if (placing) return;
  const items = [...form.querySelectorAll("input")]
    .map((input) => ({ sku: input.name, quantity: input.valueAsNumber || 0 }))
    .filter((item) => item.quantity > 0);
  if (!items.length) return tell("refused", "Nothing is chosen", "Say how many of a tea you want.");

  placing = true;
  form.setAttribute("aria-busy", "true");
  tell("waiting", "Placing the order …");
  try {
    await send(JSON.stringify({ items, payment_token: "tok_visa" }), scenario);
  } catch {
    tell("failed", "No answer", "The gateway gave no answer that can be read. Place the order again: it is taken once.");
  }
  form.removeAttribute("aria-busy");
  placing = false;
}

async function send(body, scenario = "") {
  // If the outcome of an order is unknown, send it again under its key, so that it is not placed twice. It is the same
  // order if the same items and fault, or no fault, are chosen; another fault makes it another order.
  const meant = unsettled.body === body && (!scenario || unsettled.scenario === scenario);
  if (!meant) unsettled = { body, scenario, key: newKey() };
  const { key } = unsettled;
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (scenario) headers.baggage = `waybill.scenario=${scenario}`;
  const began = performance.now();
  const response = await fetch("/orders", { method: "POST", headers, body, signal: AbortSignal.timeout(ANSWER_MS) });
  const answer = await response.json();
  const inFlight = answer.type?.endsWith(":idempotency-key-in-flight");
  if (response.status < 500 && !inFlight) unsettled = {};

  const took = `HTTP ${response.status} after ${Math.round(performance.now() - began)} ms.`;
  if (response.ok) {
    const price = `${(answer.total.amount / 100).toFixed(2)} ${answer.total.currency}`;
    const again = response.status === 200 ? "It is the order that was sent before. " : "";
    tell("good", "Order completed", `${price}, paid. ${again}${took}`);
  } else {
    const detail = answer.detail ? `${answer.detail}. ` : "";
    tell(response.status < 500 ? "refused" : "failed", answer.title, detail + took);
  }
  show(answer.trace_id, response.headers.get("traceresponse"));
}

function show(orderTraceId, traceresponse) {
  const before = last;
  shown = {};
  place.replaceChildren();
  again.hidden = true;
  if (!orderTraceId || !traceresponse) return say("The answer names no trace.");
  // The trace of this answer. The body of an order that was sent again names the trace of the first attempt.
  // https://w3c.github.io/trace-context/#traceresponse-header
  const [, traceId, , flags] = traceresponse.split("-");
  if (parseInt(flags, 16) & 1) {
    last = traceId;
    return follow(traceId, before, true);
  }
  say("This order was not sampled: no service has recorded it, so there is no trace.");
}

function newKey() {
  // Not randomUUID(), which exists only on loopback and with https.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function tell(kind, title, text = "") {
  const heading = document.createElement("strong");
  heading.textContent = title;
  outcome.className = kind;
  outcome.replaceChildren(heading, text && `: ${text}`);
}

// Show a trace, and more of it as it arrives, until nothing new has come for a while: spans behind the queue are late.
async function follow(traceId, before, isOrder) {
  const mine = { traceId, before };
  shown = mine;
  const began = performance.now();
  let changed = began;
  let pause = FIRST_PAUSE_MS;
  let view, quiet;
  say(progress());
  do {
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 1.5, LONGEST_PAUSE_MS);
    view = await read(traceId);
    // Another order was placed meanwhile, or this one is shown again.
    if (shown !== mine) return;
    if (spansIn(view) && (spansIn(view) !== spansShown() || view.dataset.lines !== linesShown())) {
      changed = performance.now();
      pause = FIRST_PAUSE_MS;
      const isFirst = !spansShown();
      draw(view, before);
      if (isOrder && isFirst) bringIntoView();
    } else if (view?.querySelector("a.jaeger") && !place.querySelector("a.jaeger")) draw(view, before);
    const trouble = troubleOf(view);
    if (trouble && view) drawInstead(view);
    say(trouble ? `${trouble} Trying again …` : progress());
    quiet = spansShown() ? QUIET_MS : FIRST_SPANS_MS;
    // If the gateway cannot be reached, there may be something new.
  } while ((!view || performance.now() - changed < quiet) && performance.now() - began < LONGEST_MS);

  if (view) drawInstead(view);
  const still = performance.now() - changed;
  const end = still < quiet ? "It still grows." : `Nothing new has come for ${Math.round(still / 1000)} seconds.`;
  say(troubleOf(view) || end);
  again.hidden = false;
}

async function read(traceId) {
  try {
    const page = await textOf(`/traces/${traceId}`);
    return new DOMParser().parseFromString(page, "text/html").querySelector("article.trace");
  } catch {
    return null;
  }
}

// Give up if nothing comes for a while, but not if a long text comes slowly.
async function textOf(url) {
  const silence = new AbortController();
  let timer, text = "";
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  wait();
  try {
    const response = await fetch(url, { signal: silence.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text;
      text += value;
      wait();
    }
  } finally {
    clearTimeout(timer);
  }
}

function spansIn(view) {
  return Number(view?.dataset.spans ?? 0);
}

function spansShown() {
  return spansIn(place.firstElementChild);
}

function linesShown() {
  return place.firstElementChild?.dataset.lines;
}

function progress() {
  return spansShown() ? `${spansShown()} spans are here. More may come …` : "Waiting for spans …";
}

function troubleOf(view) {
  return view ? view.dataset.problem : "The gateway cannot be reached.";
}

// Keep the spans that are shown, even if a later request fails.
function drawInstead(view) {
  const stands = place.firstElementChild?.dataset;
  if (!spansShown() && (stands?.state !== view.dataset.state || stands.problem !== view.dataset.problem)) draw(view);
}

function draw(view, before) {
  const link = view.querySelector("a.jaeger");
  if (link && before) {
    const compare = link.cloneNode();
    compare.href = link.href.replace(/[0-9a-f]{32}$/, (traceId) => `${before}...${traceId}`);
    compare.className = "compare";
    compare.textContent = "Compare with the order before";
    link.after(compare);
  }
  // Open spans stay open, and the focus stays on its element.
  const open = [...place.querySelectorAll("details[open]")].map((details) => details.closest("tr").id);
  const focused = place.contains(document.activeElement) ? address(document.activeElement) : null;
  place.replaceChildren(view);
  for (const id of open) place.querySelector(`#${id} details`)?.setAttribute("open", "");
  if (focused) place.querySelector(focused)?.focus({ preventScroll: true });
  highlight();
}

// On a phone, the trace is below the visible part of the page.
function bringIntoView() {
  if (place.getBoundingClientRect().top < window.innerHeight * 0.75) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  outcome.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}

// Return a selector that finds a focusable element again in the next view.
function address(element) {
  const row = element.closest("tr");
  const href = element.getAttribute("href");
  return `${row ? `#${row.id} ` : ""}${href ? `a[href="${CSS.escape(href)}"]` : "summary"}`;
}

// Do what :target does for elements that were there when the page was loaded.
function highlight() {
  for (const row of place.querySelectorAll("tr")) row.classList.toggle("target", `#${row.id}` === location.hash);
}

function say(text) {
  if (said.textContent !== text) said.textContent = text;
}
