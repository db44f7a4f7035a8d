// Sentences of the view. The computed fraction is a share of token passes; it is never called a speed-up.

import { OUTCOMES, PHASES } from "./store.js";

const EXPECTATIONS = ["computed", "reused", "may be reused, the picture decides"];

function seconds(value) {
  const whole = Math.round(value);
  if (whole >= 90) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return whole >= 10 ? `${whole} s` : `${value.toFixed(1)} s`;
}

function percent(share) {
  const near = (share > 0 && share < 0.1) || (share > 0.99 && share < 1); // what little is left is not hidden
  return `${(100 * share).toFixed(near ? 1 : 0)} %`;
}

export function describeRun(run) {
  const { calls, calls_planned: planned, seconds_left: left } = run.totals;
  if (run.status === "failed") return `stopped by an error after ${calls} of ${planned} passes: ${run.message}`;
  if (run.status === "interrupted") return `interrupted after ${calls} of ${planned} passes`;
  if (run.status === "finished") return `finished: ${calls} passes${timed(run) ? ` in ${seconds(run.totals.seconds)}` : ""}`;
  if (!run.now?.length) return "begins";
  const [kind, lane, step] = run.now;
  const doing = { context: "shows given frames", refresh: `passes chunk ${lane} clean` }[kind] ?? `chunk ${lane}, step ${step}`;
  const rest = left === null ? "" : `≈ ${seconds(left)} left · `;
  return `${rest}pass ${calls}/${planned} · ${doing}`;
}

/** Said aloud by a screen reader at the begin and the end of a run. */
export function describeEvent(run) {
  return run.status === "running" ? `MotionCache: the run begins, ${run.totals.calls_planned} passes` : `MotionCache: ${describeRun(run)}`;
}

export function describeTotals(run) {
  const { computed, total, outcomes } = run.totals;
  if (!total) return "";
  const [full, partial, reused] = outcomes;
  const saved = full + partial + reused ? ` · branch steps: ${full} full, ${partial} partly, ${reused} skipped` : "";
  return `computed ${percent(computed / total)} of token passes (not a speed-up)${saved}`;
}

export function describePlan(plan, problem, plans) {
  if (problem) return `plan: ${problem}`;
  if (!plan) return plans ? "plan: not drawn yet" : "nothing was made yet: run the graph";
  const name = plan.example ? "plan (an example)" : "plan";
  const chunks = `${plan.lanes.length} chunk${plan.lanes.length === 1 ? "" : "s"} × ${plan.steps} steps`;
  if (plan.cache === "unknown") return `${name}: ${chunks}`;
  if (plan.cache === "none") return `${name}: ${chunks}, no MotionCache`;
  const first = plan.first_reuse === null ? "nothing can be reused" : `reuse can begin at step ${plan.first_reuse}`;
  const how = plan.exact ? "exact" : "bounds";
  return `${name}: ${chunks}, ${first} (${how})`;
}

/** What the plan's drawing leaves open. */
export function describeNotes(plan, problem) {
  return problem || !plan ? "" : plan.notes.join(" · ");
}

/** Chunk, step, phase, what happened or is expected, distance, threshold, computed share, time; least wanted last. */
export function describeCell(head, run, plan, { lane, step }) {
  const [start, stop, begin, window] = head.lanes[lane];
  const name = `chunk ${lane}, step ${step}`;
  const where = ` · latents ${start}–${stop - 1}${window ? `, window ${window}` : ""}`;
  if (!run) {
    const cell = plan.cells[lane * plan.steps + step];
    const phase = PHASES[cell[2]];
    const distance = cell.length > 4 ? ` · distance ${cell[4].toPrecision(3)}${threshold(head, phase)}` : "";
    const what = { none: "computed", unknown: "the cache settings are not known" }[plan.cache] ?? EXPECTATIONS[cell[3]];
    return `${name}: ${phaseWords(phase)}${what}${distance} · row ${begin + step}${where}`;
  }
  const cell = run.cell(lane, step);
  if (!cell) return `${name}: waiting${where}`;
  const [, , phaseAt, outcomeAt, computed, total, distance, waited, spent] = cell;
  const phase = PHASES[phaseAt];
  const outcome = { full: "all recomputed", partial: `${percent(computed / total)} recomputed`, reused: "all reused" };
  const far = distance === null ? "" : ` · distance ${distance.toPrecision(3)}${threshold(head, phase)}`;
  const waits = waited ? ", too few needed work" : "";
  const lasted = timed(run) ? ` · ${seconds(spent)} (chunk ${seconds(run.totals.seconds_by_lane[lane])})` : "";
  return `${name}: ${phaseWords(phase)}${outcome[OUTCOMES[outcomeAt]]}${waits}${far}${lasted}${where}`;
}

/** Whether times are known: those of a run told again are in its report. */
const timed = (run) => run.totals.seconds > 0;

function phaseWords(phase) {
  return phase === "none" ? "" : phase === "warm-up" ? "warm-up, " : `${phase} phase, `;
}

function threshold(head, phase) {
  const value = head.thresholds?.[phase];
  return value === undefined ? "" : ` (threshold ${Number(value.toPrecision(3))})`;
}
