// One command for many tasks: how many it would be is shown first, then what became of them.

import { html, useRef, useState } from "../../vendor/preact.js";
import { post } from "../server.js";
import { many } from "../words.js";

const MAX_PAGES = 100; // of a thousand tasks each
const PAGE = 1000;
const WORDS = {
  cancel: { title: (n) => `Cancel ${many(n, "task")}?`, button: "Cancel them", keep: "Keep them", did: "cancelled or asked to stop",
    text: "They stop where they are. What they have done so far is not undone." },
  rerun: { title: (n) => `Run ${many(n, "task")} again?`, button: "Run them again", keep: "Leave them", did: "run again",
    text: "Each becomes a new task with the same arguments. Those that were run again before are left out." },
};

// `query` selects the tasks as /api/bulk does. `onDone` is called when some of them were changed.
export function Bulk({ command, query, label, danger = false, onDone = () => {} }) {
  const dialog = useRef(null);
  const [would, setWould] = useState(null);
  const [said, setSaid] = useState("");
  const [busy, setBusy] = useState(false);
  const words = WORDS[command];
  const path = (more) => `api/bulk/${command}?${new URLSearchParams({ ...query, limit: PAGE, ...more })}`;
  const guarded = async (does) => {
    setBusy(true);
    try {
      await does();
    } catch (problem) {
      setSaid(problem.message);
    }
    setBusy(false);
  };
  const look = () => guarded(async () => {
    setSaid("");
    setWould(await collected((cursor) => post(path({ dry_run: true, ...cursor }))));
    dialog.current.showModal();
  });
  const act = () => guarded(async () => {
    dialog.current.close();
    const at = { created_before: would.at };
    const done = await collected((cursor) => post(path({ ...at, ...cursor })));
    setSaid([`${many(done.done, "task")} ${words.did}.`, ...reasons(done)].join(" "));
    onDone();
  });
  return html`<span class="bulk"><button type="button" class="button small ${danger ? "danger" : ""}" disabled=${busy} onClick=${look}>${label}</button>
    <span class="quiet small" role="status">${said}</span>
    <dialog ref=${dialog} aria-label=${label}>${would === null ? null : html`
      <h2>${would.done ? words.title(would.done) : "There is nothing to do"}</h2>
      ${would.done ? html`<p>${words.text}</p>` : null}
      ${reasons(would).map((reason) => html`<p class="quiet" key=${reason}>${reason}</p>`)}
      <div class="actions"><button type="button" class="button" onClick=${() => dialog.current.close()}>${would.done ? words.keep : "Close"}</button>
        ${would.done ? html`<button type="button" class="button ${danger ? "danger" : "primary"}" onClick=${act}>${words.button}</button>` : null}</div>`}
    </dialog></span>`;
}

// All pages as one answer.
async function collected(ask) {
  const first = await ask({});
  const all = { at: first.at, done: first.done, refused: new Map() };
  const add = (page) => page.refused.forEach(({ reason, count }) => all.refused.set(reason, (all.refused.get(reason) ?? 0) + count));
  add(first);
  let cursor = first.next_cursor;
  for (let pages = 1; cursor && pages < MAX_PAGES; pages += 1) {
    const page = await ask({ cursor });
    add(page);
    all.done += page.done;
    cursor = page.next_cursor;
  }
  return all;
}

function reasons({ refused }) {
  return [...refused].map(([reason, n]) => `${many(n, "task")} left out: ${reason}.`);
}
