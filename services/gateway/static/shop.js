// Places orders, and shows the trace of each as it arrives. The gateway draws it: templates/waterfall.html.

const QUIET_MS = 10_000;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 2_000;

const form = document.getElementById("shop");
const outcome = document.getElementById("outcome");
const said = document.getElementById("said");
const place = document.getElementById("trace");

let placing = false;
let unsettled = {};
let shown = null;

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
    tell("failed", "No answer", "The gateway cannot be reached. Place the order again: it is taken once.");
  }
  form.removeAttribute("aria-busy");
  placing = false;
}

async function send(body, scenario) {
  // An order whose outcome is not known is sent again under its key, so that it is not placed twice.
  const key = unsettled.body === body ? unsettled.key : newKey();
  unsettled = { body, key };
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (scenario) headers.baggage = `waybill.scenario=${scenario}`;
  const began = performance.now();
  const response = await fetch("/orders", { method: "POST", headers, body });
  const answer = await response.json();
  if (response.status < 500) unsettled = {};

  const took = `HTTP ${response.status} after ${Math.round(performance.now() - began)} ms`;
  if (response.ok) {
    const price = `${(answer.total.amount / 100).toFixed(2)} ${answer.total.currency}`;
    tell("good", "Order completed", `${price}, paid. ${took}.`);
  } else {
    tell(response.status < 500 ? "refused" : "failed", answer.title, `${answer.detail}. ${took}.`);
  }
  show(answer.trace_id, response.headers.get("traceresponse"));
}

function show(traceId, traceresponse) {
  const before = shown;
  shown = null;
  place.replaceChildren();
  // https://w3c.github.io/trace-context/#trace-flags
  const sampled = parseInt(traceresponse?.split("-")[3], 16) & 1;
  if (sampled) return follow(traceId, before);
  say("This order was not sampled: no service has recorded it, so there is no trace.");
}

function newKey() {
  // Not randomUUID(), which is there only on loopback and under https.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function tell(kind, title, text = "") {
  const heading = document.createElement("strong");
  heading.textContent = title;
  outcome.className = kind;
  outcome.replaceChildren(heading, text && `: ${text}`);
}

// Shows a trace, and more of it as it arrives, until nothing has changed for a while: what is behind the queue is late.
async function follow(traceId, before) {
  shown = traceId;
  say("Waiting for spans …");
  let [view, html] = [null, ""];
  let changed = performance.now();
  let pause = FIRST_PAUSE_MS;
  while (performance.now() - changed < QUIET_MS) {
    view = await read(traceId);
    // Another order was placed meanwhile.
    if (shown !== traceId) return;
    if (view && view.outerHTML !== html) {
      html = view.outerHTML;
      changed = performance.now();
      pause = FIRST_PAUSE_MS;
      if (view.dataset.state !== "none") draw(view, before);
      if (view.dataset.state === "here") say(`${view.dataset.spans} spans are here. More may come …`);
    }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 1.5, LONGEST_PAUSE_MS);
  }
  if (view?.dataset.state === "none") draw(view, before);
  say(view ? `Nothing new has come for ${QUIET_MS / 1000} seconds.` : "The gateway cannot be reached.");
}

async function read(traceId) {
  try {
    const response = await fetch(`/traces/${traceId}`);
    return new DOMParser().parseFromString(await response.text(), "text/html").querySelector("article.trace");
  } catch {
    return null;
  }
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
  // Who reads an open span, or stands on one, goes on doing so.
  const open = [...place.querySelectorAll("details[open]")].map((details) => details.closest("tr").id);
  const focused = place.contains(document.activeElement) && document.activeElement.closest("tr")?.id;
  place.replaceChildren(view);
  for (const id of open) place.querySelector(`#${id} details`)?.setAttribute("open", "");
  if (focused) place.querySelector(`#${focused} summary`)?.focus();
}

function say(text) {
  said.textContent = text;
}
