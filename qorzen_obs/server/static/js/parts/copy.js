// A button that copies a text, and says that it did.

import { html, useEffect, useState } from "../../vendor/preact.js";

const SAID_MS = 1500;

export function Copy({ text, label = "Copy" }) {
  const [said, setSaid] = useState(null);
  useEffect(() => {
    if (said === null) return undefined;
    const timer = setTimeout(() => setSaid(null), SAID_MS);
    return () => clearTimeout(timer);
  }, [said]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      setSaid("Not allowed"); // without https, browsers give no clipboard to other hosts
    }
  };
  return html`<button type="button" class="button small" onClick=${copy} title=${text}>
    <span aria-live="polite">${said ?? label}</span>
  </button>`;
}
