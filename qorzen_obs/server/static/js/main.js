// The shell: who the service is and how it does, the way to the views, what is wrong, and the view itself.

import { html, render, useEffect, useErrorBoundary, useRef, useState } from "../vendor/preact.js";
import { Banner } from "./parts/banner.js";
import { href, useRoute } from "./router.js";
import { access, onAccess, signIn } from "./server.js";
import { store, useNow, usePolled, useStore } from "./store.js";
import { VIEWS } from "./views/index.js";
import { duration, exact, moment } from "./words.js";

const HEALTH = { pass: "healthy", warn: "degraded", fail: "failing" };
const FACTS_SECONDS = 15;

function App() {
  const route = useRoute();
  const signingIn = useAccess().wanted;
  const connection = useStore((state) => state.connection);
  const health = usePolled(signingIn ? null : "health", 2, { failing: 503 });
  const running = useStore((state) => state.counts?.by_status.running ?? null);
  const page = usePolled(signingIn ? null : "api/page", FACTS_SECONDS);
  const service = page.document?.service;
  const before = useRef(connection);
  useEffect(() => {
    if (connection === "live" && before.current === "stale") page.reload(); // another service may answer now
    before.current = connection;
  }, [connection]);
  useEffect(() => {
    const name = service ? `${service.name} on ${service.host}` : "Tasks";
    document.title = running === null ? name : `${name}: ${running} running`;
  }, [running, service?.name, service?.host]);
  useEffect(() => {
    document.body.classList.toggle("stale", connection === "stale" && !signingIn);
  }, [connection, signingIn]);
  const { view: View } = VIEWS[route.view] ?? { view: Nowhere };
  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to the content</a>
    <${Header} route=${route} health=${health.document} page=${page.document} signingIn=${signingIn} />
    ${signingIn
      ? html`<${SignIn} />`
      : html`
        <main id="main" tabindex="-1"><${Guarded} key=${`${route.view}/${route.id}`}>
          <${Banner} health=${health.document} losses=${page.document?.losses} view=${route.view} /><${View} route=${route} /><//></main>`}
  `;
}

function Header({ route, health, page, signingIn }) {
  const { managerState: state, connection } = useStore((one) => one);
  const failing = health?.status === "fail";
  // A state that was ready when it was last heard of, or of which a probe says no, is not shown as good.
  const shade = (known) => (connection === "stale" ? "unknown" : known);
  return html`<header class="bar" data-failing=${failing}>
    <a class="brand" href=${href("now")}><img src="static/icon.svg" alt="" width="24" height="24" />
      <span>${page?.service.name ?? "Tasks"}</span>${page?.service.version ? html` <span class="quiet">${page.service.version}</span>` : null}</a>
    ${page && !signingIn ? html`<${Identity} page=${page} />` : null}
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

// Which of the many services like it this one is.
function Identity({ page: { service, instance, version } }) {
  const now = useNow(30);
  const { ready_at: since } = service;
  return html`<ul class="identity" id="identity" aria-label="Service">
    <li>host ${service.host}</li><li>instance ${instance}</li>
    <li>${since ? html`up since <time datetime=${since} title=${exact(since)}>${moment(since, now)}</time> (${upFor(now - Date.parse(since))})` : "starting"}</li>
    <li class="own-version">${service.version ? `version ${service.version}` : ""}</li><li class="library">qorzen-obs ${version}</li>
  </ul>`;
}

function upFor(milliseconds) {
  return milliseconds < 60_000 ? "just started" : duration(milliseconds / 1000);
}

function Connection() {
  const connection = useStore((state) => state.connection);
  const words = { connecting: "connecting", live: "live", stale: "offline" };
  return html`<span class="connection ${connection}" id="connection" role="status">${words[connection]}</span>`;
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
    <h1>This service requires a token</h1>
    <p class="quiet">The token stays in the memory of this page until you close it.</p>
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
