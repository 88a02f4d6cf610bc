// Shows the operators' page in one state, without a service: answers the page's requests with data that were recorded from a real
// service and changed for this state. Then checks the page, and sends the findings to states.html, which embeds this page.
//
// tests/page/run inserts this file into a copy of the page, in a function that runs before the script of the page. The function also
// defines STATE (the name of the state), IDLE (the data of a service that has done nothing) and BUSY (the data of a service under
// load).

// The numbers of transactions that the service seems to answer between two requests of the page.
const COMMITTED = 1000, REPLAYED = 200, REJECTED = 34;
// The number of requests of the page before the checks.
const LOOKS = 5;

const circuit = (stats, index = 0) => stats.circuits.circuits[index];
function change(from, to, reason) {
  return { time: "2026-11-28T02:13:14.5Z", from: `CIRCUIT_STATE_${from}`, to: `CIRCUIT_STATE_${to}`, reason, slow_rate: 0.734, overdue: "17" };
}
function set(stats, state, extra) {
  Object.assign(circuit(stats), { state: `CIRCUIT_STATE_${state}`, effective_state: `CIRCUIT_STATE_${state}`, in_state: "200.5s" }, extra);
}

// Each state: the recorded data, a function that changes the data, the text of the header, texts that the page must show (`shows`), and
// texts that it must not show (`hides`).
const STATES = {
  idle: {
    data: IDLE,
    header: "SERVING · breaker closed",
    shows: ["No transaction was answered since start.", "No call failed and no transaction was rejected.", "No authentication failed.",
      "No call ended in this time.", "No block was written.", "No commit.", "The queue is empty now.", "Every request was executed.", "No change of state since start.",
      "last 10 s: no calls", "0 committed/s, 0 replayed/s, 0 rejected/s"],
    hides: ["RUNBOOK"],
  },
  load: {
    data: BUSY,
    change(stats) {
      Object.assign(stats.service, {
        uptime_seconds: 266_520, resident_bytes: 123_456_789, disk_free_bytes: 61e9, disk_total_bytes: 98e9, connections: 3,
        connections_max: 9000, connections_rejected: 12, operators_connections: 2, certificate_expires_unix_seconds: Date.now() / 1000 + 100 * 86_400 + 19_800,
        errors: [["INSUFFICIENT_FUNDS", 1_234_567], ["COMPRESSION_NOT_SUPPORTED", 2]],
        auth_failures: [["client_certificate", 12_345], ["missing_token", 1]],
      });
      stats.batches.ledger.journal_bytes = "2100000000";
      circuit(stats).window.min_calls_met = true;
    },
    header: "SERVING · breaker closed",
    // 1,234 is the sum of the committed, replayed and rejected transactions.
    shows: ["1,234 transactions/s answered, last second", "1,000 committed/s, 200 replayed/s, 34 rejected/s", "Uptime", "3 d 2 h", "since 20",
      "Connections", "3 open", "of at most 9,000; 12 rejected since start; 2 to the operators' port", "Journal", "1.96 GiB", "Disk free", "56.8 GiB",
      "of 91.3 GiB (62.2 %)",
      "Memory", "118 MiB", "expires in 100 d 5 h", "By reason, since start", "INSUFFICIENT_FUNDS", "1,234,567", "COMPRESSION_NOT_SUPPORTED",
      "client certificate missing or not accepted", "12,345", "last 10 s", "Parts of a call, since start", "Blocks of the journal, since start", "records in a block",
      "2 min ago", "1 min ago", "100 µs", "10 ms", "1 s", "/s"],
    hides: ["No block was written", "No commit.", "RUNBOOK"],
  },
  standby: {
    data: BUSY,
    change(stats) {
      stats.replica = { replica: { role: "REPLICA_ROLE_STANDBY", term: "7", leader: "http://tally-1:50051", address: "http://tally-0:50051", lag: "0.020s", caught_up: true } };
    },
    header: "SERVING · breaker closed",
    shows: ["Replica", "standby", "term 7; http://tally-1:50051 leads; 20 ms behind the log, caught up"],
    hides: ["RUNBOOK"],
  },
  open: {
    data: BUSY,
    change: stats => set(stats, "OPEN", { next_probe: "4.2s", history: [change("CLOSED", "OPEN", "slow_rate")] }),
    header: "SERVING · breaker open",
    shows: ["Breaker ProcessTransaction is open: calls are rejected with CIRCUIT_OPEN", "docs/runbooks/TallyBreakerOpen.md", "next probe in 4.2 s",
      "for 3 min 20 s", "closed → open", "reason: slow_rate; 73.4 % slow, 17 overdue", "mode: automatic"],
  },
  forced_open: {
    data: BUSY,
    change: stats => {
      set(stats, "OPEN", { mode: "CIRCUIT_MODE_FORCED_OPEN", state: "CIRCUIT_STATE_CLOSED", next_probe: "0s", open_remaining: "0s" });
      Object.assign(circuit(stats, 1), { state: "CIRCUIT_STATE_OPEN", effective_state: "CIRCUIT_STATE_OPEN", reason_opened: "forced", in_state: "3s" });
    },
    header: "SERVING · breaker open",
    shows: ["An operator holds breaker ProcessTransaction open (mode forced open): calls are rejected with CIRCUIT_OPEN",
      "An operator has opened breaker ProcessTransactions for a limited time: calls are rejected with CIRCUIT_OPEN",
      "held by an operator (stored state closed)", "mode: forced open", "docs/runbooks/TallyBreakerOpen.md"],
    hides: ["for 3 min 20 s"],
  },
  half_open: {
    data: BUSY,
    change: stats => set(stats, "HALF_OPEN", { probes: { permits: 10, issued: 5, good: 3, bad: 1 },
      history: [change("CLOSED", "OPEN", "slow_rate"), change("OPEN", "HALF_OPEN", "open_elapsed")] }),
    header: "SERVING · breaker half open",
    shows: ["Breaker ProcessTransaction is half open", "probes: 3 good and 1 bad of 10; 8 good ones end this state", "newest first", "open → half open"],
  },
  ramp: {
    data: BUSY,
    change: stats => set(stats, "RAMP", { ramp_weight: 0.35, history: [change("HALF_OPEN", "RAMP", "probes_passed")] }),
    header: "SERVING · breaker ramping up",
    shows: ["Breaker ProcessTransaction is ramping up: it admits 35.0 % of the calls", "half open → ramping up"],
  },
  starting: {
    data: IDLE,
    change: stats => { stats.service.state = "STARTING"; },
    header: "STARTING · breaker closed",
    shows: ["The service is starting. It does not accept calls yet."],
  },
  draining: {
    data: BUSY,
    change: stats => { stats.service.state = "DRAINING"; },
    header: "DRAINING · breaker closed",
    shows: ["The service is stopping. It finishes the calls in flight and accepts no more calls."],
  },
  store_failed: {
    data: BUSY,
    change: stats => { stats.service.state = "STORE_FAILED"; },
    header: "STORE FAILED",
    shows: ["A write to the journal failed.", "docs/runbooks/TallyStoreFailed.md"],
  },
  disk_full: {
    data: BUSY,
    change: stats => { stats.service.disk_full = true; },
    header: "SERVING · breaker closed",
    shows: ["The disk has no space for the next segment of the journal.", "docs/runbooks/TallyDiskFills.md"],
  },
  clock_held: {
    data: BUSY,
    change: stats => { stats.service.clock_held_seconds = -7200; },
    header: "SERVING · breaker closed",
    shows: ["The system clock stepped", "back. The time of the ledger does not follow it", "docs/runbooks/TallyClockHeld.md"],
  },
  panicked: {
    data: BUSY,
    change: stats => { stats.service.state = "PANICKED"; },
    header: "PANICKED",
    shows: ["A thread of the service panicked.", "docs/runbooks/TallyPanicked.md"],
  },
  warnings: {
    data: BUSY,
    change(stats) {
      Object.assign(stats.service, { journal_damages: 2, disk_free_bytes: 1.23e9, disk_total_bytes: 98e9,
        certificate_expires_unix_seconds: Date.now() / 1000 + 3 * 86_400 + 19_800 });
      stats.topology.decision.warnings = [{ detail: "The process may use 2 of 8 CPUs.", remedy: "Allow more." }];
      stats.topology.online_cpus = "0-7";
      Object.assign(stats.topology.threads[0], { wanted_cpus: "1", pinned: false, actual_cpus: "0-1" });
      Object.assign(stats.batches, { queue_depth: "1", queue_capacity: "4", full: "7", expired: "1234567" });
    },
    header: "SERVING · breaker closed",
    shows: ["Damage was found in the journal (2 findings since start)", "Only 1.15 GiB of the disk are free.", "The certificate expires in 3 d 5 h.",
      "The process may use 2 of 8 CPUs. Allow more.", "not on its CPUs (1)", "not allowed", "Now: 1 request of at most 4.",
      "the queue was full", "the deadline passed in the queue"],
  },
  expired: {
    data: BUSY,
    change: stats => { stats.service.certificate_expires_unix_seconds = Date.now() / 1000 - 60; },
    header: "SERVING · breaker closed",
    shows: ["The certificate has expired: clients reject it.", "docs/runbooks/TallyCertificateExpires.md"],
  },
  gone: {
    data: BUSY,
    answers: 2,
    header: "NO ANSWER",
    shows: ["The service does not answer since 20", "The values below are from this time.", "Uptime"],
  },
  never: {
    data: IDLE,
    answers: 0,
    header: "NO ANSWER",
    shows: ["The service does not answer. This page asks again every second."],
    hides: ["Throughput", "since start"],
  },
};

const state = STATES[STATE];
let looks = 0;
// The page computes rates with this clock. Between two requests of the page, this clock advances by one second, however fast the browser
// runs.
performance.now = () => looks * 1000;
window.fetch = async () => {
  looks += 1;
  if (looks > (state.answers ?? Infinity)) throw new TypeError("the service is gone");
  const stats = structuredClone(state.data);
  if (state.data === BUSY) {
    const ledger = stats.batches.ledger, more = { committed: COMMITTED, replayed: REPLAYED, rejected: REJECTED };
    for (const [name, count] of Object.entries(more)) ledger[name] = String(Number(ledger[name]) + count * looks);
  }
  state.change?.(stats);
  return new Response(JSON.stringify(stats));
};

function checkTexts(found) {
  // The page joins a number and its unit with a no-break space.
  const text = document.body.innerText.replaceAll("\u00a0", " "), header = document.getElementById("state").textContent;
  if (header !== state.header) found(`the header shows "${header}", not "${state.header}"`);
  if (!document.title.startsWith(header)) found(`the title is "${document.title}"`);
  for (const wanted of state.shows) if (!text.includes(wanted)) found(`the page does not show "${wanted}"`);
  const broken = ["NaN", "undefined", "null", "Infinity", "[object"];
  for (const other of [...broken, ...(state.hides || [])]) {
    const hidden = other === "RUNBOOK" ? "docs/runbooks" : other;
    if (text.includes(hidden)) found(`the page shows "${hidden}"`);
  }
}
function checkHistogram(found) {
  const labels = [...document.querySelectorAll("#bounds span")].map(label => label.getBoundingClientRect());
  labels.slice(1).forEach((label, index) => { if (label.left < labels[index].right + 2) found("labels of the histogram overlap"); });
}

addEventListener("error", event => parent.postMessage({ error: `${STATE}: ${event.message} (line ${event.lineno})` }, "*"));
const waiting = setInterval(() => {
  if (looks < LOOKS) return;
  clearInterval(waiting);
  const findings = [], found = text => findings.push(text);
  checkTexts(found);
  const lowest = checkContrast(found, state.answers === 0 ? 0 : 40);
  checkLayout(found);
  checkHistogram(found);
  checkAccessibility(found);
  parent.postMessage({
    state: STATE,
    width: document.documentElement.clientWidth,
    theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
    height: document.documentElement.scrollHeight,
    lowest: lowest.toFixed(2),
    findings,
  }, "*");
}, 500);
