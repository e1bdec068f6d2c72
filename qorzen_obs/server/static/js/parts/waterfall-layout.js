// From OTLP/JSON to the rows of a waterfall. Pure: no document, no clock. Moments are seconds from the trace's begin.

const PRODUCER = 4; // of OTLP's SpanKind
const ENGINES = new Set(["loop", "io", "thread", "process", "main", "external"]);

// { rows: [span with depth, begin, end, isCritical], seconds, spans: how many }; a span with an unknown parent is a root.
export function layout(document) {
  const spans = read(document);
  if (!spans.length) return { rows: [], seconds: 0, spans: 0 };
  const byId = new Map(spans.map((span) => [span.id, span]));
  let roots = [];
  for (const span of spans) (byId.get(span.parentId)?.children ?? roots).push(span);
  roots = withoutSubmissions(roots);
  for (const span of spans) span.children = withoutSubmissions(span.children);
  if (!roots.length) roots.push(...spans.slice(0, 1)); // each is below another, which no honest trace says
  const byBegin = (a, b) => a.begin - b.begin;
  for (const span of spans) span.children.sort(byBegin);
  const rows = [];
  const rest = roots.sort(byBegin).reverse().map((span) => [span, 0, null]);
  const placed = new Set();
  while (rest.length) { // no recursion: a chain of tasks may be thousands deep
    const [span, depth, engine] = rest.pop();
    if (placed.has(span)) continue;
    placed.add(span);
    span.depth = depth;
    span.engine ??= engine;
    rows.push(span);
    for (const child of [...span.children].reverse()) rest.push([child, depth + 1, span.engine]);
  }
  for (const span of [...rows].reverse()) { // a task may outlive its submitter: what counts is when all below ended
    span.reach = span.children.reduce((end, child) => Math.max(end, child.reach ?? child.end), span.end);
  }
  markCritical(roots);
  return { rows, seconds: spans.reduce((end, span) => Math.max(end, span.end), 0), spans: spans.length };
}

// A submission takes no time: it is a mark on the rows of the attempts below it, and a row only where there are none.
function withoutSubmissions(spans) {
  return spans.flatMap((span) => {
    if (!span.isSubmission || !span.children.length) return [span];
    for (const attempt of span.children) attempt.submitted = span.begin;
    return span.children;
  });
}

// Back from the end that came last: what ended last held the end of its parent, then whatever ended before it began.
function markCritical(roots) {
  const last = roots.reduce((best, span) => (span.reach > best.reach ? span : best));
  const rest = [last];
  while (rest.length) {
    const span = rest.pop();
    if (span.isCritical) continue;
    span.isCritical = true;
    let until = Infinity;
    for (const child of [...span.children].sort((a, b) => b.reach - a.reach)) {
      if (child.reach > until) continue;
      rest.push(child);
      until = child.begin;
    }
  }
}

function read(document) {
  const found = (document.resourceSpans ?? []).flatMap((one) => one.scopeSpans ?? []).flatMap((one) => one.spans ?? []);
  if (!found.length) return [];
  const begins = found.map((span) => BigInt(span.startTimeUnixNano));
  const first = begins.reduce((a, b) => (a < b ? a : b));
  const since = (nanoseconds) => Number(BigInt(nanoseconds) - first) / 1e9;
  return found.map((span) => {
    const attributes = plain(span.attributes);
    const engine = attributes["qorzen.task.engine"];
    return {
      id: span.spanId,
      parentId: span.parentSpanId || null,
      name: nameOf(span.name, attributes),
      begin: since(span.startTimeUnixNano),
      end: since(span.endTimeUnixNano || span.startTimeUnixNano),
      engine: ENGINES.has(engine) ? engine : null,
      waited: Number(attributes["qorzen.task.queue_wait"] ?? 0),
      isError: span.status?.code === 2 || span.status?.code === "STATUS_CODE_ERROR",
      message: span.status?.message ?? "",
      isSubmission: span.kind === PRODUCER && "qorzen.task.id" in attributes,
      submitted: null, // when, where the trace says so
      attempt: attributes["qorzen.task.attempt"] ?? null,
      taskId: attributes["qorzen.task.id"] ?? null,
      attributes,
      events: (span.events ?? []).map((event) => ({
        name: event.name, at: since(event.timeUnixNano), attributes: plain(event.attributes),
      })),
      children: [],
      depth: 0,
      isCritical: false,
    };
  });
}

function plain(attributes) {
  return Object.fromEntries((attributes ?? []).map(({ key, value }) => [key, unwrap(value)]));
}

function unwrap(value) {
  if (value?.arrayValue) return (value.arrayValue.values ?? []).map(unwrap).join(", ");
  return Object.values(value ?? {})[0] ?? "";
}

// The span of an attempt has one of few names; a reader looks for that of its task.
function nameOf(spanName, attributes) {
  const name = "qorzen.task.attempt" in attributes ? attributes["qorzen.task.name"] : undefined;
  return name === undefined ? spanName : `run ${name}`;
}
