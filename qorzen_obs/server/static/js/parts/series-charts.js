// The last hour in four charts: from what the service keeps, and at their end from what the stream says right now.

import { html, useEffect, useMemo, useRef, useState } from "../../vendor/preact.js";
import { store, usePolled } from "../store.js";
import { count, duration, rate } from "../words.js";
import { Chart } from "./chart.js";

const PRIORITIES = ["critical", "high", "normal", "low"];
const LIVE_MS = 1000;
const RATE_MS = 5500; // over how long the rates of this moment are taken
const LEAST_SECONDS = 60;

export function SeriesCharts({ live }) {
  const { document: series } = usePolled("api/series", 10);
  const data = useMemo(() => (series === null ? null : columns(series, live)), [series, live]);
  return html`<section class="card charts" aria-label="The last hour" id="charts">
    ${data === null ? html`<p class="empty">Loading the last hour…</p>` : html`
      <${Chart} title="Finished/s" at=${data.at} series=${data.rates} format=${rate} />
      <${Chart} title="Queue wait, p95" at=${data.at} series=${data.waits} format=${duration} />
      <${Chart} title="Running and pending" at=${data.at} series=${data.depth} format=${count} isSaid />
      <${Chart} title="Loop lag" at=${data.at} series=${data.lag} format=${duration} />`}
  </section>`;
}

// Pure. At least a minute wide.
export function columns(series, live) {
  const known = series.at.map((one) => Date.parse(one) / 1000);
  // A chart of one point has no width, and its axis one time again and again.
  const begin = (known[0] ?? live.at) > live.at - LEAST_SECONDS ? [live.at - LEAST_SECONDS] : [];
  const at = [...begin, ...known, live.at];
  const plus = (values, newest = null) => [...begin.map(() => null), ...values, newest];
  const line = (label, color, values, newest) => ({ label, color, values: plus(values, newest) });
  return {
    at,
    rates: ["completed", "failed", "cancelled"].map((status) => line(status, status, series[status], live.rates[status])),
    waits: PRIORITIES.map((one, n) => line(one, ["failed", "pending", "running", "cancelled"][n], series.queue_wait_p95[one])),
    depth: ["running", "pending"].map((status) => line(status, status, series[status], live.counts[status])),
    lag: [line("p95", "running", series.loop_lag_p95), line("max", "pending", series.loop_lag_max)],
  };
}

// Once a second, what the stream says of this moment: { at, counts, rates }, the rates of what ends in a second.
export function useLive() {
  const seen = useRef([]);
  const [live, setLive] = useState(() => ({ at: store.now() / 1000, counts: {}, rates: {} }));
  useEffect(() => {
    const timer = setInterval(() => setLive((before) => {
      const counts = store.state.counts?.by_status;
      const at = store.now() / 1000;
      if (!counts || document.hidden || at <= before.at) return before;
      seen.current = [...seen.current.filter((one) => at - one.at < RATE_MS / 1000), { at, counts }];
      const [first] = seen.current;
      const of = (status) => (first.at < at ? Math.max(0, counts[status] - first.counts[status]) / (at - first.at) : null);
      return { at, counts, rates: { completed: of("completed"), failed: of("failed"), cancelled: of("cancelled") } };
    }), LIVE_MS);
    return () => clearInterval(timer);
  }, []);
  return live;
}
