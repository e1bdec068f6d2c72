// A chart over time: uPlot, in the colours of the page. For those who do not see it, its newest values as text.

import { html, useEffect, useRef, useState } from "../../vendor/preact.js";
import { clock } from "../words.js";

const HEIGHT = 150;

// `series`: [{ label, color (a custom property), values }], `at` in Unix seconds, `format` of a value. `isSaid`: the newest
// values already stand elsewhere on the screen.
export function Chart({ title, at, series, format, isSaid = false }) {
  const box = useRef();
  const chart = useRef(null);
  const [scheme, setScheme] = useState(0);
  const labels = series.map(({ label }) => label).join();
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setScheme((n) => n + 1);
    dark.addEventListener("change", changed);
    return () => dark.removeEventListener("change", changed);
  }, []);
  useEffect(() => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { stroke: color("quiet"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    chart.current = new uPlot({
      width: box.current.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 5 } },
      scales: { x: { range: (_, min, max) => [min, max] }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
      axes: [{ ...axis, size: 28, space: 80, values: (_, ticks) => ticks.map((one) => clock(one * 1000)) }, { ...axis, size: 54, values: (_, ticks) => ticks.map(format) }],
      series: [{}, ...series.map(({ label, color: name }) => ({ label, stroke: color(name), width: 1.5, points: { show: false } }))],
    }, [at, ...series.map(({ values }) => values)], box.current);
    const watch = new ResizeObserver(() => chart.current?.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      chart.current.destroy();
      chart.current = null;
    };
  }, [labels, scheme]);
  useEffect(() => chart.current?.setData([at, ...series.map(({ values }) => values)]), [at, series]);
  const newest = series.map(({ label, color, values }) => ({ label, color, text: isSaid ? "" : format(values.findLast((one) => one !== null) ?? null) }));
  return html`<figure class="chart">
    <figcaption><h3>${title}</h3>
      <span class="legend">${newest.map(({ label, color, text }) => html`<span key=${label} class="key key-${color}">${label} <b>${text}</b></span>`)}</span>
    </figcaption>
    <div ref=${box} role="img" aria-label=${`${title}: ${newest.map(({ label, text }) => `${label} ${text}`.trim()).join(", ")}`}></div>
  </figure>`;
}
