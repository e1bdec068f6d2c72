// A moment: short, in the viewer's zone, with its date where it was not today; the exact instant where one points at it.

import { html, useMemo } from "../../vendor/preact.js";
import { store } from "../store.js";
import { exact, moment, relative } from "../words.js";

// `now` makes it "3 s ago".
export function Moment({ at, now = null }) {
  const known = at !== null && at !== undefined;
  const title = useMemo(() => (known ? exact(at) : null), [at]); // most of what drawing a row takes
  if (!known) return html`<span class="quiet">–</span>`;
  return html`<time datetime=${at} title=${title}>${now === null ? moment(at, store.now()) : relative(at, now)}</time>`;
}
