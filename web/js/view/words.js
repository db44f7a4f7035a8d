// Sentences of the view. The computed fraction is a share of token passes; it is never called a speed-up.

import { OUTCOMES, PHASES } from "./store.js";

const EXPECTATIONS = ["computed", "reused", "may be reused, the picture decides"];

function seconds(value) {
  if (value >= 90) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return value >= 10 ? `${Math.round(value)} s` : `${value.toFixed(1)} s`;
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

export function describeRun(run) {
  const { calls, calls_planned: planned, seconds_left: left } = run.totals;
  if (run.status === "failed") return `stopped by an error after ${calls} of ${planned} passes: ${run.message}`;
  if (run.status === "interrupted") return `interrupted after ${calls} of ${planned} passes`;
  if (run.status === "finished") return `finished: ${calls} passes in ${seconds(run.totals.seconds)}`;
  if (!run.now?.length) return "begins";
  const [kind, lane, step] = run.now;
  const doing = { context: "shows given frames", refresh: `passes chunk ${lane} clean` }[kind] ?? `chunk ${lane}, step ${step}`;
  const rest = left === null ? "" : ` · ≈ ${seconds(left)} left`;
  return `${doing} · pass ${calls}/${planned}${rest}`;
}

export function describeTotals(run) {
  const { computed, total, outcomes, seconds: spent } = run.totals;
  if (!total) return "";
  const [full, partial, reused] = outcomes;
  const steps = full + partial + reused;
  const saved = steps ? ` · branch steps: ${full} full, ${partial} partly, ${reused} skipped` : "";
  return `computed ${percent(computed / total)} of token passes (not a speed-up)${saved} · ${seconds(spent)}`;
}

export function describePlan(plan, problem, plans) {
  if (problem) return `plan: ${problem}`;
  if (!plan) return plans ? "plan: not drawn yet" : "nothing was made yet: run the graph";
  const chunks = `${plan.lanes.length} chunk${plan.lanes.length === 1 ? "" : "s"} × ${plan.steps} steps`;
  if (plan.cache === "none") return [`plan: ${chunks}, no MotionCache`, ...plan.notes].join(" · ");
  const first = plan.first_reuse === null ? "nothing can be reused" : `reuse can begin at step ${plan.first_reuse}`;
  const how = plan.exact ? "chunk phase as it will be" : "bounds";
  return [`plan: ${chunks}, ${first} (${how})`, ...plan.notes].join(" · ");
}

/** Chunk, step, phase, what happened or is expected, distance, threshold, computed share, time. */
export function describeCell(head, run, plan, { lane, step }) {
  const [start, stop, begin, window] = head.lanes[lane];
  const where = `chunk ${lane} (latents ${start}–${stop - 1}${window ? `, window ${window}` : ""}), step ${step}`;
  if (!run) {
    const cell = plan.cells[lane * plan.steps + step];
    const phase = PHASES[cell[2]];
    const distance = cell.length > 4 ? `, distance ${cell[4].toPrecision(3)}${threshold(head, phase)}` : "";
    const what = plan.cache === "none" ? "computed" : EXPECTATIONS[cell[3]];
    return `${where}: row ${begin + step}, ${phaseWords(phase)}${what}${distance}`;
  }
  const cell = run.cell(lane, step);
  if (!cell) return `${where}: waiting`;
  const [, , phaseAt, outcomeAt, computed, total, distance, waited, spent] = cell;
  const phase = PHASES[phaseAt];
  const outcome = { full: "all recomputed", partial: `${percent(computed / total)} recomputed`, reused: "all reused" };
  const far = distance === null ? "" : `, distance ${distance.toPrecision(3)}${threshold(head, phase)}`;
  const waits = waited ? ", too few needed work" : "";
  const lasted = `, ${seconds(spent)} (chunk ${seconds(run.totals.seconds_by_lane[lane])})`;
  return `${where}: ${phaseWords(phase)}${outcome[OUTCOMES[outcomeAt]]}${far}${waits}${lasted}`;
}

function phaseWords(phase) {
  return phase === "none" ? "" : phase === "warm-up" ? "warm-up, " : `${phase} phase, `;
}

function threshold(head, phase) {
  const value = head.thresholds?.[phase];
  return value === undefined ? "" : ` (threshold ${Number(value.toPrecision(3))})`;
}
