// The shell: who the service is and how it does, the way to the views, what is wrong, and the view itself.

import { html, render, useEffect, useErrorBoundary, useState } from "../vendor/preact.js";
import { href, useRoute } from "./router.js";
import { access, onAccess, signIn } from "./server.js";
import { store, useNow, usePolled, useStore } from "./store.js";
import { VIEWS } from "./views/index.js";
import { clock, duration } from "./words.js";

const STALL_SECONDS = 0.5;
const HEALTH = { pass: "healthy", warn: "warns", fail: "fails" };

function App() {
  const route = useRoute();
  const signingIn = useAccess().wanted;
  const connection = useStore((state) => state.connection);
  const health = usePolled(signingIn ? null : "health", 2, { failing: 503 });
  const running = useStore((state) => state.counts?.by_status.running ?? null);
  useEffect(() => {
    document.title = running === null ? "Tasks" : `Tasks: ${running} running`;
  }, [running]);
  useEffect(() => {
    document.body.classList.toggle("stale", connection === "stale" && !signingIn);
  }, [connection, signingIn]);
  const { view: View } = VIEWS[route.view] ?? { view: Nowhere };
  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to the content</a>
    <${Header} route=${route} health=${health.document} signingIn=${signingIn} />
    ${signingIn
      ? html`<${SignIn} />`
      : html`
        <${Stale} />
        <${Warnings} health=${health.document} />
        <main id="main" tabindex="-1"><${Guarded} key=${`${route.view}/${route.id}`}><${View} route=${route} /><//></main>`}
  `;
}

function Header({ route, health, signingIn }) {
  const { managerState: state, connection } = useStore((one) => one);
  const failing = health?.status === "fail";
  // A state that was ready when it was last heard of, or of which a probe says no, is not shown as good.
  const shade = (known) => (connection === "stale" ? "unknown" : known);
  return html`<header class="bar" data-failing=${failing}>
    <a class="brand" href=${href("now")}><img src="static/icon.svg" alt="" width="24" height="24" /><span>Tasks</span></a>
    <nav aria-label="Views">
      ${Object.entries(VIEWS).filter(([, { title }]) => title).map(([name, { title }]) => html`
        <a href=${href(name)} aria-current=${route.view === name ? "page" : null}>${title}</a>`)}
    </nav>
    ${signingIn || state === null ? null : html`
      <span class="pill" id="state" data-state=${shade(failing && state === "ready" ? "fail" : state)}>${state}</span>
      ${health === null ? null : html`
        <a class="pill" id="health" data-state=${shade(health.status)} href=${href("health")}>${HEALTH[health.status] ?? health.status}</a>`}
      <${Connection} />`}
  </header>`;
}

function Connection() {
  const connection = useStore((state) => state.connection);
  const words = { connecting: "connecting", live: "live", stale: "offline" };
  return html`<span class="connection ${connection}" id="connection" role="status">${words[connection]}</span>`;
}

// What is shown is old: said at once, greyed by the style, and gone by itself.
function Stale() {
  const { connection, staleSince } = useStore((state) => state);
  const now = useNow() - store.state.clockOffset;
  if (connection !== "stale") return null;
  const since = staleSince === null
    ? ""
    : ` What you see is from ${clock(staleSince)}, ${duration((now - staleSince) / 1000)} ago.`;
  return html`<aside class="banner bad" id="stale" aria-label="Connection">
    <span role="alert">The service does not answer.</span>${since} The page goes on by itself once it does.
  </aside>`;
}

// A short stall of the work loop is worth a look at its chart, and no alarm.
function isShortStall({ name, status, observedValue }) {
  return name === "work-loop:blocked" && status === "warn" && observedValue < STALL_SECONDS;
}

function Warnings({ health }) {
  const findings = Object.entries(health?.checks ?? {}).flatMap(([name, checks]) =>
    checks.filter((check) => check.status !== "pass").map((check) => ({ name, ...check })))
    .filter((finding) => !isShortStall(finding));
  if (!findings.length) return null;
  return html`<div role="status"><ul class="banner warn" id="warnings">
    ${findings.map(({ name, output, status }) => html`
      <li key=${name}><strong>${name.replaceAll(/[_:]/g, " ")}</strong>: ${output ?? status}</li>`)}
  </ul></div>`;
}

function SignIn() {
  const { wrong } = useAccess();
  const submit = (event) => {
    event.preventDefault();
    const field = event.target.elements.token;
    signIn(field.value.trim());
    field.value = "";
  };
  return html`<main id="main"><form id="login" class="card" onSubmit=${submit}>
    <h1>This service asks for its token</h1>
    <p class="quiet">It stays in the memory of this page and is gone when you close it.</p>
    <label for="token">Token</label>
    <div class="field">
      <input id="token" name="token" type="password" autocomplete="off" spellcheck="false" required ref=${focusOnce} />
      <button type="submit" class="button primary">Open</button>
    </div>
    ${wrong ? html`<p id="refused" class="error-text" role="alert">The service did not accept this token.</p>` : null}
  </form></main>`;
}

// A view that fails leaves the others, and the way to them.
function Guarded({ children }) {
  const [error, again] = useErrorBoundary((thrown) => console.error(thrown));
  if (!error) return children;
  return html`<section class="card" role="alert"><h1>This view has failed</h1><p class="error-text">${String(error)}</p>
    <p><button type="button" class="button" onClick=${again}>Try again</button></p></section>`;
}

function Nowhere() {
  return html`<section class="card"><h1>There is no such view</h1><p><a href=${href("now")}>See what runs now</a></p></section>`;
}

function useAccess() {
  const [found, setFound] = useState(access());
  useEffect(() => onAccess(() => setFound(access())), []);
  return found;
}

function focusOnce(element) {
  if (element !== null && document.activeElement === document.body) element.focus();
}

function skipToMain(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

store.start();
render(html`<${App} />`, document.getElementById("app"));
