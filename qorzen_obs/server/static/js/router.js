// Where the reader is, in the part of the address behind #: each view has a link that can be copied, and the page
// works below any path.

import { useEffect, useState } from "../vendor/preact.js";

const HOME = "now";

// "#/tasks/abc?status=failed" -> { view: "tasks", id: "abc", query: URLSearchParams }
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/");
  return { view: view || HOME, id: rest.length ? decode(rest.join("/")) : null, query: new URLSearchParams(query) };
}

export function href(view, id = null, query = null) {
  const path = id === null ? view : `${view}/${encodeURIComponent(id)}`;
  const text = query === null ? "" : new URLSearchParams(query).toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

// Goes to what `href` gave; `replace` leaves no step to go back to, for what changes with each key.
export function go(to, { replace = false } = {}) {
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, "", to);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = to;
  }
}

export function useRoute() {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return parse(hash);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
