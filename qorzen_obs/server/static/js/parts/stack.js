// Where a running task is right now, asked when the reader wants to know: a stack costs the service a moment.

import { html, useEffect, useState } from "../../vendor/preact.js";
import { ask } from "../server.js";
import { Moment } from "./moment.js";

const KINDLY = { 409: "Its code does not run at this moment.", 504: "Its worker process is silent. Ask again." };

export function Stack({ path }) {
  const [{ stack, problem }, setAnswer] = useState({ stack: null, problem: null });
  const refresh = async () => {
    try {
      setAnswer({ stack: await ask(path), problem: null });
    } catch (error) {
      setAnswer({ stack: null, problem: KINDLY[error.status] ?? error.message });
    }
  };
  useEffect(() => { refresh(); }, [path]);
  return html`<section class="card" id="stack">
    <header><h2>Where it is now</h2>
      ${stack ? html`<span class="quiet small">at <${Moment} at=${stack.taken_at} /></span>` : null}
      <button type="button" class="button small" onClick=${refresh}>Refresh</button></header>
    ${problem ? html`<p class="quiet" role="status">${problem}</p>` : null}
    ${stack?.pid ? html`<p>in the worker process <code>${stack.pid}</code></p>` : null}
    ${stack ? html`<${Frames} frames=${stack.frames} />
      ${stack.awaiting ? html`<p>awaits <code>${stack.awaiting}</code></p>` : null}
      ${stack.asyncio_tasks.map((one) => html`<h3>${one.name}</h3><${Frames} frames=${one.frames} />
        ${one.awaiting ? html`<p>awaits <code>${one.awaiting}</code></p>` : null}`)}` : null}
  </section>`;
}

function Frames({ frames }) {
  if (!frames.length) return html`<p class="quiet">No frames of its own.</p>`;
  const text = frames.map(({ file, line, function: name, code }) =>
    `${file}:${line ?? "?"} in ${name}${code ? `\n    ${code.trim()}` : ""}`).join("\n");
  return html`<pre class="block" tabindex="0">${text}</pre>`;
}
