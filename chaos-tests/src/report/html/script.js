"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { summary, begin, timeline } = data;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  // ---- elements and figures -------------------------------------------------
  // Texts only ever become text nodes, so that nothing in the data is markup.
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    for (const child of children) element.append(child);
    return element;
  }
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  const whole = (n) => Math.round(n).toLocaleString("en");
  const many = (n) => (n < 1e7 ? whole(n) : n < 1e10 ? `${round(n / 1e6)} M` : `${round(n / 1e9)} G`);
  function time(us) {
    if (us < 1000) return `${Math.round(us)} µs`;
    if (us < 1e6) return `${round(us / 1000)} ms`;
    if (us < 120e6) return `${round(us / 1e6)} s`;
    if (us < 7200e6) return `${round(us / 60e6)} min`;
    return `${round(us / 3600e6)} h`;
  }
  const round = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2)).replace(/\.0+$/, "");
  // A moment, as fine as the span that is shown asks for.
  function moment(us, span) {
    const digits = span < 1e4 ? 6 : span < 1e5 ? 4 : span < 5e6 ? 3 : span < 3e7 ? 1 : 0;
    const seconds = us / 1e6;
    if (Math.abs(seconds) < 60) return `${seconds.toFixed(digits)} s`;
    const pad = (n) => String(n).padStart(2, "0");
    const rest = (seconds % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    const minutes = Math.floor(seconds / 60);
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${rest}`;
  }
  function rate(p) {
    const percent = p * 100;
    return percent >= 10 ? `${percent.toFixed(0)} %` : percent >= 0.1 ? `${percent.toFixed(2)} %` : `${percent.toPrecision(2)} %`;
  }
  function table(id, caption, heads, rows) {
    const tag = ([text, kind]) => el("th", { scope: "col", class: kind }, text);
    $(id).append(el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads.map(tag))), el("tbody", {}, ...rows));
  }
  const cell = (text, kind) => el("td", { class: kind }, text);
  const held = (good, bad = "✗ FAILED") => el("td", { class: good ? "verdict good" : "verdict bad" }, good ? "✓ holds" : bad);

  // ---- tooltip ---------------------------------------------------------------
  const tips = new WeakMap();
  const tip = $("tip");
  const hot = (element, text) => {
    tips.set(element, text);
    element.classList.add("hot");
    return element;
  };
  document.addEventListener("pointermove", (event) => {
    const text = event.target instanceof Element ? tips.get(event.target) : undefined;
    tip.hidden = text === undefined;
    if (text === undefined) return;
    tip.textContent = typeof text === "function" ? text(event) : text;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    const below = event.clientY + 18;
    tip.style.top = `${below + height < innerHeight ? below : Math.max(4, event.clientY - height - 12)}px`;
  });

  // ---- head -------------------------------------------------------------------
  const verdicts = { passed: ["good", "✓ Passed"], failed: ["bad", "✗ Failed"], aborted: ["warn", "! Did not come to its end"] };
  const [tone, verdict] = verdicts[summary.outcome];
  const profiles = summary.profiles.join(", ") || "unknown profile";
  document.title = `${verdict} · ${profiles} · R-VMM fault report`;
  const about = [];
  if (summary.targets.length) about.push(summary.targets.join(", "));
  if (summary.versions.length) about.push(`R-VMM ${summary.versions.join(", ")}`);
  if (summary.first_seed !== null) about.push(`seed ${summary.first_seed}`);
  if (summary.started_unix_us !== null) about.push(new Date(summary.started_unix_us / 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC");
  about.push(`took ${time(summary.duration_us)}`);
  $("head").append(
    el("div", { class: "headline" }, el("h1", {}, `Fault report: ${profiles}`), el("span", { class: `badge ${tone}`, id: "verdict" }, verdict)),
    el("p", { class: "about" }, about.join(" · ")),
  );

  const counts = summary.counts;
  const totals = data.phases.total;
  const figures = [];
  const figure = (label, value, kind) => figures.push(el("div", { class: "figure" }, el("span", { class: `value ${kind || ""}` }, value), el("span", { class: "label" }, label)));
  const zero = (label, n) => figure(label, whole(n), n ? "bad" : "good");
  if (summary.seeds) figure(summary.simulated_us ? `seeds, ${time(summary.simulated_us)} simulated` : "seeds", whole(summary.seeds));
  figure("requests answered", many(summary.operations));
  figure("faults injected", many(data.faults_total));
  figure("failovers", many(totals[0]));
  if (totals[0]) figure("failover, 99 of 100 within", time(totals[3]));
  figure("longest pause seen", summary.pauses.longest ? time(summary.pauses.longest.duration_us) : "none");
  zero("lost", counts.lost + counts.events_missing);
  zero("doubled", counts.doubled + counts.events_doubled);
  zero("out of order", counts.events_reordered);
  zero("errors", counts.errors);
  zero("disconnects", counts.disconnects);
  if (summary.retired) figure("damaged replicas that nobody noticed, retired", whole(summary.retired));
  if (summary.stalls.count) figure(`stalls of the run itself, ${whole(counts.pauses_excused)} pauses excused`, whole(summary.stalls.count));
  $("figures").append(...figures);
  if (summary.reasons.length) {
    $("why").hidden = false;
    $("reasons").append(...summary.reasons.map((reason) => el("li", {}, reason)));
  }

  // ---- the span that is shown ----------------------------------------------------
  const { roles, faults, failovers, pauses, samples, client_faults: clientFaults } = timeline;
  const end = Math.max(summary.duration_us, 1);
  const view = { from: 0, to: end };
  const GUTTER = 168, RIGHT = 14;
  const width = (host) => Math.max(host.clientWidth, 480);
  const scale = (w) => (us) => GUTTER + ((us - view.from) / (view.to - view.from)) * (w - GUTTER - RIGHT);
  const seen = (from, to) => to >= view.from && from <= view.to;
  function show(from, to) {
    const span = Math.min(Math.max(to - from, 50), end);
    view.from = Math.min(Math.max(from, 0), end - span);
    view.to = view.from + span;
    drawSpan();
  }
  const middle = () => (view.from + view.to) / 2;
  const zoomBy = (factor) => {
    const half = ((view.to - view.from) * factor) / 2;
    show(middle() - half, middle() + half);
  };
  const shiftBy = (share) => {
    const by = (view.to - view.from) * share;
    show(view.from + by, view.to + by);
  };
  const actions = { "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2), "0": () => show(0, end), ArrowLeft: () => shiftBy(-0.25), ArrowRight: () => shiftBy(0.25) };
  const button = (label, text, action) => {
    const made = el("button", { type: "button", "aria-label": label, title: label }, text);
    made.addEventListener("click", action);
    return made;
  };
  $("zoom").append(button("Earlier", "←", actions.ArrowLeft), button("Later", "→", actions.ArrowRight), button("Zoom in", "+", actions["+"]), button("Zoom out", "−", actions["-"]), button("Show all", "All", actions["0"]));

  // Makes a chart's frame with a time axis; dragging over it zooms in.
  function frame(host, height, label) {
    const w = width(host);
    const x = scale(w);
    const root = svg("svg", { viewBox: `0 0 ${w} ${height}`, height, role: "img", tabindex: 0, "aria-label": label });
    root.append(svg("rect", { x: GUTTER, y: 0, width: w - GUTTER - RIGHT, height, fill: "transparent" }));
    const span = view.to - view.from;
    const rough = span / Math.max(2, (w - GUTTER) / 110);
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 3e7, 6e7, 1.2e8, 3e8, 6e8, 1.2e9, 1.8e9, 3.6e9, 7.2e9, 1.44e10, 4.32e10, 8.64e10];
    const step = steps.find((s) => s >= rough) || steps[steps.length - 1] * Math.ceil(rough / steps[steps.length - 1]);
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      root.append(svg("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - 20 }));
      root.append(svg("text", { x: x(at), y: height - 5, "text-anchor": x(at) > w - 50 ? "end" : "middle" }, moment(at, span)));
    }
    const place = (event) => {
      const box = root.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * w;
      return Math.min(Math.max(at, GUTTER), w - RIGHT);
    };
    const time_at = (at) => view.from + ((at - GUTTER) / (w - GUTTER - RIGHT)) * (view.to - view.from);
    let start = null;
    const brush = svg("rect", { class: "brush", y: 0, height: height - 20, width: 0 });
    root.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      start = place(event);
      root.setPointerCapture(event.pointerId);
      root.append(brush);
    });
    root.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const now = place(event);
      brush.setAttribute("x", Math.min(start, now));
      brush.setAttribute("width", Math.abs(now - start));
    });
    root.addEventListener("pointerup", (event) => {
      if (start === null) return;
      const [a, b] = [start, place(event)].sort((p, q) => p - q);
      start = null;
      brush.remove();
      brush.setAttribute("width", 0);
      if (b - a > 4) show(time_at(a), time_at(b));
    });
    root.addEventListener("dblclick", () => show(0, end));
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
      host.querySelector("svg").focus();
    });
    return { root, w, x, span };
  }

  // ---- replicas: lives, packed into as few rows as lived at a time ---------------------
  const ROLE = { started: "starting", learner: "learner", standby: "standby", candidate: "candidate", primary: "primary", fenced: "fenced" };
  function livesOf() {
    const open = new Map();
    const lives = [];
    for (const change of roles) {
      let life = open.get(change.replica);
      if (!life) {
        life = { replica: change.replica, from: change.at_us, to: null, parts: [] };
        open.set(change.replica, life);
        lives.push(life);
      }
      const last = life.parts[life.parts.length - 1];
      if (last && last.to === null) last.to = change.at_us;
      if (change.role === "gone") {
        life.to = change.at_us;
        open.delete(change.replica);
        if (last) last.ended = change.cause;
        if (!life.parts.length) lives.pop();
      } else {
        life.parts.push({ role: change.role, from: change.at_us, to: null, generation: change.generation, cause: change.cause, replica: change.replica });
      }
    }
    const rows = [];
    for (const life of lives) {
      for (const part of life.parts) if (part.to === null) part.to = life.to === null ? end : life.to;
      life.to = life.to === null ? end : life.to;
      let row = rows.findIndex((busy) => busy <= life.from);
      if (row < 0) row = rows.push(0) - 1;
      rows[row] = life.to;
      life.row = row;
    }
    return { lives, rows: rows.length };
  }
  const { lives, rows: lifeRows } = livesOf();
  const byRow = Array.from({ length: lifeRows }, () => []);
  for (const life of lives) byRow[life.row].push(...life.parts);
  // A candidate serves from `primary` on; the next primary ends the one before.
  const reigns = lives.flatMap((life) => life.parts.filter((part) => part.role === "primary")).sort((a, b) => a.from - b.from);
  const partTip = (part) =>
    `replica ${part.replica}: ${ROLE[part.role]}, generation ${part.generation}\n${moment(part.from, 1e6)} to ${moment(part.to, 1e6)} (${time(part.to - part.from)})` +
    (part.cause ? `\n${part.cause}` : "") + (part.ended ? `\nended: ${part.ended}` : "");
  const primaryTone = (part) => (part.generation % 2 ? "var(--primary)" : "var(--primary-2)");
  const partTone = (part) => (part.role === "primary" ? primaryTone(part) : `var(--${part.role})`);

  // Draws spans; those too narrow to be seen share one pixel.
  function spans(group, parts, x, y, height, tone, kind, label, text) {
    let filled = -1;
    for (const part of parts) {
      if (!seen(part.from, part.to)) continue;
      const left = Math.max(x(Math.max(part.from, view.from)), GUTTER);
      const right = x(Math.min(part.to, view.to));
      if (right <= filled) continue;
      const from = Math.max(left, filled);
      const wide = Math.max(right - from, 1);
      filled = from + wide;
      group.append(hot(svg("rect", { class: kind, x: from.toFixed(2), y, width: wide.toFixed(2), height, fill: tone(part) }), text(part)));
      const name = label && label(part);
      if (name && wide > name.length * 7 + 6) group.append(svg("text", { class: part.role === "standby" || part.role === "learner" ? "over" : "on", x: (from + wide / 2).toFixed(1), y: y + height / 2 + 4, "text-anchor": "middle" }, name));
    }
  }

  // ---- timeline -------------------------------------------------------------------------
  const classes = [...new Set(faults.map((fault) => fault.class))].sort((a, b) => Object.keys(data.classes).indexOf(a) - Object.keys(data.classes).indexOf(b));
  const byClass = new Map(classes.map((name) => [name, faults.filter((fault) => fault.class === name)]));
  const failed = (fault) => fault.judged && fault.judged.outcome === "FAILED";
  function faultTip(fault) {
    const parameters = Object.entries(fault.parameters || {}).map(([name, value]) => `${name} = ${value}`);
    const lines = [`${fault.class} on ${fault.component}${fault.target ? ` (${fault.target})` : ""} at ${moment(fault.at_us, 1e6)}`, ...parameters];
    if (fault.healed_us !== null) lines.push(`healed after ${time(fault.healed_us - fault.at_us)}`);
    lines.push(fault.judged ? `ended: ${fault.judged.outcome}` : "not judged");
    if (fault.judged && fault.judged.note) lines.push(fault.judged.note);
    return lines.join("\n");
  }
  function faultsTip(group) {
    if (group.length === 1) return faultTip(group[0]);
    const ends = new Map();
    for (const fault of group) {
      const outcome = fault.judged ? fault.judged.outcome : "not judged";
      ends.set(outcome, (ends.get(outcome) || 0) + 1);
    }
    const span = `${moment(group[0].at_us, 1e6)} to ${moment(group[group.length - 1].at_us, 1e6)}`;
    return `${group.length} × ${group[0].class}, ${span}\n${[...ends].map(([name, n]) => `${n} ${name}`).join("\n")}\nZoom in to tell them apart.`;
  }
  const MARK = 7;
  function faultLane(group, list, x, y, height) {
    const cy = y + height / 2;
    let bin = null;
    const bins = [];
    for (const fault of list) {
      const to = fault.healed_us === null ? fault.at_us : fault.healed_us;
      if (!seen(fault.at_us, to)) continue;
      const at = x(Math.max(fault.at_us, view.from));
      const till = x(Math.min(to, view.to));
      if (till - at > MARK) group.append(svg("rect", { class: "lasting", x: at.toFixed(2), y: cy - 3, width: (till - at).toFixed(2), height: 6 }));
      if (fault.at_us < view.from) continue;
      if (!bin || at - bin.at > MARK) bins.push((bin = { at, faults: [] }));
      bin.faults.push(fault);
    }
    // Where marks would only be a chain, shades tell more: how many there are.
    const dense = bins.length > (x(view.to) - GUTTER) / MARK / 3;
    const most = Math.max(...bins.map((each) => each.faults.length), 1);
    for (const { at, faults: members } of bins) {
      const bad = members.some(failed);
      const skipped = members.every((fault) => fault.judged && fault.judged.outcome === "skipped");
      const kind = `mark${bad ? " failed" : skipped ? " skipped" : ""}`;
      const r = bad ? 6.5 : Math.min(2.6 + Math.log2(members.length) * 0.8, 6);
      if (dense && !bad) {
        const shade = skipped ? 0.2 : 0.3 + 0.7 * (members.length / most);
        const box = svg("rect", { class: "mark dense", x: at.toFixed(1), y: cy - 5, width: Math.max(Math.min(MARK, x(view.to) - at), 1).toFixed(1), height: 10, opacity: shade.toFixed(2) });
        box.dataset.count = members.length;
        group.append(hot(box, faultsTip(members)));
        continue;
      }
      const shape = bad
        ? svg("path", { class: kind, d: `M${at.toFixed(1)} ${cy - r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z` })
        : svg("circle", { class: kind, cx: at.toFixed(1), cy, r: r.toFixed(2) });
      shape.dataset.count = members.length;
      group.append(hot(shape, faultsTip(members)));
    }
  }
  function pauseLane(group, x, y, height) {
    const longest = Math.log10(Math.max(...pauses.map((pause) => pause.duration_us), 10));
    const shortest = Math.log10(Math.max(Math.min(...pauses.map((pause) => pause.duration_us)), 1));
    const bars = new Map();
    for (const pause of pauses) {
      if (!seen(pause.at_us, pause.at_us + pause.duration_us)) continue;
      const at = Math.round(x(Math.max(pause.at_us, view.from)) / 3) * 3;
      const bar = bars.get(at) || { count: 0, longest: pause };
      bar.count += 1;
      if (pause.duration_us > bar.longest.duration_us) bar.longest = pause;
      bars.set(at, bar);
    }
    for (const [at, bar] of bars) {
      const share = (Math.log10(Math.max(bar.longest.duration_us, 1)) - shortest) / Math.max(longest - shortest, 0.3);
      const tall = 4 + share * (height - 6);
      const wide = Math.max(2.4, x(bar.longest.at_us + bar.longest.duration_us) - x(bar.longest.at_us));
      const who = bar.longest.client === undefined ? "all clients" : `client ${bar.longest.client}`;
      const text = `${bar.count === 1 ? "pause" : `${bar.count} pauses, the longest`} of ${time(bar.longest.duration_us)}, ${who}, at ${moment(bar.longest.at_us, 1e6)}`;
      group.append(hot(svg("rect", { class: "pause", x: at, y: (y + height - 1 - tall).toFixed(1), width: Math.min(wide, 4000).toFixed(1), height: tall.toFixed(1) }), text));
    }
  }
  function drawTimeline() {
    const host = $("timeline-chart");
    const lanes = [];
    const lane = (name, id, height, draw, title) => lanes.push({ name, id, height, draw, title });
    if (reigns.length) lane("Primary", "primary", 26, (group, x, y, height) => {
      spans(group, reigns, x, y + 3, height - 6, primaryTone, "primary-span", (part) => `g${part.generation} · r${part.replica}`, partTip);
    }, "Who served when: generation and replica");
    if (failovers.length) lane("Failovers", "failovers", 18, (group, x, y, height) => {
      const gaps = failovers.map((failover) => ({ from: failover.at_us, to: failover.at_us + failover.total_us, failover }));
      spans(group, gaps, x, y + 3, height - 6, () => "var(--failover)", "gap", null, (gap) => failoverTip(gap.failover));
    }, "From the fault to the new primary's first reply");
    byRow.forEach((parts, row) => lane(row ? "" : "Replicas", `replicas-${row}`, 17, (group, x, y, height) => {
      spans(group, parts, x, y + 2, height - 4, partTone, "life", (part) => (part.role === "started" ? null : `r${part.replica}`), partTip);
    }, "Each replica's life, packed into rows"));
    for (const name of classes) lane(name, name, 18, (group, x, y, height) => faultLane(group, byClass.get(name), x, y, height), `${data.classes[name]} ${byClass.get(name).length} shown.`);
    if (pauses.length) lane("Pauses", "pauses", 34, pauseLane, "Answers that took longer than the run's threshold; the height is logarithmic");
    if (clientFaults.length) lane("Client errors", "client-errors", 18, (group, x, y, height) => {
      let last = -10;
      for (const fault of clientFaults) {
        const at = x(fault.at_us);
        if (!seen(fault.at_us, fault.at_us) || at - last < 4) continue;
        last = at;
        group.append(hot(svg("rect", { class: "client-fault", x: at - 1.5, y: y + 3, width: 3, height: height - 6 }), `${fault.what} at client ${fault.client}, ${moment(fault.at_us, 1e6)}\n${fault.detail}`));
      }
    }, "What a client should never see");
    if (!lanes.length) {
      host.replaceChildren(el("p", { class: "note" }, "This run kept no timeline; its figures are below."));
      $("timeline-hint").hidden = true;
      $("zoom").hidden = true;
      return;
    }
    const height = lanes.reduce((sum, { height: h }) => sum + h, 0) + 28;
    const { root, w, x } = frame(host, height, `Timeline of ${faults.length} faults, ${failovers.length} failovers and ${reigns.length} primaries`);
    let y = 2;
    for (const { name, id, height: h, draw, title } of lanes) {
      const group = svg("g", { class: "lane", "data-lane": id });
      if (name) {
        group.append(svg("line", { class: "rule", x1: 0, x2: w - RIGHT, y1: y - 0.5, y2: y - 0.5 }));
        group.append(hot(svg("text", { class: "name", x: 0, y: y + Math.min(h, 26) / 2 + 4.5 }, name), title));
      }
      draw(group, x, y, h);
      root.append(group);
      y += h;
    }
    host.replaceChildren(root);
  }
  const legend = (id, entries) => $(id).replaceChildren(...entries.map(([tone, text]) => el("span", {}, el("i", { style: `background:${tone}` }), text)));
  if (lives.length || faults.length) {
    legend("timeline-legend", [
      ["linear-gradient(90deg, var(--primary) 50%, var(--primary-2) 50%)", "primary (by generation)"],
      ["var(--candidate)", "candidate"], ["var(--standby)", "standby"], ["var(--learner)", "learner"], ["var(--started)", "starting"], ["var(--fenced)", "fenced"],
      ["var(--failover)", "failover"], ["var(--mark)", "fault (larger or stronger: several)"], ["var(--bad)", "broken promise"], ["var(--fence)", "pause"],
    ]);
  }

  // ---- latency --------------------------------------------------------------------------
  const LINES = [["max_us", "longest", "var(--max)"], ["p99_us", "99 of 100 within", "var(--p99)"], ["p50_us", "median", "var(--p50)"]];
  function drawLatency() {
    const host = $("latency-chart");
    const answered = samples.filter((sample) => sample.count > 0);
    $("latency-card").hidden = answered.length === 0;
    if (!answered.length) return;
    const H = 220, TOP = 8, BOTTOM = H - 26;
    const { root, w, x } = frame(host, H, "Client latency over time, logarithmic");
    const low = Math.floor(Math.log10(Math.max(1, Math.min(...answered.map((s) => s.p50_us)))));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...answered.map((s) => s.max_us), 10))));
    const y = (us) => BOTTOM - ((Math.log10(Math.max(us, 1)) - low) / (high - low)) * (BOTTOM - TOP);
    for (let power = low; power <= high; power += 1) {
      const at = y(10 ** power);
      root.append(svg("line", { class: "grid", x1: GUTTER, x2: w - RIGHT, y1: at, y2: at }), svg("text", { x: GUTTER - 8, y: at + 4, "text-anchor": "end" }, time(10 ** power)));
    }
    // More of them than this would only be a veil over the lines.
    const shown = failovers.filter((failover) => seen(failover.at_us, failover.at_us));
    const few = shown.length <= 200;
    $("latency-failovers").textContent = few ? "Thin violet lines are failovers." : "Zoom in to see the failovers.";
    let last = -10;
    for (const failover of few ? shown : []) {
      const at = x(failover.at_us);
      if (at - last < 2) continue;
      last = at;
      root.append(svg("line", { x1: at, x2: at, y1: TOP, y2: BOTTOM, stroke: "var(--failover)", opacity: 0.35 }));
    }
    // One column a pixel and a half: the worst of its intervals.
    const columns = new Map();
    for (const sample of answered) {
      if (!seen(sample.at_us, sample.at_us + sample.interval_us)) continue;
      const at = Math.round(x(sample.at_us + sample.interval_us / 2) / 1.5) * 1.5;
      const column = columns.get(at);
      if (!column) columns.set(at, { ...sample });
      else {
        column.count += sample.count;
        for (const [key] of LINES) column[key] = Math.max(column[key], sample[key]);
      }
    }
    const clip = svg("clipPath", { id: "latency-clip" }, svg("rect", { x: GUTTER, y: 0, width: w - GUTTER - RIGHT, height: BOTTOM }));
    root.append(clip);
    for (const [key, name, tone] of LINES) {
      const points = [...columns].map(([at, column]) => `${at.toFixed(1)} ${y(column[key]).toFixed(1)}`);
      if (points.length === 1) points.push(points[0].replace(/^[\d.]+/, (at) => String(Number(at) + 2)));
      if (points.length) root.append(svg("path", { class: "line", "data-line": name, d: `M${points.join("L")}`, stroke: tone, "clip-path": "url(#latency-clip)" }));
    }
    const cover = svg("rect", { x: GUTTER, y: 0, width: w - GUTTER - RIGHT, height: BOTTOM, fill: "transparent" });
    const keys = [...columns.keys()];
    tips.set(cover, (event) => {
      const box = root.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * w;
      const nearest = keys.reduce((best, key) => (Math.abs(key - at) < Math.abs(best - at) ? key : best), keys[0]);
      const column = columns.get(nearest);
      if (!column) return "no answers";
      return `${moment(column.at_us, 1e6)}: ${whole(column.count)} answers\n${LINES.map(([key, name]) => `${name} ${time(column[key])}`).join("\n")}`;
    });
    root.append(cover);
    host.replaceChildren(root);
  }
  legend("latency-legend", LINES.map(([, name, tone]) => [tone, name]));

  // ---- failovers --------------------------------------------------------------------------
  const PHASES = [["detect", "detect: fault to notice"], ["fence", "fence: old primary stopped for certain"], ["promote", "promote: new primary elected"], ["replay", "replay: its first reply"]];
  const failoverTip = (failover) =>
    `failover to generation ${failover.generation} at ${moment(failover.at_us, 1e6)}: ${time(failover.total_us)}\n${failover.cause}` +
    (failover.from !== undefined && failover.to !== undefined ? `\nreplica ${failover.from} → ${failover.to}` : "") +
    `\n${PHASES.map(([name]) => `${name} ${time(failover[`${name}_us`])}`).join(" · ")}`;
  // In shares each column is as tall as the others, so that one long failover
  // does not hide the phases of the short ones.
  let longestFirst = false, inShares = false;
  function drawFailovers() {
    $("failover-card").hidden = failovers.length === 0;
    if (!failovers.length) return;
    const host = $("failover-chart");
    const w = width(host), H = 230, TOP = 10, BOTTOM = H - 24, LEFT = 74;
    const room = Math.floor((w - LEFT - RIGHT) / 4);
    let bars = longestFirst ? [...failovers].sort((a, b) => b.total_us - a.total_us).slice(0, room) : failovers;
    const each = Math.ceil(bars.length / room);
    if (each > 1) {
      const worst = [];
      for (let at = 0; at < bars.length; at += each) worst.push(bars.slice(at, at + each).reduce((a, b) => (b.total_us > a.total_us ? b : a)));
      bars = worst;
    }
    const sum = (failover) => PHASES.reduce((us, [name]) => us + failover[`${name}_us`], 0);
    const tall = (failover, us) => (inShares ? (us * 100) / Math.max(sum(failover), 1) : us);
    const most = inShares ? 100 : Math.max(...bars.map((failover) => Math.max(failover.total_us, sum(failover), 1)));
    const root = svg("svg", { viewBox: `0 0 ${w} ${H}`, height: H, role: "img", "aria-label": `Phases of ${bars.length} failovers` });
    const rough = most / 4;
    const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) || rough;
    const ceiling = Math.ceil(most / step) * step;
    const y = (us) => BOTTOM - (us / ceiling) * (BOTTOM - TOP);
    for (let us = 0; us <= ceiling; us += step) root.append(svg("line", { class: "grid", x1: LEFT, x2: w - RIGHT, y1: y(us), y2: y(us) }), svg("text", { x: LEFT - 8, y: y(us) + 4, "text-anchor": "end" }, inShares ? `${us} %` : time(us)));
    const pitch = Math.min((w - LEFT - RIGHT) / bars.length, 44);
    const wide = Math.max(pitch - (pitch > 6 ? 2 : 0.5), 1);
    bars.forEach((failover, at) => {
      const group = svg("g", { class: "failover-bar", "data-generation": failover.generation });
      let below = 0;
      for (const [name] of PHASES) {
        const us = tall(failover, failover[`${name}_us`]);
        if (us > 0) group.append(hot(svg("rect", { x: (LEFT + at * pitch).toFixed(2), y: y(below + us).toFixed(2), width: wide.toFixed(2), height: Math.max(y(below) - y(below + us), 0.3).toFixed(2), fill: `var(--${name})` }), failoverTip(failover)));
        below += us;
      }
      root.append(group);
    });
    const what = each > 1 ? `each column: the longest of ${each}, in the order of time` : longestFirst ? "longest first" : "in the order of time";
    root.append(svg("text", { x: LEFT, y: H - 6 }, `${whole(bars.length)} of ${whole(totals[0])} failovers, ${what}`));
    host.replaceChildren(root);
    for (const [made, on] of [[inTime, !longestFirst], [byLength, longestFirst], [shares, inShares]]) made.setAttribute("aria-pressed", on);
  }
  const inTime = button("In the order of time", "By time", () => { longestFirst = false; drawFailovers(); });
  const byLength = button("Longest first", "Longest first", () => { longestFirst = true; drawFailovers(); });
  const shares = button("Each phase's share", "Shares", () => { inShares = !inShares; drawFailovers(); });
  $("order").append(inTime, byLength, shares);
  legend("failover-legend", PHASES.map(([name, text]) => [`var(--${name})`, text]));
  table("phases", "How long the phases took, over all failovers", [["Phase"], ...["median", "90 of 100", "99 of 100", "longest"].map((name) => [name, "number"])],
    [...PHASES.map(([name]) => name), "total"].map((name) => el("tr", {}, el("th", { scope: "row" }, name), ...data.phases[name].slice(1).map((us) => cell(time(us), "number")))));

  // ---- matrix -----------------------------------------------------------------------------
  const METHODS = { "rule-of-three": "3/n", "clopper-pearson": "exact", wilson: "Wilson" };
  const matrix = summary.matrix;
  const outcomes = data.outcomes.filter(([name]) => name === "FAILED" || matrix.some((row) => row.outcomes[name]));
  const amount = (n, kind = "") => cell(n ? whole(n) : "·", `number ${n ? kind : "none"}`);
  const bad = (outcome) => (outcome === "FAILED" || outcome === "unnoticed" ? "bad" : "");
  // A row of those of each class; the first one names it.
  const classRow = (rows, at, ...cells) => {
    const { class: name } = rows[at];
    const first = !at || rows[at - 1].class !== name;
    const last = at + 1 === rows.length || rows[at + 1].class !== name;
    const same = rows.filter((other) => other.class === name).length;
    const heads = first ? [hot(el("th", { scope: "rowgroup", rowspan: same }, name), data.classes[name])] : [];
    return el("tr", last ? { class: "last" } : {}, ...heads, ...cells);
  };
  const matrixRows = matrix.map((row, at) => {
    const bound = row.failure_rate;
    return classRow(matrix, at, hot(el("th", { scope: "row" }, row.component), data.components[row.component]),
      ...outcomes.map(([name]) => amount(row.outcomes[name], bad(name))), amount(row.trials),
      cell(bound ? `≤ ${rate(bound.upper)}` : "–", `number ${row.failures ? "bad" : ""}`), cell(bound ? METHODS[bound.method] : "–", "none"));
  });
  $("matrix-hint").textContent = matrix.length ? "How often each fault ended how. Point at a name to read what it means." : "No fault was judged in this run.";
  if (matrix.length) {
    table("matrix", "", [["Fault"], ["Component"], ...outcomes.map(([name]) => [name, "number"]), ["Trials", "number"], ["Failure rate", "number"], ["Bound"]], matrixRows);
    $("matrix").querySelector("caption").remove();
    $("matrix").setAttribute("aria-label", "Fault class by component and outcome");
    [...$("matrix").querySelectorAll("thead th")].slice(2, 2 + outcomes.length).forEach((head, at) => hot(head, outcomes[at][1]));
    $("matrix-note").textContent = "Failure rate: the upper bound with 95 % confidence, one-sided. 3/n when none of n trials failed (rule of three); otherwise the exact bound of Clopper and Pearson, or Wilson's beyond 10,000 failures. What was skipped is no trial." +
      (summary.unjudged ? ` ${whole(summary.unjudged)} faults were injected but not judged; they are in no row.` : "");
  }
  if (summary.ends.length) {
    $("ends-card").hidden = false;
    const meanings = Object.fromEntries(data.outcomes);
    table("ends", "Over the whole run", [["Fault"], ["Way"], ["How it ended"], ["Times", "number"], ["The host said"]],
      summary.ends.map((end, at) => classRow(summary.ends, at, el("th", { scope: "row" }, end.how || "–"),
        hot(cell(end.outcome, bad(end.outcome)), meanings[end.outcome]), amount(end.count), cell(end.said || "nothing", end.said ? "text" : "text none"))));
  }
  if (summary.failed_faults.length) {
    $("failed-card").hidden = false;
    table("failed", `The first ${summary.failed_faults.length}`, [["At"], ["Fault"], ["Component"], ["Seed"], ["What was broken"]],
      summary.failed_faults.map((fault) => el("tr", {}, cell(moment(fault.at_us, 1e6)), el("th", { scope: "row" }, fault.class), cell(fault.component), cell(fault.seed === undefined ? "–" : fault.seed), cell(fault.note || "a promise", "text"))));
  }

  // ---- checkers, conditions, how to run it again -----------------------------------------------
  const checkers = Object.entries(summary.checkers);
  table("checkers", checkers.length ? "Judged over the whole run" : "No checker looked at this run.", [["Checker"], ["Verdict"], ["Looked at", "number"], ["First finding"]],
    checkers.map(([name, checker]) => {
      const first = checker.findings[0];
      const text = first ? `${first.detail || "found something"}${first.seed === undefined ? "" : ` (seed ${first.seed})`}` : "";
      return el("tr", {}, el("th", { scope: "row" }, name), held(!checker.failed, checker.failed === checker.not_judged ? "? NOT JUDGED" : undefined), cell(whole(checker.checked), "number"), cell(text, text ? "text" : ""));
    }));
  const unit = (n, of) => (of === "us" ? time(n) : `${whole(n)} ${of}`.trim());
  table("conditions", "", [["Condition"], ["When"], ["Verdict"], ["Seen"]], [
    ...summary.steady.map((steady) => el("tr", {}, el("th", { scope: "row" }, steady.condition), cell(`${steady.phase} the faults`), held(!steady.broken), cell(steady.observed, "text"))),
    ...summary.bounds.map((bound) => el("tr", {}, el("th", { scope: "row" }, bound.bound), cell(`${bound.bound.startsWith("least_") ? "at least" : "at most"} ${unit(bound.limit, bound.unit)}`), held(bound.held), cell(unit(bound.observed, bound.unit), "text"))),
  ]);
  $("conditions").querySelector("caption").textContent = summary.steady.length + summary.bounds.length ? "Conditions of the profile" : "The profile sets none.";

  const copyable = (line) => {
    const made = button(`Copy: ${line}`, "Copy", () => {
      const done = () => { made.textContent = "Copied"; };
      // Pages that were opened as files may not be let near the clipboard.
      const select = () => getSelection().selectAllChildren(code);
      if (navigator.clipboard) navigator.clipboard.writeText(line).then(done, select);
      else select();
    });
    const code = el("code", {}, line);
    return el("div", { class: "copy" }, code, made);
  };
  if (summary.reproduce.length) $("lines").append(...summary.reproduce.map(copyable));
  else $("lines").append(el("p", { class: "note" }, "The run told no line to run it again."));
  const config = Object.entries((begin && begin.config) || {});
  if (config.length) table("config", "Settings", [["Name"], ["Value"]], config.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), cell(value, "text"))));
  const left = [
    ...data.capped.map((capped) => `${capped.what}: ${whole(capped.shown)} of ${whole(capped.of)} (${capped.which})`),
    ...Object.entries(summary.left_out).map(([kind, count]) => `${whole(count)} ${kind} records are not in the run's file, which was full; the figures and the matrix count them`),
  ];
  if (left.length) {
    $("capped").hidden = false;
    $("capped-list").append(...left.map((text) => el("li", {}, text)));
  }

  // ---- drawing ------------------------------------------------------------------------------
  function drawSpan() {
    drawTimeline();
    drawLatency();
  }
  drawSpan();
  drawFailovers();
  let drawn = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === drawn) return;
    drawn = innerWidth;
    drawSpan();
    drawFailovers();
  });
  document.body.dataset.ready = "true";
})();
