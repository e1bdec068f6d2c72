// What waits and runs of each category, and the switch that lets its tasks wait.

import { html, useState } from "../../vendor/preact.js";
import { href } from "../router.js";
import { post } from "../server.js";
import { useNow, usePolled, useStore } from "../store.js";
import { count, duration } from "../words.js";
import { longestWaits } from "./waits.js";

export function Queues() {
  const counts = useStore((state) => state.counts);
  const { document: pending, reload } = usePolled("api/pending", 1);
  useNow(1);
  const page = usePolled("api/page", 0).document;
  const [said, setSaid] = useState("");
  const turn = async (category, command) => {
    try {
      await post(`api/categories/${category}/${command}`);
      setSaid("");
    } catch (problem) {
      setSaid(problem.message);
    }
    reload();
  };
  const waits = longestWaits("category", pending);
  return html`<section class="card queues" aria-labelledby="queues-title">
    <header><h2 id="queues-title">Queue by category</h2><span class="error-text small" role="status">${said}</span></header>
    <table class="list" id="queues">
      <thead><tr><th scope="col">Category</th><th scope="col" class="number">Pending</th>
        <th scope="col" class="number">Running</th><th scope="col" class="number">Oldest</th>
        ${page?.may_control ? html`<th scope="col" class="does"><span class="sr-only">Pause or resume</span></th>` : null}</tr></thead>
      <tbody>${Object.entries(pending?.by_category ?? {}).map(([category, one]) => html`<tr key=${category} class=${one.paused ? "paused" : ""}>
        <td><a href=${href("tasks", null, { status: "pending", category })}>${category}</a>${one.paused ? html` <strong class="small">paused</strong>` : null}</td>
        <td class="number">${count(counts?.pending_by_category[category])}</td>
        <td class="number">${count(counts?.running_by_category[category])}</td>
        <td class="number">${counts?.pending_by_category[category] && waits[category]
          ? html`<a href=${href("tasks", waits[category].id)}>${duration(waits[category].seconds)}</a>` : "–"}</td>
        ${page?.may_control ? html`<td class="does"><button type="button" class="button small" aria-label=${`${one.paused ? "Resume" : "Pause"} ${category}`}
          onClick=${() => turn(category, one.paused ? "resume" : "pause")}>${one.paused ? "Resume" : "Pause"}</button></td>` : null}
      </tr>`)}</tbody>
    </table></section>`;
}
