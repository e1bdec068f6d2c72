// A moment: short, in the viewer's zone; the exact instant where one points at it.

import { html } from "../../vendor/preact.js";
import { clock, exact, relative } from "../words.js";

// `now` makes it "3 s ago".
export function Moment({ at, now = null }) {
  if (at === null || at === undefined) return html`<span class="quiet">–</span>`;
  return html`<time datetime=${at} title=${exact(at)}>${now === null ? clock(at) : relative(at, now)}</time>`;
}
