// What Linux says of processes, and what samples say of themselves.

import { readFileSync } from "node:fs";

/** The kilobytes after `name` in a file of /proc; 0 when the process has gone. */
export function kilobytes(file, name) {
  try {
    return Number(readFileSync(file, "utf8").match(new RegExp(`^${name}:\\s+(\\d+) kB`, "m"))[1]);
  } catch {
    return 0;
  }
}

/** User and system seconds of `pid` so far, 0 when it has gone; the clock ticks of Linux are hundredths. */
export function cpu(pid) {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}

/** The `user-N` whose CLI process this is, by the home that stands in its environment; `undefined` when it has gone. */
export function owner(pid) {
  for (const file of ["environ", "cmdline"]) {
    try {
      const found = readFileSync(`/proc/${pid}/${file}`, "utf8").match(/\buser-\d+\b/);
      if (found) return found[0];
    } catch {} // It ended.
  }
  return undefined;
}

/** Megabytes of memory, what is shared counted in proportion. */
export const pss = (pid) => kilobytes(`/proc/${pid}/smaps_rollup`, "Pss") / 1024;

/** The value below which `share` of `values` lie, by nearest rank. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

export const sum = (values) => values.reduce((total, each) => total + each, 0);
