// The diagram: what is visible, and nothing else, on a canvas.
//
// * `view` is the time that is shown. The less time, the more is drawn: first lanes, elections and faults; then messages;
//   then disks, commits and every event.
// * Nothing is told by colour alone: roles by the lane's thickness, kinds of messages by their dashes, what is lost by a ✕.

const view = { from: 0, to: END };
const stage = document.getElementById("stage");
const canvas = document.getElementById("diagram");
const pen = canvas.getContext("2d");
const off = new Set();                  // groups that are switched off
const look = { selected: null, over: null, match: null, only: false };
let marks = [];                         // what was drawn: {x, y, i}
let lines = [];                         // messages that were drawn: {x0, y0, x1, y1, i}
let colours = {};

/** How each group is drawn. */
const GROUPS = {
  vote: { name: "votes", colour: "vote", width: 2, dash: [], always: true },
  transfer: { name: "TimeoutNow", colour: "transfer", width: 3, dash: [], always: true },
  append: { name: "entries", colour: "append", width: 1.5, dash: [] },
  heartbeat: { name: "heartbeats", colour: "heartbeat", width: 1, dash: [] },
  reply: { name: "replies", colour: "reply", width: 1, dash: [4, 3] },
  conflict: { name: "conflicts", colour: "conflict", width: 2, dash: [4, 3] },
  snapshot: { name: "snapshots", colour: "snapshot", width: 2.5, dash: [9, 3], always: true },
  read: { name: "read index", colour: "read", width: 1.2, dash: [1.5, 2.5] },
};
const MESSAGES_MAX = 1800;              // beyond, only those that are always drawn
const EVENTS_MAX = 2500;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "panel", "ink", "soft", "faint", "line", "bad", "mark", "accent", "vote", "append",
    "heartbeat", "reply", "conflict", "snapshot", "transfer", "read", "client", "fault", "fault-back", "down",
    "term0", "term1", "term2", "term3", "term4", "term5"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
}

const termColour = term => colours[`term${term % 6}`];

/** Where everything stands, for the canvas's present size. */
function layout() {
  const width = stage.clientWidth, height = stage.clientHeight;
  const left = 46, right = 10, axis = 24;
  const faultRow = model.faultRows > 5 ? 12 : 15, faultTop = axis + 2;
  const ordersTop = faultTop + model.faultRows * faultRow;
  const lanesTop = ordersTop + (model.errandList.length ? faultRow : 0) + 4;
  const clientRow = model.clients ? Math.max(3, Math.min(9, 60 / model.clients)) : 0;
  const clientsHeight = model.clients ? model.clients * clientRow + 8 : 0;
  const lane = Math.max(20, (height - lanesTop - clientsHeight - 4) / Math.max(1, model.shown.length));
  return { width, height, left, right, axis, faultRow, faultTop, ordersTop, lanesTop, lane, clientRow,
    clientsTop: lanesTop + lane * model.shown.length + 4, tracks: lane >= 54 };
}
let place = layout();

const xOf = at => place.left + (at - view.from) / (view.to - view.from) * (place.width - place.left - place.right);
const timeAt = x => view.from + (x - place.left) / (place.width - place.left - place.right) * (view.to - view.from);
const topOf = node => place.lanesTop + (model.laneOf[node] ?? 0) * place.lane;
const yOf = node => topOf(node) + (place.tracks ? Math.min(place.lane * .42, place.lane - 38) : place.lane * .5);

function draw() {
  place = layout();
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(place.width * ratio), Math.round(place.height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, place.width, place.height);
  marks = [];
  lines = [];
  drawAxis();
  pen.save();
  pen.beginPath();
  pen.rect(place.left, place.axis, place.width - place.left, place.height - place.axis);
  pen.clip();
  drawFaults();
  drawLanes();
  const events = firstFrom(T, view.to) - firstFrom(T, view.from);
  if (events <= EVENTS_MAX && place.tracks && !off.has("disk")) drawDisks(events);
  drawMessages();
  drawEvents(events);
  drawTerms();
  drawOrders();
  if (!off.has("clients")) drawClients();
  drawSelected();
  pen.restore();
  drawEnds();
  drawNames();
}

/** Steps of 1, 2 or 5 times a power of ten, about 110 pixels apart. */
function axisStep() {
  const rough = (view.to - view.from) / Math.max(1, place.width / 110);
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find(factor => factor * power >= rough);
}

function timeText(ns, step) {
  const digits = Math.max(0, Math.min(9, 9 - Math.floor(Math.log10(Math.max(1, step)) + 1e-9)));
  return `${(ns / 1e9).toFixed(digits)} s`;
}

function drawAxis() {
  const step = axisStep();
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const x = Math.round(xOf(at)) + .5;
    if (x < place.left) continue;
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, 8);
    pen.lineTo(x, place.height);
    pen.stroke();
    pen.fillStyle = colours.soft;
    pen.fillText(timeText(at, step), x + 4, 12);
  }
}

function drawNames() {
  pen.fillStyle = colours.back;
  pen.fillRect(0, place.axis, place.left, place.height);
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  for (const node of model.shown) {
    pen.fillStyle = colours.ink;
    pen.font = "700 14px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillText(`n${node}`, 10, yOf(node));
    if (place.tracks && node === model.shown[0] && !off.has("disk")) {
      pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
      pen.fillStyle = colours.soft;
      pen.fillText("disk", 10, yOf(node) + 15);
      pen.fillText("commit", 10, yOf(node) + 27);
    }
  }
  pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillStyle = colours.soft;
  if (model.faultRows) pen.fillText("faults", 8, place.faultTop + 6);
  if (model.errandList.length) pen.fillText("orders", 8, place.ordersTop + 6);
  if (model.clients && !off.has("clients")) pen.fillText("clients", 8, place.clientsTop + 8);
}

/** What goes wrong: a bar above, and hatching on the lanes of those whom it hits. */
function drawFaults() {
  pen.font = "10.5px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  const seen = model.faults.slice(0, firstFrom(model.faults, view.to, fault => fault.from)).filter(fault => fault.shown > fault.from && fault.shown >= view.from);
  for (const fault of seen) {
    const x = Math.max(place.left, xOf(fault.from)), end = Math.min(place.width, xOf(fault.shown));
    const width = Math.max(2, end - x);
    for (const node of hit(fault)) {
      if (model.laneOf[node] === undefined) continue;
      const top = topOf(node);
      pen.fillStyle = colours["fault-back"];
      pen.fillRect(x, top + 2, width, place.lane - 4);
      hatch(x, top + 2, width, place.lane - 4, /pause|stall|disk/.test(fault.name) ? 0 : 1);
    }
    const y = place.faultTop + fault.row * place.faultRow;
    pen.fillStyle = colours["fault-back"];
    pen.strokeStyle = colours.fault;
    pen.lineWidth = 1;
    pen.fillRect(x, y, width, place.faultRow - 3);
    pen.strokeRect(x + .5, y + .5, width - 1, place.faultRow - 4);
    marks.push({ x, y: y + 6, i: fault.i, wide: width });
    if (width > 24) clipped(fault.label, x + 4, y + (place.faultRow - 3) / 2 + .5, width - 6, colours.ink);
  }
  for (const fault of model.atOnce.filter(fault => fault.from >= view.from && fault.from <= view.to)) {
    const x = xOf(fault.from);
    glyph("⚡", x, place.faultTop + 6, colours.fault, 12);
    marks.push({ x, y: place.faultTop + 6, i: fault.i });
  }
}

/** On whose lanes a fault is shown: whom it names, or whose links are cut. */
function hit(fault) {
  if (fault.nodes.length) return fault.nodes;
  const counts = new Map();
  for (const cut of fault.cuts) for (const node of cut) counts.set(node, (counts.get(node) ?? 0) + 1);
  return [...counts.keys()].filter(node => counts.get(node) === fault.cuts.length);
}

function hatch(x, y, width, height, slope) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.strokeStyle = colours.fault;
  pen.globalAlpha = .3;
  pen.lineWidth = 1;
  pen.beginPath();
  if (slope) {
    const begin = Math.floor((x - height) / 9) * 9;
    for (let at = begin; at < x + width; at += 9) { pen.moveTo(at, y + height); pen.lineTo(at + height, y); }
  } else {
    for (let at = Math.floor(x / 6) * 6; at < x + width; at += 6) { pen.moveTo(at + .5, y); pen.lineTo(at + .5, y + height); }
  }
  pen.stroke();
  pen.restore();
}

function clipped(text, x, y, width, colour) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y - 9, width, 18);
  pen.clip();
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
  pen.restore();
}

const SHORT = { Leader: "leads", Candidate: "campaigns", PreCandidate: "asks", Follower: "" };

function drawLanes() {
  for (const node of model.shown) {
    const y = yOf(node), segments = model.segments[node] ?? [];
    const begun = segments.length ? segments[0].from : END;
    if (view.from < begun) dotted(xOf(0), xOf(Math.min(begun, view.to)), y);
    for (const [segment, x, end] of seenOf(segments)) {
      if (!segment.up) { dotted(x, end, y); continue; }
      const colour = termColour(segment.term);
      const half = { Leader: 5.5, Candidate: 4, PreCandidate: 3, Follower: 1.25 }[segment.role];
      pen.fillStyle = colour;
      const width = Math.max(segment.role === "Follower" ? .5 : 1.5, end - x);
      pen.fillRect(x, y - half, width, 2 * half);
      if (segment.role === "Candidate" || segment.role === "PreCandidate") stripes(x, y, width, half);
    }
  }
}

/** The parts of a lane that are seen, with where they begin and end. */
function* seenOf(segments) {
  for (let at = Math.max(0, firstFrom(segments, view.from, segment => segment.from) - 1); at < segments.length; at++) {
    const segment = segments[at];
    if (segment.from > view.to) return;
    if (segment.to >= view.from) yield [segment, Math.max(place.left, xOf(segment.from)), Math.min(place.width, xOf(segment.to))];
  }
}

/** The term and role on each part of a lane that has room for them, above everything else. */
function drawTerms() {
  pen.textBaseline = "bottom";
  pen.textAlign = "left";
  pen.lineJoin = "round";
  for (const node of model.shown) {
    let labelled = -1e9;
    for (const [segment, x, end] of seenOf(model.segments[node] ?? [])) {
      if (!segment.up) continue;
      const label = `${segment.term} ${SHORT[segment.role]}`.trim();
      pen.font = `${segment.role === "Leader" ? "700 " : ""}11px system-ui, 'DejaVu Sans', sans-serif`;
      const needs = pen.measureText(label).width + 6;
      if (end - x < needs || x < labelled) continue;
      labelled = x + needs;
      const y = yOf(node) - (segment.role === "Follower" ? 2 : 6);
      pen.strokeStyle = colours.back;
      pen.lineWidth = 3;
      pen.strokeText(label, x + 3, y);
      pen.fillStyle = termColour(segment.term);
      pen.fillText(label, x + 3, y);
    }
  }
}

function dotted(x, end, y) {
  pen.strokeStyle = colours.down;
  pen.lineWidth = 1;
  pen.setLineDash([1, 5]);
  pen.beginPath();
  pen.moveTo(Math.max(place.left, x), y);
  pen.lineTo(Math.min(place.width, end), y);
  pen.stroke();
  pen.setLineDash([]);
}

function stripes(x, y, width, half) {
  pen.strokeStyle = colours.back;
  pen.lineWidth = 2;
  pen.beginPath();
  for (let at = x + 3; at < x + width; at += 6) { pen.moveTo(at, y - half); pen.lineTo(at, y + half); }
  pen.stroke();
}

/** Each write from when it was handed over to when it was durable. */
function drawDisks(events) {
  pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  for (const node of model.shown) {
    const y = yOf(node) + 15, writes = model.writes[node] ?? [];
    let label = null;
    const write = () => {
      if (!label) return;
      pen.fillStyle = colours.soft;
      pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
      pen.textAlign = "left";
      pen.globalAlpha = label.alpha;
      pen.fillText(label.text, label.x, y);
      pen.globalAlpha = 1;
    };
    if (!writes.length) continue;
    visible(writes, model.latestWrite[node], view.from, view.to, write => write.from, write => write.to, item => {
      const x = xOf(item.from), end = Math.max(x + 1.5, Math.min(place.width + 4, xOf(item.to))), alpha = faded(item.i);
      // A label that the next bar would stand in is left out.
      if (label && label.end < x) write();
      label = null;
      pen.globalAlpha = alpha;
      pen.fillStyle = colours.soft;
      pen.fillRect(x, y - 2, end - x, 4);
      if (!item.durable && item.to < END) glyph("✕", end, y, colours.bad, 10);
      pen.globalAlpha = 1;
      marks.push({ x, y, i: item.i });
      if (events >= 400 || x <= place.left) return;
      const text = R[item.i].line.replace(/^n\d+ writes #\d+ ?/, "").replace(" []", "");
      pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
      label = { text, x: end + 3, end: end + 6 + pen.measureText(text).width, alpha };
    });
    write();
  }
}

/** How much of something is seen, by the search. */
const faded = i => (look.match && !look.match[i] ? (look.only ? 0 : .15) : 1);
const fadedMessage = said => (!look.match || look.match[said.i] || said.ends.some(end => end.i !== null && look.match[end.i])
  ? 1 : look.only ? 0 : .12);

function drawMessages() {
  const seen = [];
  visible(model.messages, model.latest, view.from, view.to, said => said.at, said => said.last, said => {
    if (!off.has(said.group) && !(said.lost && off.has("lost"))) seen.push(said);
  });
  const crowded = seen.length > MESSAGES_MAX;
  const batches = new Map();
  for (const said of seen) {
    const alpha = fadedMessage(said);
    if (!alpha || (crowded && !GROUPS[said.group].always && !(look.match && alpha === 1))) continue;
    const key = `${said.group} ${alpha}`;
    if (!batches.has(key)) batches.set(key, []);
    batches.get(key).push(said);
  }
  if (crowded) drawDensity(seen);
  const heads = seen.length < 1500;
  for (const [key, batch] of batches) {
    const [group, alpha] = key.split(" ");
    const style = GROUPS[group];
    const crowd = batch.length > 1200 ? .35 : batch.length > 400 ? .6 : crowded ? .7 : 1;
    pen.globalAlpha = Number(alpha) * crowd;
    pen.strokeStyle = pen.fillStyle = colours[style.colour];
    pen.lineWidth = crowded ? Math.min(1.2, style.width) : style.width;
    pen.setLineDash(style.dash);
    pen.beginPath();
    const ends = [];
    for (const said of batch) {
      const [x0, y0, y1] = [xOf(said.at), yOf(said.from), yOf(said.to)];
      if (said.lost) {
        const x1 = xOf(said.last), half = [(x0 + x1) / 2, (y0 + y1) / 2];
        stroke(x0, y0, ...half, said.i);
        ends.push([...half, 0, 0, "✕"]);
      }
      for (const end of said.ends) {
        const x1 = xOf(end.at);
        stroke(x0, y0, x1, y1, end.i ?? said.i);
        ends.push([x1, y1, x0, y0, end.i === null ? "" : end.heard ? ">" : "✕"]);
      }
    }
    pen.stroke();
    pen.setLineDash([]);
    for (const [x, y, x0, y0, sign] of ends) {
      if (sign === ">" && heads) arrowhead(x, y, x0, y0, style.width);
      if (sign === "✕" && seen.length < MESSAGES_MAX) glyph("✕", x, y, colours.bad, 12);
      pen.fillStyle = colours[style.colour];
    }
    pen.globalAlpha = 1;
  }
}

function stroke(x0, y0, x1, y1, i) {
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  lines.push({ x0, y0, x1, y1, i });
}

function arrowhead(x, y, x0, y0, width) {
  const length = Math.hypot(x - x0, y - y0) || 1, ux = (x - x0) / length, uy = (y - y0) / length;
  const size = 5 + width;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x - ux * size - uy * size * .4, y - uy * size + ux * size * .4);
  pen.lineTo(x - ux * size + uy * size * .4, y - uy * size - ux * size * .4);
  pen.fill();
}

/** Where single messages would be a blot: how many are sent on each lane, as a skyline under it. */
function drawDensity(seen) {
  const columns = Math.max(1, Math.ceil((place.width - place.left) / 3));
  const counts = Array.from({ length: model.nodes + 1 }, () => new Uint32Array(columns));
  for (const said of seen) {
    const column = Math.floor((xOf(said.at) - place.left) / 3);
    if (column >= 0 && column < columns) counts[said.from][column]++;
  }
  const most = Math.max(1, ...counts.map(row => Math.max(...row)));
  const room = Math.max(6, Math.min(24, place.lane - 30));
  pen.fillStyle = colours.reply;
  pen.globalAlpha = .55;
  for (const node of model.shown) {
    const base = yOf(node) + 8;
    counts[node].forEach((count, column) => {
      if (count) pen.fillRect(place.left + column * 3, base, 2.4, Math.max(1, count / most * room));
    });
  }
  pen.globalAlpha = 1;
}

function glyph(sign, x, y, colour, size) {
  pen.fillStyle = colour;
  pen.font = `${size}px 'DejaVu Sans', system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(sign, x, y);
}
