// What the records say, in the order in which the page needs it. Nothing here draws.
//
// * `R` are the records; an event is named by its number in it. All lists are sorted by time, so that what is visible is
//   found by halving.

const R = JSON.parse(document.getElementById("records").textContent);
const T = Float64Array.from(R, record => record.at_ns);
const END = R.length ? T[R.length - 1] : 1;

/** The first place in a sorted list whose key is not less than `value`. */
function firstFrom(list, value, key = item => item) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(list[middle]) < value) low = middle + 1; else high = middle;
  }
  return low;
}

const model = {
  nodes: 0,
  shown: [],             // the nodes that have a lane: those that ever started or were spoken to
  clients: 0,
  healedAt: Infinity,    // when they end for a majority
  overAt: Infinity,      // when the faults end
  broken: null,          // the record of the broken rule
  segments: [],          // by node: {from, to, role, term, up}
  states: [],            // by node: [event, state or null while down], in order
  messages: [],          // in the order of sending
  messageOf: new Map(),  // by id
  writes: [],            // by node: {from, to, i, durable}
  faults: [],            // {from, to, name, nodes, cuts, label, i, row}
  ops: new Map(),        // by number: {op, client, write, key, from, to, asks, outcome, good, i}
  errands: new Map(),    // by number: {from, to, i}
  elected: [],           // events at which somebody became leader
};

/** The group that a message is drawn and switched with. */
function groupOf(message) {
  switch (message.kind) {
    case "AppendEntries": return message.entries.length ? "append" : "heartbeat";
    case "AppendEntriesReply": return message.conflict ? "conflict" : "reply";
    case "InstallSnapshot": case "InstallSnapshotReply": return "snapshot";
    case "TimeoutNow": return "transfer";
    case "ReadIndex": case "ReadIndexReply": return "read";
    default: return "vote";
  }
}

/** Reads the records once. */
function build() {
  const list = (by, node) => by[node] ??= [];
  const now = [];                       // by node: its open segment
  const inFlight = [];                  // by node: writes that are not durable
  const close = (node, at) => { if (now[node]) { now[node].to = at; now[node] = null; } };
  const open = (node, at, role, term, up) => {
    close(node, at);
    now[node] = { from: at, to: END, role, term, up };
    list(model.segments, node).push(now[node]);
  };
  R.forEach((record, i) => {
    const { at_ns: at, node, what, state } = record;
    model.nodes = Math.max(model.nodes, node ?? 0);
    if (node && state) {
      list(model.states, node).push([i, state]);
      const before = now[node];
      if (!before || !before.up || before.role !== state.role || before.term !== state.term) {
        open(node, at, state.role, state.term, true);
        if (state.role === "Leader") model.elected.push(i);
      }
    }
    switch (what) {
      case "begins": model.nodes = Math.max(model.nodes, record.servers); break;
      case "majority_healed": model.healedAt = at; break;
      case "faults_over": model.overAt = at; break;
      case "broken": model.broken = i; break;
      case "crashes":
        list(model.states, node).push([i, null]);
        open(node, at, null, null, false);
        for (const write of list(inFlight, node)) write.to = at;
        inFlight[node] = [];
        break;
      case "fault": model.faults.push(faultOf(record, i)); break;
      case "sent": {
        const { id, message, arrives_ns } = record;
        const said = { id, i, at, from: message.from, to: message.to, group: groupOf(message), term: message.term,
          kind: message.kind, lost: arrives_ns.length === 0, planned: arrives_ns, ends: [], last: at };
        model.messageOf.set(id, said);
        model.messages.push(said);
        break;
      }
      case "delivered": case "swallowed": {
        const said = model.messageOf.get(record.id);
        if (said) said.ends.push({ at, i, heard: what === "delivered" });
        break;
      }
      case "writes": {
        const write = { from: at, to: END, i, id: record.write, durable: false };
        list(model.writes, node).push(write);
        list(inFlight, node).push(write);
        break;
      }
      case "syncs":
        inFlight[node] = list(inFlight, node).filter(write => {
          if (write.id > record.through) return true;
          write.to = at; write.durable = true;
          return false;
        });
        break;
      case "asks": case "answers": case "serves": case "gives_up": operation(record, i); break;
      case "orders": model.errands.set(record.errand ?? `i${i}`, { from: at, to: at, i, label: `n${node} ${record.order}` }); break;
      case "reports": {
        const errand = model.errands.get(Number(/\d+/.exec(record.errand)?.[0] ?? NaN));
        if (errand) { errand.to = at; errand.label += `: ${record.outcome}`; }
        break;
      }
    }
  });
  for (const said of model.messages) {
    // A copy that has not come when the run ends is still on its way.
    said.ends.sort((a, b) => a.at - b.at);
    for (const planned of said.planned.slice(said.ends.length)) said.ends.push({ at: planned, i: null, heard: false });
    said.last = said.lost ? flight(said) : Math.max(said.at, ...said.ends.map(end => end.at));
  }
  const spoken = new Set(model.messages.map(said => said.to));
  for (let node = 1; node <= model.nodes; node++) if (model.segments[node] || spoken.has(node)) model.shown.push(node);
  model.laneOf = [];
  model.shown.forEach((node, lane) => { model.laneOf[node] = lane; });
  model.latest = latestByBlock(model.messages, said => said.last);
  finishFaults();
  model.opList = [...model.ops.values()].sort((a, b) => a.from - b.from);
  model.latestOp = latestByBlock(model.opList, op => op.to);
  model.errandList = [...model.errands.values()];
  model.latestErrand = latestByBlock(model.errandList, errand => errand.to);
  model.latestWrite = model.writes.map(writes => latestByBlock(writes, write => write.to));
}

/** How far a lost message would have come: the middle of what the link's messages need. */
function flight(said) {
  return said.at + (model.usualFlight ??= usual());
}

function usual() {
  const times = model.messages.filter(said => said.ends.length).map(said => said.ends[0].at - said.at).sort((a, b) => a - b);
  return times.length ? times[times.length >> 1] : 1e6;
}

const BLOCK = 256;

/** The latest end of each block of a list, so that long ones are found from where they are seen. */
function latestByBlock(list, end) {
  const latest = new Float64Array(Math.ceil(list.length / BLOCK));
  list.forEach((item, at) => { latest[at / BLOCK | 0] = Math.max(latest[at / BLOCK | 0], end(item)); });
  return latest;
}

/** Calls `visit` for what lies in [from, to], of a list that is sorted by its beginnings. */
function visible(list, latest, from, to, begin, end, visit) {
  const stop = firstFrom(list, to, begin);
  for (let block = 0; block * BLOCK < stop; block++) {
    if (latest[block] < from) continue;
    for (let at = block * BLOCK; at < Math.min(stop, (block + 1) * BLOCK); at++) if (end(list[at]) >= from) visit(list[at]);
  }
}

function faultOf(record, i) {
  const cuts = record.cuts ?? [], nodes = record.nodes ?? [];
  const name = record.fault + (nodes.length ? " " + nodes.map(node => `n${node}`).join(" ") : "");
  const label = cuts.length === 1 ? `${record.fault} n${cuts[0][0]} ⇥ n${cuts[0][1]}` : name;
  const at = record.at_ns, until = record.until_ns ?? (/for good$/.test(record.fault) ? Infinity : at);
  return { from: at, to: until, name: record.fault, nodes, cuts, label, i, row: 0 };
}

const FAULT_ROWS_MAX = 9;

/** Ends the faults that end early, and gives each a row in which it overlaps no other. */
function finishFaults() {
  const rows = [];
  for (const fault of model.faults) {
    if (fault.from < model.healedAt) fault.to = Math.min(fault.to, model.healedAt);
    if (fault.from < model.overAt) fault.to = Math.min(fault.to, model.overAt);
    if (/^(pause|stall)$/.test(fault.name)) for (const node of fault.nodes) fault.to = Math.min(fault.to, crashAfter(node, fault.from));
    fault.shown = Math.min(fault.to, END);
    if (fault.shown <= fault.from) { fault.row = -1; continue; }
    fault.row = rows.findIndex(free => free <= fault.from);
    if (fault.row < 0) fault.row = rows.length;
    rows[fault.row] = fault.to;
  }
  // What happens at once has the first row for itself.
  model.atOnce = model.faults.filter(fault => fault.row < 0);
  const first = model.atOnce.length ? 1 : 0;
  for (const fault of model.faults) fault.row = Math.min(fault.row + first, FAULT_ROWS_MAX - 1);
  model.faultRows = Math.min(rows.length + first, FAULT_ROWS_MAX);
}

/** When a server crashes next: that ends its pauses and stalls. */
function crashAfter(node, from) {
  const segments = model.segments[node] ?? [];
  for (let at = firstFrom(segments, from, segment => segment.from); at < segments.length; at++) if (!segments[at].up) return segments[at].from;
  return Infinity;
}

function operation(record, i) {
  const at = record.at_ns, ops = model.ops;
  model.clients = Math.max(model.clients, record.client + 1);
  if (record.what === "asks") {
    for (const request of record.requests) {
      let op = ops.get(request.op);
      if (!op) ops.set(request.op, op = { ...request, client: record.client, from: at, to: END, i, events: [], outcome: null, good: false });
      op.events.push(i);
      op.to = END;
    }
    return;
  }
  const op = ops.get(record.op);
  if (!op) return;
  op.events.push(i);
  op.to = at;
  op.outcome = record.what === "serves" ? "served" : record.what === "gives_up" ? record.how : record.outcome;
  op.good = record.what === "serves" || /^Committed/.test(record.outcome ?? "");
}

/** The state of a node after event `i`: null while it is down or was never started. */
function stateAt(node, i) {
  const states = model.states[node] ?? [];
  const at = firstFrom(states, i + 1, entry => entry[0]) - 1;
  return at < 0 ? null : states[at][1];
}

/** The term that an event belongs to. */
function termOf(i) {
  const record = R[i];
  return record.message?.term ?? (record.node ? stateAt(record.node, i)?.term : undefined);
}

/** Compiles a search into a test of events; null if it is empty. */
function compile(text) {
  const words = text.trim().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const tests = words.map(word => {
    const not = word.length > 1 && word.startsWith("-");
    const any = (not ? word.slice(1) : word).split("|").filter(Boolean).map(single);
    return i => any.some(test => test(i)) !== not;
  });
  return i => tests.every(test => test(i));
}

function single(word) {
  let match;
  if ((match = /^n(\d+)$/i.exec(word))) {
    const node = Number(match[1]);
    return i => R[i].node === node || R[i].message?.from === node || R[i].message?.to === node
      || (R[i].nodes ?? []).includes(node) || (R[i].cuts ?? []).some(cut => cut.includes(node));
  }
  if ((match = /^c(\d+)$/i.exec(word))) { const client = Number(match[1]); return i => R[i].client === client; }
  if ((match = /^(?:@|term:)(\d+)$/i.exec(word))) { const term = Number(match[1]); return i => termOf(i) === term; }
  if ((match = /^#(\d+)$/.exec(word))) {
    const op = Number(match[1]);
    return i => R[i].op === op || (R[i].requests ?? []).some(request => request.op === op);
  }
  if ((match = /^what:(\w+)$/i.exec(word))) { const what = match[1].toLowerCase(); return i => R[i].what === what; }
  const wanted = word.toLowerCase();
  if (wanted === "heartbeat") return i => R[i].message !== undefined && groupOf(R[i].message) === "heartbeat";
  if (wanted === "lost") return i => R[i].what === "swallowed" || R[i].arrives_ns?.length === 0;
  return i => R[i].line.toLowerCase().includes(wanted);
}

build();
