// A trace as a waterfall: a row a span, the time from left to right. Wheel, drag and keys change which time is seen.

import { html, useEffect, useMemo, useRef, useState } from "../../vendor/preact.js";
import { href } from "../router.js";
import { duration, many } from "../words.js";
import { layout } from "./waterfall-layout.js";

const ROW = 22; // px
const WIDTH = 1000; // of the drawing, stretched to the room that there is
const FEWEST_SECONDS = 1e-6;
const MAX_ROWS = 300; // a first look; the rest are one press away

export function Waterfall({ document: spans }) {
  const { rows, seconds, spans: total } = useMemo(() => layout(spans), [spans]);
  const [view, setView] = useState(null); // [begin, end] in seconds, null for all
  const [chosen, setChosen] = useState(null); // a span's id
  const [isLong, setLong] = useState(false);
  const drawing = useRef(null);
  const [begin, end] = view ?? [0, Math.max(seconds, FEWEST_SECONDS)];
  const zoom = (factor, at) => setView(within(at - (at - begin) * factor, at + (end - at) * factor, seconds));
  const move = (by) => setView(within(begin + by, end + by, seconds));
  const at = useRef();
  at.current = { begin, end, zoom, move };
  usePointer(drawing, at, rows.length > 0);
  if (!rows.length) return html`<p class="empty">This trace has no spans.</p>`;
  const keys = (event) => {
    const wide = end - begin;
    const does = {
      "+": () => zoom(0.7, begin + wide / 2), "=": () => zoom(0.7, begin + wide / 2), "-": () => zoom(1.4, begin + wide / 2),
      ArrowLeft: () => move(-wide / 5), ArrowRight: () => move(wide / 5), 0: () => setView(null),
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    does();
  };
  const seen = isLong ? rows : rows.slice(0, MAX_ROWS);
  const span = rows.find((one) => one.id === chosen);
  return html`<div class="waterfall" onKeyDown=${keys}>
    <div class="waterfall-bar">
      <span class="quiet small">${duration(begin)} – ${duration(end)} of ${duration(seconds)}, ${many(total, "span")}</span>
      <button type="button" class="button small" aria-label="Zoom in" onClick=${() => zoom(0.7, (begin + end) / 2)}>+</button>
      <button type="button" class="button small" aria-label="Zoom out" onClick=${() => zoom(1.4, (begin + end) / 2)}>−</button>
      <button type="button" class="button small" disabled=${view === null} onClick=${() => setView(null)}>Reset</button>
    </div>
    <${Legend} rows=${rows} />
    <div class="waterfall-rows">
      <ol class="waterfall-names">
        ${seen.map((one) => html`<li key=${one.id}><button type="button" aria-expanded=${one.id === chosen}
          class=${`${one.isError ? "error-text" : ""} ${one.isCritical ? "critical" : ""}`} title=${one.name}
          style=${{ paddingLeft: `${Math.min(one.depth, 12) * 10 + 4}px` }}
          onClick=${() => setChosen(one.id === chosen ? null : one.id)}>${one.isError ? "✕ " : ""}${one.name}${
            one.attempt > 1 ? ` (attempt ${one.attempt})` : ""}<span class="sr-only">, ${duration(one.end - one.begin)}${
            one.isCritical ? ", on the critical path" : ""}</span></button></li>`)}
      </ol>
      <svg ref=${drawing} aria-hidden="true" viewBox=${`0 0 ${WIDTH} ${seen.length * ROW}`} preserveAspectRatio="none"
        style=${{ height: `${seen.length * ROW}px` }}>
        ${seen.map((one, row) => html`<${Bar} key=${one.id} span=${one} row=${row} begin=${begin} end=${end}
          isChosen=${one.id === chosen} choose=${() => setChosen(one.id)} />`)}
      </svg>
    </div>
    ${seen.length < rows.length ? html`<button type="button" class="button small"
      onClick=${() => setLong(true)}>Show all ${many(rows.length, "row")}</button>` : null}
    ${span ? html`<${Details} span=${span} />` : null}
  </div>`;
}

const ENGINE_WORDS = {
  loop: "on the loop", main: "on the loop", io: "in a thread", thread: "in a thread", process: "in a process", external: "elsewhere",
};

// What the colours say, of those that are there.
function Legend({ rows }) {
  const there = (test, kind, words) => (rows.some(test) ? [[kind, words]] : []);
  const engines = new Map(rows.filter((one) => one.engine && !one.isError).map((one) => [ENGINE_WORDS[one.engine], one.engine]));
  const keys = [
    ...[...engines].map(([words, engine]) => [`engine-${engine}`, words]),
    ...there((one) => one.waited > 0, "is-waiting", "queued"),
    ...there((one) => one.isError, "failed", "failed"),
    ...there((one) => one.events.length, "is-event", "event"),
    ["is-critical", "critical path"],
  ];
  return html`<ul class="waterfall-legend small quiet" aria-label="Colours">
    ${keys.map(([kind, words]) => html`<li key=${words}><span class="swatch span ${kind}" aria-hidden="true"></span>${words}</li>`)}
    <li class="waterfall-keys">Ctrl and wheel, or + − : zoom · drag, or ← → : move · 0 : all</li>
  </ul>`;
}

function Bar({ span, row, begin, end, isChosen, choose }) {
  const x = (moment) => Math.min(WIDTH + 9, Math.max(-9, ((moment - begin) / (end - begin)) * WIDTH));
  const y = row * ROW;
  const left = x(span.begin);
  const wide = Math.max(2, x(span.end) - left);
  const tone = span.isError ? "failed" : `engine-${span.engine ?? "none"}`;
  return html`<g class=${`span ${tone}`} onClick=${choose}>
    <rect class=${`row ${isChosen ? "chosen" : ""}`} x="0" y=${y} width=${WIDTH} height=${ROW} />
    ${span.waited > 0 ? html`<rect class="waited" x=${x(span.begin - span.waited)} y=${y + 9}
      width=${left - x(span.begin - span.waited)} height="4"><title>queued ${duration(span.waited)}</title></rect>` : null}
    ${span.submitted === null ? null : html`<rect class="submitted" x=${x(span.submitted) - 1} y=${y + 6} width="2" height="9">
      <title>submitted</title></rect>`}
    <rect class="bar-of" x=${left} y=${y + 5} width=${wide} height="11">
      <title>${span.name}: ${duration(span.end - span.begin)}</title></rect>
    ${span.isCritical ? html`<rect class="critical" x=${left} y=${y + 18} width=${wide} height="2" />` : null}
    ${span.events.map((event) => html`<rect class="event" x=${x(event.at) - 1} y=${y + 3} width="2" height="15">
      <title>${event.name}</title></rect>`)}
  </g>`;
}

function Details({ span }) {
  return html`<section class="span-details" aria-label="Span" aria-live="polite">
    <h2>${span.name}</h2>
    ${span.isError ? html`<p class="error-text">${span.message || "It failed."}</p>` : null}
    <dl class="facts">
      <dt>begin</dt><dd>${duration(span.begin)} after the trace's begin</dd>
      <dt>duration</dt><dd title=${`${span.end - span.begin} s`}>${duration(span.end - span.begin)}</dd>
      ${span.submitted === null ? null : html`<dt>submitted</dt><dd>${duration(span.submitted)} after the trace's begin</dd>`}
      ${span.waited > 0 ? html`<dt>queued</dt><dd>${duration(span.waited)}</dd>` : null}
      ${span.taskId ? html`<dt>task</dt><dd><a class="mono" href=${href("tasks", span.taskId)}>${span.taskId}</a></dd>` : null}
      <${Attributes} of=${span.attributes} />
    </dl>
    ${span.events.map((event) => html`<h3>${event.name}, at ${duration(event.at)}</h3>
      <dl class="facts"><${Attributes} of=${event.attributes} /></dl>`)}
  </section>`;
}

function Attributes({ of }) {
  return Object.entries(of).map(([key, value]) => html`<dt class="mono">${key}</dt><dd class="preline">${String(value)}</dd>`);
}

// A plain wheel stays the page's own: it scrolls.
function usePointer(drawing, at, isDrawn) {
  useEffect(() => {
    const svg = drawing.current;
    if (!svg) return undefined;
    let from = null;
    const wheel = (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = svg.getBoundingClientRect();
      const { begin, end, zoom } = at.current;
      zoom(event.deltaY < 0 ? 0.8 : 1.25, begin + ((event.clientX - box.left) / box.width) * (end - begin));
    };
    const moved = (event) => {
      if (from === null || !event.buttons) return;
      const { begin, end, move } = at.current;
      move(((from - event.clientX) / svg.getBoundingClientRect().width) * (end - begin));
      from = event.clientX;
    };
    const pressed = (event) => { from = event.clientX; };
    svg.addEventListener("wheel", wheel, { passive: false });
    svg.addEventListener("pointerdown", pressed);
    svg.addEventListener("pointermove", moved);
    return () => {
      svg.removeEventListener("wheel", wheel);
      svg.removeEventListener("pointerdown", pressed);
      svg.removeEventListener("pointermove", moved);
    };
  }, [isDrawn]);
}

function within(begin, end, seconds) {
  const wide = Math.max(end - begin, FEWEST_SECONDS);
  if (wide >= seconds) return null;
  const left = Math.min(Math.max(0, begin), seconds - wide);
  return [left, left + wide];
}
