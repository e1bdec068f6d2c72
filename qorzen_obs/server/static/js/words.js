// How figures and moments are written. Pure: no document, no clock of its own.

const SECOND = 1e3;
// Made once: one of these takes longer to make than a hundred texts take to write.
const NUMBER = new Intl.NumberFormat("en");
const DAY = new Intl.DateTimeFormat("en-CA");
const TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const ZONE = new Intl.DateTimeFormat("en", { timeZoneName: "short" });

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s === 0) return "0 s";
  if (s < 0.001) return `${(s * 1e6).toFixed(0)} µs`;
  if (s < 1) return `${(s * 1e3).toFixed(s < 0.01 ? 1 : 0)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  const whole = Math.floor(s);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (s < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86400)} d ${two(Math.floor(whole / 3600) % 24)} h`;
}

export function count(n) {
  return n === null || n === undefined ? "–" : NUMBER.format(n);
}

// "1 span", "1,200 spans".
export function many(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

// A rate, short: 0.4/s, 12/s, 1,250/s.
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  const digits = perSecond !== 0 && perSecond < 10 ? 1 : 0;
  return `${NUMBER.format(Number(perSecond.toFixed(digits)))}/s`;
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(Math.min(share, 1) * 100)} %`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (n >= size) return `${(n / size).toFixed(1)} ${unit}`;
  }
  return `${n} B`;
}

// The time of day in the viewer's zone.
export function clock(moment) {
  return TIME.format(new Date(moment));
}

// The same, with its date where it is on another day than `now`.
export function moment(at, now) {
  const [day, today] = [new Date(at), new Date(now)];
  if (day.toDateString() === today.toDateString()) return clock(day);
  const year = day.getFullYear() === today.getFullYear() ? "" : ` ${day.getFullYear()}`;
  return `${DATE.format(day)}${year} ${clock(day)}`;
}

// The instant in full, with its zone: what stands behind each short time.
export function exact(moment) {
  const at = new Date(moment);
  const day = DAY.format(at);
  const zone = ZONE.formatToParts(at).find((part) => part.type === "timeZoneName").value;
  return `${day} ${clock(at)}.${String(at.getMilliseconds()).padStart(3, "0")} ${zone} (${at.toISOString()})`;
}

// How long ago, or in how long: both moments by RFC 3339 or in milliseconds.
export function relative(moment, now) {
  const seconds = (new Date(now) - new Date(moment)) / SECOND;
  return seconds >= 0 ? `${duration(seconds)} ago` : `in ${duration(-seconds)}`;
}

const PLACES = {
  loop: "on the loop", main: "on the loop's thread", io: "in an I/O thread", thread: "in a thread", process: "in a process",
};

// Where a task runs.
export function placeOf(engine, pid = null) {
  return pid ? `in process ${pid}` : PLACES[engine] ?? engine;
}

// What went wrong with a task, in a line; empty where nothing did.
export function errorOf(task) {
  const kind = task.error_type?.split(".").at(-1) ?? (task.status === "cancelled" ? task.cancel_reason : null);
  const text = [kind, task.error].filter(Boolean).join(": ");
  return task.abandoned ? `${text} (${abandonedOf(task)})`.trim() : text;
}

function abandonedOf(task) {
  if (!task.code_ended_at) return "abandoned: its code may still run";
  return `abandoned: its code ended ${duration((new Date(task.code_ended_at) - new Date(task.completed_at)) / SECOND)} later`;
}

export function progressOf(task) {
  if (task.progress.updated_at === null) return "";
  return [`${Math.floor(task.progress.percent)} %`, task.progress.message].filter(Boolean).join(" · ");
}
