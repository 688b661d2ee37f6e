// The page around the diagram: overview, search, legend, details, keys.

const $ = id => document.getElementById(id);
const overview = $("overview");
const SPAN_MIN = 2e3;                   // nanoseconds: nothing happens in less

// ---- what is shown ----

let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; draw(); drawOverview(); remember(); });
}

function show(from, to) {
  const most = Math.max(END * 1.02, SPAN_MIN);
  const span = Math.min(most, Math.max(SPAN_MIN, to - from));
  const least = -END * .01;
  view.from = Math.max(least, Math.min(from, least + most - span));
  view.to = view.from + span;
  redraw();
}

function zoom(factor, x = (place.left + place.width) / 2) {
  const at = timeAt(x);
  show(at - (at - view.from) * factor, at + (view.to - at) * factor);
}

const move = part => show(view.from + (view.to - view.from) * part, view.to + (view.to - view.from) * part);
const showAll = () => show(-END * .01, END * 1.01);

/** The last of what happened: about as much as can be read, of events and of messages. */
function showEnd() {
  const messages = model.messages, last = messages[Math.max(0, messages.length - 80)]?.at ?? 0;
  const from = Math.min(last, T[Math.max(0, R.length - 260)] ?? 0);
  show(from, END + Math.max(SPAN_MIN, (END - from) * .03));
}

// ---- selecting ----

function select(i, reveal = true) {
  look.selected = i;
  if (i !== null && reveal) {
    const at = T[i], span = view.to - view.from;
    if (at < view.from + span * .05 || at > view.to - span * .05) show(at - span / 2, at + span / 2);
  }
  details();
  redraw();
}

/** The next or previous event, of those found if a search is on. */
function step(by) {
  let i = look.selected ?? firstFrom(T, (view.from + view.to) / 2) - (by > 0 ? 1 : 0);
  do i += by; while (i >= 0 && i < R.length && look.match && !look.match[i]);
  if (i >= 0 && i < R.length) select(i);
}

function element(name, props = {}, ...children) {
  const made = Object.assign(document.createElement(name), props);
  made.append(...children);
  return made;
}

function jump(i, text) {
  return element("a", { className: "jump", textContent: text, onclick: () => select(i) });
}

/** A value in few words: log ids as in the lines, sets as lists. */
function brief(value) {
  if (value === null || value === undefined) return "—";
  if (Array.isArray(value)) return value.length ? value.map(brief).join(" ") : "none";
  if (typeof value !== "object") return String(value);
  const keys = Object.keys(value);
  if (keys.length === 2 && "term" in value && "index" in value) return `${value.index}@${value.term}`;
  if ("first" in value && "last" in value && "kind" in value) {
    const range = value.first === value.last ? value.first : `${value.first}–${value.last}`;
    return `[${range}@${value.term} ${value.kind}${value.membership ? " " + brief(value.membership) : ""}]`;
  }
  if ("voters" in value) return members(value);
  return keys.map(key => `${key}=${brief(value[key])}`).join(" ");
}

function members(membership) {
  const set = nodes => nodes.map(node => `n${node}`).join(" ");
  const parts = [set(membership.voters) || "nobody"];
  if (membership.outgoing.length) parts.unshift(`${set(membership.outgoing)} ⇒`);
  if (membership.learners.length) parts.push(`+ ${set(membership.learners)}`);
  if (membership.learners_next.length) parts.push(`↓ ${set(membership.learners_next)}`);
  return parts.join(" ");
}

const HIDDEN = new Set(["at_ns", "node", "what", "state", "core", "line", "message", "id", "scenario"]);

function details() {
  const box = $("details"), i = look.selected;
  box.replaceChildren();
  if (i === null) {
    box.append(element("h2", { textContent: "Click an event. Keys: ? for help." }));
    for (const line of R[0]?.scenario ?? []) box.append(element("pre", { textContent: line }));
  } else {
    const record = R[i];
    box.append(element("p", { className: "when", textContent: `${(T[i] / 1e9).toFixed(9)} s, event ${i + 1} of ${R.length}: ${record.what.replaceAll("_", " ")}` }));
    box.append(element("p", { className: "event", textContent: record.line }));
    box.append(fields(record));
    if (record.core) box.append(element("h2", { textContent: record.what === "becomes" || record.what === "votes" || record.what === "commits" || record.what === "takes" ? "The core took in" : "Behind it, in the core" }), element("pre", { textContent: record.core }));
    const before = changes(i);
    if (before) box.append(element("h2", { textContent: `n${record.node} after this step` }), before);
  }
  cluster(i ?? R.length - 1);
  nearby(i ?? R.length - 1);
}

function fields(record) {
  const rows = element("dl");
  const row = (name, ...value) => rows.append(element("dt", { textContent: name.replaceAll("_", " ") }), element("dd", {}, ...value));
  const { message } = record;
  if (message) {
    for (const [name, value] of Object.entries(message)) if (!["from", "to", "term", "kind"].includes(name)) row(name, brief(value));
    const said = model.messageOf.get(record.id);
    if (said) {
      if (R[said.i] !== record) row("sent", jump(said.i, `${((record.at_ns - said.at) / 1e6).toFixed(3)} ms earlier`));
      for (const end of said.ends) {
        const later = `${((end.at - said.at) / 1e6).toFixed(3)} ms ${record.what === "sent" ? "later" : "after it was sent"}`;
        if (end.i === null) row("under way", `would arrive ${later}`);
        else if (R[end.i] !== record) row(end.heard ? "received" : "swallowed", jump(end.i, later));
      }
      if (said.lost) row("lost", "the network dropped it");
    }
  }
  for (const [name, value] of Object.entries(record)) {
    if (HIDDEN.has(name) || name === "arrives_ns") continue;
    if (name === "requests") value.forEach(request => row("operation", ...operationLinks(request.op)));
    else if (name === "op") row("operation", ...operationLinks(value));
    else if (name === "cuts") row(name, value.map(([from, to]) => `n${from}⇥n${to}`).join(" "));
    else if (name === "until_ns") row("until", `${(value / 1e9).toFixed(6)} s`);
    else row(name, brief(value));
  }
  for (const line of record.scenario ?? []) row("", line);
  return rows;
}

function operationLinks(number) {
  const op = model.ops.get(number);
  if (!op) return [`#${number}`];
  const what = `#${number} ${op.write ? "put" : "read"} k${op.key} of c${op.client}: `;
  return [what, ...op.events.flatMap((i, at) => [at ? " → " : "", jump(i, R[i].what.replaceAll("_", " "))])];
}

/** What is different in the node's state when its present step is over. */
function changes(i) {
  const { node, at_ns } = R[i];
  if (!node) return null;
  let last = i;
  while (last + 1 < R.length && R[last + 1].at_ns === at_ns && (R[last + 1].node === node || !R[last + 1].node)) last++;
  const [before, after] = [stateAt(node, i - 1), stateAt(node, last)];
  if (!after) return null;
  const rows = element("dl");
  for (const [name, value] of Object.entries(after)) {
    const [was, is] = [before ? brief(before[name]) : null, brief(value)];
    if (was !== is) rows.append(element("dt", { textContent: name }), element("dd", { textContent: was === null ? is : `${was} → ${is}` }));
  }
  if (!rows.children.length) rows.append(element("dt", { textContent: "unchanged" }), element("dd"));
  return rows;
}

/** Where every server was when this happened. */
function cluster(i) {
  const table = element("table");
  table.append(element("tr", {}, ...["", "role", "term", "vote", "last", "durable", "commit", "applied", "members"].map(name => element("th", { textContent: name }))));
  for (const node of model.shown) {
    const state = stateAt(node, i), row = element("tr", { className: R[i]?.node === node ? "here" : "" });
    const cells = state
      ? [state.role, state.term, state.vote ? `n${state.vote}` : "—", brief(state.last), state.durable, state.commit, state.applied, members(state.membership)]
      : [model.states[node]?.length && model.states[node][0][0] <= i ? "down" : "not started"];
    row.append(element("td", {}, element("b", { textContent: `n${node}` })), ...cells.map(text => element("td", { textContent: text })));
    row.title = state ? `base ${brief(state.base)}, snapshot ${brief(state.snapshot)}, leader ${state.leader ? "n" + state.leader : "unknown"}` : "";
    if (state) row.children[2].style.cssText = `color: ${termColour(state.term)}; font-weight: 600`;
    table.append(row);
  }
  $("cluster").replaceChildren(element("h2", { textContent: `All servers at ${(T[i] / 1e9).toFixed(6)} s` }), table);
}

/** The lines around an event. */
function nearby(i) {
  const box = $("lines"), around = [];
  const wanted = at => !look.only || !look.match || look.match[at] || at === i;
  for (let at = i, left = 60; at >= 0 && left; at--) if (wanted(at)) { around.unshift(at); left--; }
  for (let at = i + 1, left = 60; at < R.length && left; at++) if (wanted(at)) { around.push(at); left--; }
  box.replaceChildren(...around.map(at => {
    const row = element("div", { onclick: () => select(at) });
    row.className = `${at === i ? "here " : ""}${look.match && !look.match[at] ? "miss " : ""}${R[at].what === "broken" ? "bad" : ""}`;
    row.append(element("time", { textContent: (T[at] / 1e9).toFixed(6) }), element("span", { textContent: R[at].line }));
    return row;
  }));
  const here = box.querySelector(".here");
  if (here) box.scrollTop = here.offsetTop - box.offsetTop - box.clientHeight / 2;
}

// ---- search and legend ----

function search() {
  const test = compile($("search").value);
  look.match = test ? Uint8Array.from(R, (_, i) => (test(i) ? 1 : 0)) : null;
  look.only = $("only").checked;
  let count = 0;
  for (const hit of look.match ?? []) count += hit;
  $("found").textContent = look.match ? `${count.toLocaleString("en")} found` : "";
  nearby(look.selected ?? R.length - 1);
  redraw();
}

function legend() {
  const items = [...Object.entries(GROUPS).map(([group, style]) => [group, style.name, style]),
    ["lost", "lost", { colour: "bad", width: 1.5, dash: [], sign: "✕" }],
    ["disk", "disk", { colour: "soft", width: 4, dash: [] }],
    ["commit", "commit, applied", { colour: "append", sign: "▲●" }],
    ["clients", "operations", { colour: "read", width: 6, dash: [] }]];
  $("legend").replaceChildren(...items.map(([group, name, style]) => {
    const sample = element("canvas", { width: 60, height: 28 });
    const ink = sample.getContext("2d");
    ink.scale(2, 2);
    ink.strokeStyle = ink.fillStyle = colours[style.colour];
    if (style.width) {
      ink.lineWidth = style.width;
      ink.setLineDash(style.dash);
      ink.beginPath();
      ink.moveTo(1, 7);
      ink.lineTo(style.sign ? 17 : 29, 7);
      ink.stroke();
    }
    ink.font = "10px 'DejaVu Sans', sans-serif";
    if (style.sign) ink.fillText(style.sign, style.width ? 18 : 4, 11);
    const button = element("button", { title: `Show or hide ${name}`, onclick: () => {
      if (!off.delete(group)) off.add(group);
      button.setAttribute("aria-pressed", String(!off.has(group)));
      redraw();
    } }, sample, name);
    button.setAttribute("aria-pressed", String(!off.has(group)));
    return button;
  }));
}

// ---- the overview ----

function drawOverview() {
  const ratio = window.devicePixelRatio || 1, width = overview.clientWidth, height = overview.clientHeight;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (overview.width !== wide || overview.height !== high) { overview.width = wide; overview.height = high; }
  const ink = overview.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.fillStyle = colours.panel;
  ink.fillRect(0, 0, width, height);
  const x = at => at / END * width, row = (height - 13) / Math.max(1, model.shown.length);
  ink.fillStyle = colours.fault;
  ink.globalAlpha = .4;
  for (const fault of model.faults) ink.fillRect(x(fault.from), 0, Math.max(1, x(fault.shown) - x(fault.from)), 6);
  ink.globalAlpha = 1;
  for (const node of model.shown) {
    for (const segment of model.segments[node] ?? []) {
      if (!segment.up) continue;
      const leads = segment.role === "Leader";
      ink.fillStyle = segment.role === "Follower" ? colours.faint : termColour(segment.term);
      const thick = leads ? Math.max(3, row * .8) : Math.max(1, row * .2);
      ink.fillRect(x(segment.from), 8 + (model.laneOf[node] + .5) * row - thick / 2, Math.max(leads ? 1 : .5, x(segment.to) - x(segment.from)), thick);
    }
  }
  if (look.match) {
    ink.fillStyle = colours.accent;
    let before = -9;
    for (let i = 0; i < R.length; i++) {
      if (!look.match[i] || x(T[i]) - before < 1) continue;
      before = x(T[i]);
      ink.fillRect(before, height - 5, 1.2, 5);
    }
  }
  if (model.broken !== null) { ink.fillStyle = colours.bad; ink.fillRect(Math.min(width - 3, x(END)), 0, 3, height); }
  ink.fillStyle = colours.back;
  ink.globalAlpha = .6;
  const [from, to] = [x(view.from), Math.max(x(view.to), x(view.from) + 3)];
  ink.fillRect(0, 0, from, height);
  ink.fillRect(to, 0, width - to, height);
  ink.globalAlpha = 1;
  ink.strokeStyle = colours.accent;
  ink.lineWidth = 2;
  ink.strokeRect(from, 1, to - from, height - 2);
}

/** Calls `moved` with every movement until the button is let go, then `done`. */
function drag(target, down, moved, done = () => {}) {
  target.setPointerCapture(down.pointerId);
  target.onpointermove = moved;
  target.onpointerup = target.onpointercancel = up => {
    target.onpointermove = target.onpointerup = target.onpointercancel = null;
    done(up);
  };
}

overview.addEventListener("pointerdown", down => {
  const at = event => event.offsetX / overview.clientWidth * END;
  const begun = at(down), inside = begun >= view.from && begun <= view.to && view.to - view.from < END * .95;
  const [from, to] = [view.from, view.to];
  drag(overview, down, event => {
    if (inside) show(from + at(event) - begun, to + at(event) - begun);
    else if (Math.abs(event.offsetX - down.offsetX) > 4) show(Math.min(begun, at(event)), Math.max(begun, at(event)));
  }, up => {
    if (Math.abs(up.offsetX - down.offsetX) <= 4 && !inside) show(begun - (to - from) / 2, begun + (to - from) / 2);
  });
});

// ---- the diagram under the pointer ----

canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  if (sideways) move((event.deltaX || event.deltaY) / 800); else zoom(1.0016 ** event.deltaY, event.offsetX);
}, { passive: false });

canvas.addEventListener("pointerdown", down => {
  const [from, to] = [view.from, view.to], perPixel = (to - from) / (place.width - place.left - place.right);
  let far = 0;
  canvas.focus({ preventScroll: true });
  drag(canvas, down, event => {
    far = Math.max(far, Math.abs(event.offsetX - down.offsetX));
    if (far < 4) return;
    canvas.classList.add("dragging");
    show(from - (event.offsetX - down.offsetX) * perPixel, to - (event.offsetX - down.offsetX) * perPixel);
  }, up => {
    canvas.classList.remove("dragging");
    if (far < 4) select(eventAt(up.offsetX, up.offsetY), false);
  });
});

canvas.addEventListener("mousemove", event => {
  if (event.buttons) return;
  const i = eventAt(event.offsetX, event.offsetY), tip = $("tip");
  canvas.classList.toggle("over", i !== null);
  if (i !== look.over) { look.over = i; redraw(); }
  tip.hidden = i === null;
  if (i === null) return;
  tip.textContent = `${(T[i] / 1e9).toFixed(6)}  ${R[i].line}`;
  const left = Math.min(event.offsetX + 14, stage.clientWidth - tip.offsetWidth - 6);
  const below = event.offsetY + 18 + tip.offsetHeight < stage.clientHeight;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below ? event.offsetY + 18 : event.offsetY - tip.offsetHeight - 10}px`;
});
canvas.addEventListener("mouseleave", () => { look.over = null; $("tip").hidden = true; redraw(); });
canvas.addEventListener("dblclick", event => zoom(.35, event.offsetX));

$("splitter").addEventListener("pointerdown", down => {
  const aside = document.querySelector("aside"), width = aside.offsetWidth;
  drag($("splitter"), down, event => {
    aside.style.width = `${Math.max(160, Math.min(innerWidth - 300, width + down.clientX - event.clientX))}px`;
  });
});

// ---- keys and buttons ----

const KEYS = {
  "+": () => zoom(.6), "=": () => zoom(.6), "-": () => zoom(1 / .6), ArrowUp: () => zoom(.6), ArrowDown: () => zoom(1 / .6),
  ArrowLeft: () => move(-.2), ArrowRight: () => move(.2), PageUp: () => move(-.9), PageDown: () => move(.9),
  Home: () => show(0, view.to - view.from), End: showEnd, 0: showAll, ",": () => step(-1), ".": () => step(1),
  "/": () => { $("search").focus(); $("search").select(); },
  "?": () => $("help").showModal(),
  Escape: () => { $("search").value = ""; search(); select(null); },
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = document.activeElement === $("search");
  if (typing && event.key === "Enter") { step(event.shiftKey ? -1 : 1); return; }
  if (typing && event.key === "Escape") canvas.focus();
  if ((typing && event.key !== "Escape") || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

let waiting = 0;
$("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
$("only").onchange = search;
$("previous").onclick = () => step(-1);
$("next").onclick = () => step(1);
$("zoom-in").onclick = () => zoom(.6);
$("zoom-out").onclick = () => zoom(1 / .6);
$("zoom-all").onclick = showAll;
$("zoom-end").onclick = showEnd;
$("help-button").onclick = () => $("help").showModal();
$("theme").onclick = () => { theme(!document.documentElement.classList.contains("dark")); };
addEventListener("resize", redraw);
new ResizeObserver(redraw).observe(stage);

function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  readColours();
  legend();
  details();
  redraw();
}

// ---- the address holds what is shown, so that a place in a run can be kept and passed on ----

let remembering = 0;
function remember() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const kept = new URLSearchParams({ from: Math.round(view.from), to: Math.round(view.to) });
    if (look.selected !== null) kept.set("event", look.selected + 1);
    if ($("search").value) kept.set("search", $("search").value);
    try { history.replaceState(null, "", `#${kept}`); } catch { /* some browsers allow this to no file */ }
  }, 300);
}

function begin() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const seconds = (END / 1e9).toFixed(1);
  const servers = model.shown.length === model.nodes ? model.nodes : `${model.shown.length} of ${model.nodes}`;
  $("facts").textContent = `${servers} servers, ${seconds} s, ${R.length.toLocaleString("en")} events, ${model.messages.length.toLocaleString("en")} messages, ${model.elected.length} elections`;
  if (model.broken !== null) {
    const { checker, found } = R[model.broken];
    Object.assign($("broken"), { hidden: false, textContent: `✖ ${checker}: ${found}`, title: found, onclick: () => { showEnd(); select(model.broken); } });
  }
  look.selected = model.broken;
  theme(kept.has("dark") || (!kept.has("light") && matchMedia("(prefers-color-scheme: dark)").matches));
  if (kept.has("search")) { $("search").value = kept.get("search"); search(); }
  place = layout();
  if (kept.has("from")) show(Number(kept.get("from")), Number(kept.get("to")));
  else if (model.broken !== null) showEnd();
  else showAll();
  if (kept.has("event")) select(Math.min(R.length, Math.max(1, Number(kept.get("event")))) - 1, false);
}

begin();
