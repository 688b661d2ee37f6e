// The diagram, continued: single events on the lanes, the clients' operations, the end, and what is selected.

/** How single events are drawn: sign, colour, how far from the lane, size; `rare` ones also from afar. */
const SIGNS = {
  starts: ["▶", "ink", 0, 11, true],
  crashes: ["✖", "bad", 0, 15, true],
  refuses: ["⊘", "bad", 0, 15, true],
  switched_off: ["⏻", "ink", -11, 12, true],
  fault: ["⚡", "fault", -11, 12, true],
  bootstraps: ["✦", "ink", -11, 10, true],
  votes: ["✓", "vote", -9, 11, false],
  notes: ["i", "soft", -11, 10, false],
  takes: ["·", "soft", 0, 14, false],
  commits: ["▲", "append", 26, 8, false],
  applied: ["●", "read", 34, 6, false],
  compacts: ["◁", "soft", 15, 9, false],
  reads_log: ["▤", "soft", 15, 9, false],
  takes_snapshot: ["◇", "snapshot", 27, 11, false],
  took_snapshot: ["◆", "snapshot", 15, 11, true],
  lost_snapshot: ["◇", "bad", 15, 11, true],
  restores: ["⬖", "snapshot", 27, 11, false],
  restored: ["⬘", "snapshot", 27, 12, true],
  reads_chunk: ["▫", "snapshot", 15, 9, false],
  writes_chunk: ["▪", "snapshot", 15, 9, false],
  drops_snapshot: ["⌫", "snapshot", 15, 9, false],
  asks: ["▽", "client", -11, 8, false],
  answers: ["△", "client", -19, 8, false],
  serves: ["△", "read", -19, 8, false],
  gives_up: ["▿", "bad", -11, 9, false],
};
const TRACKS = { commits: "commit", applied: "commit", asks: "clients", answers: "clients", serves: "clients", gives_up: "clients" };
const RARE = [];                        // events that are drawn from afar
R.forEach((record, i) => { if (record.node && SIGNS[record.what]?.[4]) RARE.push(i); });

function drawEvents(events) {
  const close = events <= EVENTS_MAX;
  const from = firstFrom(T, view.from), to = firstFrom(T, view.to + 1);
  const first = close ? from : firstFrom(RARE, from), last = close ? to : firstFrom(RARE, to);
  const labelled = new Map(), lastX = new Map();
  for (let at = first; at < last; at++) {
    const i = close ? at : RARE[at], record = R[i], sign = SIGNS[record.what];
    if (!sign || !record.node || off.has(TRACKS[record.what])) continue;
    const [text, colour, lower, size] = sign;
    if (lower > 10 && !place.tracks) continue;
    const alpha = faded(i);
    if (!alpha) continue;
    const x = xOf(record.at_ns), y = yOf(record.node) + lower;
    const slot = `${record.node} ${lower} ${text}`;
    marks.push({ x, y, i });
    // One of many at a place is enough; that a server started again at once need not be said.
    if (x - (lastX.get(slot) ?? -1e9) < (close && alpha === 1 ? 1.5 : size * .45)) continue;
    lastX.set(slot, x);
    if (record.what === "starts" && x - (lastX.get(`${record.node} 0 ✖`) ?? -1e9) < 9) continue;
    pen.globalAlpha = alpha;
    if (record.what === "crashes" || record.what === "refuses") halo(x, y, 8);
    glyph(text, x, y, colours[colour], size);
    if (record.what === "commits" && events < 900) {
      const row = `${record.node}`, label = String(record.through);
      if (x > (labelled.get(row) ?? -1e9)) {
        pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
        pen.textAlign = "left";
        pen.fillText(label, x + 5, y + .5);
        labelled.set(row, x + 10 + pen.measureText(label).width);
      }
    }
    pen.globalAlpha = 1;
  }
}

function halo(x, y, radius) {
  pen.fillStyle = colours.back;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fill();
}

/** What the operator ordered, from then to the answer. */
function drawOrders() {
  let labelled = -1e9;
  visible(model.errandList, model.latestErrand, view.from, view.to, errand => errand.from, errand => errand.to, errand => {
    const x = xOf(errand.from), end = Math.min(place.width + 2, xOf(errand.to)), y = place.ordersTop;
    const alpha = faded(errand.i);
    if (!alpha) return;
    pen.globalAlpha = alpha;
    pen.fillStyle = colours.transfer;
    pen.fillRect(x, y, 2, 11);
    pen.fillRect(x, y + 4.5, Math.max(2, end - x), 2);
    marks.push({ x, y: y + 6, i: errand.i, wide: Math.max(2, end - x) });
    const left = Math.max(x, place.left) + 4;
    if (left >= labelled && nextOrder(errand) - left > 60) {
      pen.font = "10.5px system-ui, 'DejaVu Sans', sans-serif";
      pen.textAlign = "left";
      pen.textBaseline = "middle";
      const width = Math.min(nextOrder(errand) - left - 4, pen.measureText(errand.label).width + 4);
      pen.fillStyle = colours.back;
      pen.fillRect(left, y, width, 11);
      clipped(errand.label, left + 1, y + 6, width, colours.ink);
      labelled = left + width;
    }
    pen.globalAlpha = 1;
  });
}

/** Where the order after this one is drawn. */
function nextOrder(errand) {
  const after = model.errandList[firstFrom(model.errandList, errand.from + 1, other => other.from)];
  return after ? Math.min(place.width, xOf(after.from)) : place.width;
}

/** A row for each client, a bar for each operation: full if it succeeded, hollow if not. */
function drawClients() {
  const row = place.clientRow, last = [];
  visible(model.opList, model.latestOp, view.from, view.to, op => op.from, op => op.to, op => {
    const x = xOf(op.from), end = Math.min(place.width + 2, xOf(op.to));
    const y = place.clientsTop + 4 + op.client * row, width = Math.max(1.5, end - x);
    const alpha = !look.match || op.events.some(i => look.match[i]) ? 1 : look.only ? 0 : .15;
    // Many short ones at a place are one bar.
    if (!alpha || (width < 2 && x - (last[op.client] ?? -1e9) < 1.5)) return;
    last[op.client] = x;
    pen.globalAlpha = alpha * .85;
    pen.fillStyle = pen.strokeStyle = op.write ? colours.append : colours.read;
    if (op.good) pen.fillRect(x, y, width, Math.max(1.5, row - 1.5));
    else { pen.lineWidth = 1; pen.strokeRect(x + .5, y + .5, Math.max(1, width - 1), Math.max(1, row - 2.5)); }
    pen.globalAlpha = 1;
    if (row >= 3) marks.push({ x, y: y + row / 2, i: op.i, wide: width });
  });
}

/** Where the faults end, and where the run does. */
function drawEnds() {
  if (model.healedAt >= view.from && model.healedAt <= view.to) rule(xOf(model.healedAt), colours.read, [2, 4], "a majority is healed", 1.5);
  if (model.overAt >= view.from && model.overAt <= view.to) rule(xOf(model.overAt), colours.read, [6, 4], "the faults are over", 1.5);
  if (model.broken === null) return;
  const x = xOf(R[model.broken].at_ns);
  if (x < place.left - 4 || x > place.width + 4) return;
  rule(Math.min(x, place.width - 2), colours.bad, [], `✖ ${R[model.broken].checker}`, 3);
  // The node that the checker speaks of first is where to look.
  const node = Number(/\bn(\d+)/.exec(R[model.broken].found)?.[1]);
  const y = model.laneOf[node] === undefined ? place.lanesTop : yOf(node);
  halo(x, y, 10);
  glyph("✖", x, y, colours.bad, 20);
  marks.push({ x, y, i: model.broken });
}

function rule(x, colour, dash, label, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.setLineDash(dash);
  pen.beginPath();
  pen.moveTo(x, place.axis);
  pen.lineTo(x, place.height);
  pen.stroke();
  pen.setLineDash([]);
  pen.font = "700 12px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  const needs = pen.measureText(label).width + 12, left = x + needs > place.width ? x - needs - 3 : x + 3;
  pen.fillStyle = colours.back;
  pen.fillRect(left, 3, needs, 18);
  pen.fillStyle = colour;
  pen.textAlign = "left";
  pen.fillText(label, left + 6, 12);
}

/** The message that an event is about, with its own ends. */
const messageOf = i => (R[i].message ? model.messageOf.get(R[i].id) : undefined);

function drawSelected() {
  for (const [i, strong] of [[look.over, false], [look.selected, true]]) {
    if (i === null) continue;
    const record = R[i], x = xOf(record.at_ns), said = messageOf(i);
    if (strong) {
      pen.strokeStyle = colours.accent;
      pen.lineWidth = 1;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(x, place.axis);
      pen.lineTo(x, place.height);
      pen.stroke();
      pen.setLineDash([]);
    }
    if (said) {
      pen.strokeStyle = pen.fillStyle = colours[GROUPS[said.group].colour];
      const [x0, y0, y1] = [xOf(said.at), yOf(said.from), yOf(said.to)];
      const ends = said.lost ? [[(x0 + xOf(said.last)) / 2, (y0 + y1) / 2]] : said.ends.map(end => [xOf(end.at), y1]);
      for (const [x1, end] of ends) {
        pen.lineWidth = GROUPS[said.group].width + 2;
        pen.beginPath();
        pen.moveTo(x0, y0);
        pen.lineTo(x1, end);
        pen.stroke();
        if (!said.lost) arrowhead(x1, end, x0, y0, 5);
      }
    }
    if (record.node) {
      pen.strokeStyle = colours.accent;
      pen.lineWidth = strong ? 3 : 2;
      pen.beginPath();
      pen.arc(x, yOf(record.node), 8, 0, 7);
      pen.stroke();
    }
  }
}

/** The event nearest to a place on the canvas; null if none is near. */
function eventAt(x, y) {
  let best = null, nearest = 9;
  for (const mark of marks) {
    const dx = mark.wide ? Math.max(0, mark.x - x, x - mark.x - mark.wide) : Math.abs(mark.x - x);
    const distance = Math.hypot(dx, mark.y - y);
    if (distance < nearest) { nearest = distance; best = mark.i; }
  }
  // Signs are small and lines are long: a line has to be nearer.
  for (const line of nearest > 4 && lines.length < 2 * MESSAGES_MAX ? lines : []) {
    const distance = distanceTo(line, x, y) + 2;
    if (distance < nearest) { nearest = distance; best = line.i; }
  }
  return best;
}

function distanceTo({ x0, y0, x1, y1 }, x, y) {
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2 || 1;
  const along = Math.max(0, Math.min(1, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length));
  return Math.hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y);
}
