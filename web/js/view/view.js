// The view on a node: picture, strip of chunks, timeline, totals. What it shows comes from the store, or before a run
// from the server's drawing of the plan.

import { sharpness, theme } from "./canvas.js";
import { workflowId } from "./graph.js";
import { build } from "./parts.js";
import { drawPicture, drawStrip, recomputed, tokenAt, weightOf } from "./picture.js";
import { OUTCOMES, PHASES, store } from "./store.js";
import { cellAt, drawTimeline } from "./timeline.js";
import { describeCell, describeEvent, describeNotes, describePlan, describeRun, describeTotals } from "./words.js";

const PLAY_MS = 160;
const LOOP_MS = 140;
const TOTALS_HELP = "\nShare of the token passes that were done. It is not a speed-up, which only a clock can tell.";

export class MotionView {
  /** `ids`: () -> ids under which the node runs. `plans`: whether the node has a plan to draw. */
  constructor(kind, ids, plans) {
    Object.assign(this, { kind, ids, plans });
    this.plan = null;
    this.problem = "";
    this.mode = plans ? "plan" : "run";
    this.follow = true;
    this.lane = 0;
    this.step = 0;
    this.frame = 0;
    this.shows = "both";
    this.opacity = 0.7;
    this.playing = null;
    this.beat = 0;
    this.strip = [];
    this.place = null; // of the timeline
    this.hovered = null; // cell under the mouse
    this.token = null; // token under the mouse
    this.parts = build(this);
    this.element = this.parts.root;
    this.restore();
    this.onChange = ({ detail }) => this.ids().includes(detail.node) && this.changed();
    this.observer = new ResizeObserver(() => this.invalidate());
    this.timer = null;
    this.calm = window.matchMedia?.("(prefers-reduced-motion: reduce)")?.matches ?? false;
  }

  /** Begin to follow what happens; `dispose` ends it. */
  start() {
    store.addEventListener("change", this.onChange);
    this.observer.observe(this.element);
    this.timer ??= setInterval(() => this.tick(), LOOP_MS);
  }

  dispose() {
    store.removeEventListener("change", this.onChange);
    this.observer.disconnect();
    clearInterval(this.timer);
    this.timer = null;
    this.play(false);
  }

  get run() {
    return store.runOf(this.ids(), this.kind);
  }

  /** Lanes, steps and sizes of what is shown; null where there is nothing yet. */
  get head() {
    return this.mode === "run" ? (this.run?.head ?? null) : this.plan;
  }

  /** Whether ComfyUI's preview of a run shows nothing that the view does not: a decoder's is finer. */
  get showsLatents() {
    return !this.run?.decoded;
  }

  /** What the view shows, as plain data. */
  state() {
    const { mode, lane, step, frame, shows, opacity } = this;
    const run = this.run;
    return {
      mode, lane, step, frame, shows, opacity,
      run: run ? { id: run.id, workflow: run.head.workflow, seq: run.seq, status: run.status, cells: [...run.cells.values()], totals: run.totals } : null,
      words: ["status", "totals", "hover"].map((name) => this.parts[name].textContent),
    };
  }

  // What happens outside

  changed() {
    const run = this.run;
    if (run && run.id !== this.shownRun) {
      this.shownRun = run.id;
      const begins = run.status === "running";
      if (begins || this.mode === "run" || !this.restored) this.mode = "run";
      this.follow = begins || this.follow || !this.restored;
      this.restored = false;
    }
    this.announce(run);
    if (run && this.follow && this.mode === "run") {
      const last = [...run.cells.values()].at(-1);
      if (last) [this.lane, this.step] = last;
    }
    this.clamp();
    this.invalidate();
  }

  /** Say begin and end of a run aloud; one that was over when the page came to know it is no event. */
  announce(run) {
    const now = run ? `${run.id} ${run.status}` : "";
    if (now === this.announced) return;
    const event = run && (run.status === "running" || this.announced === `${run.id} running`);
    this.announced = now;
    if (event) this.parts.events.textContent = describeEvent(run);
  }

  /** Show a drawing of the plan. `moved`: a knob was touched, so the plan is what is asked for. */
  showPlan(plan, problem, moved) {
    this.plan = plan ?? this.plan;
    this.problem = problem ?? "";
    if (moved && this.run?.status !== "running") this.mode = "plan";
    this.clamp();
    this.invalidate();
  }

  // What the artist does

  choose(lane, step, frame = this.frame) {
    Object.assign(this, { lane, step, frame });
    const run = this.run;
    const cells = run ? [...run.cells.values()] : [];
    const last = cells.at(-1);
    this.follow = run?.status === "running" && last?.[0] === lane && last?.[1] === step;
    this.clamp();
    this.keep();
    this.invalidate();
  }

  clamp() {
    const head = this.head;
    const under = this.hovered;
    if (!head || !(under?.lane < head.lanes.length && under.step < head.steps)) this.hovered = null;
    if (!head || !(this.token?.row < head.rows && this.token.column < head.columns)) this.token = null;
    if (!head) return;
    this.lane = Math.min(Math.max(this.lane, 0), head.lanes.length - 1);
    this.step = Math.min(Math.max(this.step, 0), head.steps - 1);
    const [start, stop] = head.lanes[this.lane];
    this.frame = Math.min(Math.max(this.frame, 0), stop - start - 1);
  }

  setMode(mode) {
    this.mode = mode;
    this.clamp();
    this.keep();
    this.invalidate();
  }

  play(on = !this.playing) {
    clearInterval(this.playing);
    this.playing = on && this.head ? setInterval(() => this.advance(), PLAY_MS) : null;
    this.invalidate();
  }

  advance() {
    const head = this.head;
    if (!head) return this.play(false);
    const run = this.mode === "run" ? this.run : null;
    const last = run ? Math.max(run.lastStep(this.lane), 0) : head.steps - 1;
    this.choose(this.lane, this.step >= last ? 0 : this.step + 1);
  }

  key(event) {
    const move = {
      ArrowLeft: [0, -1, 0],
      ArrowRight: [0, 1, 0],
      ArrowUp: [-1, 0, 0],
      ArrowDown: [1, 0, 0],
      PageUp: [0, 0, -1],
      PageDown: [0, 0, 1],
      Home: [0, -Infinity, 0],
      End: [0, Infinity, 0],
    }[event.key];
    const slider = event.target.matches?.("input, select");
    if (slider || event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) this.choose(this.lane + move[0], this.step + move[1], this.frame + move[2]);
    else if (event.key === " " && event.target === this.element) this.play();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  pointed(event) {
    const head = this.head;
    const place = this.place;
    const found = head && place && cellAt(head, place, this.parts.timeline, event.offsetX, event.offsetY, this.step);
    this.hovered = found;
    if (found && event.buttons & 1) this.choose(found.lane, found.step);
    this.invalidate();
  }

  pointedPicture(event) {
    this.token = this.head && tokenAt(this.head, this.parts.picture, event.offsetX, event.offsetY);
    this.invalidate();
  }

  clickedStrip(event) {
    const found = this.strip.find(({ x, across }) => event.offsetX >= x && event.offsetX <= x + across);
    if (found) this.choose(found.lane, this.run ? Math.max(this.run.lastStep(found.lane), 0) : this.step);
  }

  // Kept over a reload of the page

  get slot() {
    return `motioncache.view.${workflowId()}.${this.ids()[0]}.${this.kind}`;
  }

  keep() {
    const { mode, lane, step, frame, shows, opacity, follow } = this;
    try {
      sessionStorage.setItem(this.slot, JSON.stringify({ mode, lane, step, frame, shows, opacity, follow, run: this.run?.id }));
    } catch {
      // a page without storage shows the newest step after a reload
    }
  }

  restore() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.slot));
      if (!kept) return;
      const { run, mode, follow, lane, step, frame, ...looks } = kept;
      Object.assign(this, looks, run ? { mode, follow, lane, step, frame } : {});
      this.restored = Boolean(run);
      this.parts.opacity.value = String(this.opacity);
      this.parts.shows.value = this.shows;
    } catch {
      // nothing kept
    }
  }

  // Drawing

  invalidate() {
    this.frameAsked ??= requestAnimationFrame(() => {
      this.frameAsked = null;
      this.draw();
    });
  }

  tick() {
    if (document.hidden || !this.element.isConnected) return;
    const colours = ["--input-text", "--border-color", "--comfy-input-bg"].map((name) => theme(this.element, name));
    const looks = [sharpness(), ...colours].join();
    if (looks !== this.looks) {
      this.looks = looks;
      this.invalidate();
    }
    if (this.calm || this.mode !== "run" || !this.run?.thumbnails.size) return;
    this.beat++;
    this.drawStripOnly();
  }

  draw() {
    this.clamp(); // another graph, and so another run, may have come to the page
    const { parts } = this;
    const run = this.mode === "run" ? this.run : null;
    const head = this.head;
    parts.planButton.setAttribute("aria-pressed", String(this.mode === "plan"));
    parts.runButton.setAttribute("aria-pressed", String(this.mode === "run"));
    parts.runButton.disabled = !this.run;
    parts.play.textContent = this.playing ? "⏸" : "▶";
    parts.play.disabled = !head;
    parts.status.textContent = run ? describeRun(run) : describePlan(this.plan, this.problem, this.plans);
    parts.status.title = parts.status.textContent;
    parts.totals.textContent = run ? describeTotals(run) : describeNotes(this.plan, this.problem);
    parts.totals.title = parts.totals.textContent + (run ? TOTALS_HELP : "");
    const chosen = { lane: this.lane, step: this.step };
    const words = head ? describeCell(head, run, this.plan, this.hovered ?? chosen) : "";
    parts.hover.textContent = this.token && run ? this.describeToken(run) : words;
    parts.hover.title = parts.hover.textContent;
    const aloud = head ? describeCell(head, run, this.plan, chosen) : "nothing yet";
    parts.timeline.setAttribute("aria-label", `Timeline, chunks by steps; chosen: ${aloud}`);
    const moves = this.playing || (this.follow && run?.status === "running");
    if (!moves && parts.chosen.textContent !== aloud) parts.chosen.textContent = aloud;
    parts.legend.partial.textContent = run ? "partly" : "may be reused";
    for (const name of ["token", "heat"]) parts.legend[name].parentElement.style.display = run ? "" : "none";
    parts.frame.textContent = head ? `frame ${this.frame + 1}/${head.lanes[this.lane][1] - head.lanes[this.lane][0]}` : "";
    if (!head) return [parts.timeline, parts.picture, parts.strip].forEach((canvas) => (canvas.width = canvas.width));
    const mark = (lane, step) => this.mark(run, lane, step);
    this.place = drawTimeline(parts.timeline, head, mark, chosen, this.place) ?? this.place;
    drawPicture(parts.picture, head.rows ? head : { ...head, rows: 9, columns: 16 }, this.shown(run));
    this.drawStripOnly();
  }

  drawStripOnly() {
    const run = this.mode === "run" ? this.run : null;
    const head = this.head;
    if (!head) return;
    if (run) for (const lane of run.thumbnails.keys()) store.wantThumbnail(run, lane);
    const frameOf = (lane, frames) => (run?.thumbnails.get(lane)?.clean ? this.beat % frames : frames - 1);
    const imageOf = (lane) => run?.thumbnails.get(lane);
    this.strip = drawStrip(this.parts.strip, head, head.lanes.length, imageOf, frameOf, this.lane);
  }

  mark(run, lane, step) {
    if (run) {
      const cell = run.cell(lane, step);
      if (cell) return { kind: OUTCOMES[cell[3]], share: cell[4] / cell[5], phase: cell[2] };
      return null;
    }
    const cell = this.plan?.cells[lane * this.plan.steps + step];
    if (!cell || this.plan.cache === "unknown") return null;
    const kind = ["full", "reused", "partial"][cell[3]];
    return { kind, share: 0.5, phase: cell[2], planned: true };
  }

  /** What the picture is made of. */
  shown(run) {
    const nothing = { image: null, frames: 1, frame: this.frame, weights: null, outcome: null, opacity: this.opacity };
    if (!run) return nothing;
    store.wantPictures(run, this.lane);
    const pictures = run.pictures.get(this.lane);
    const cell = run.cell(this.lane, this.step);
    const [start, stop] = run.head.lanes[this.lane];
    return {
      image: run.thumbnails.get(this.lane)?.image ?? null,
      frames: stop - start,
      frame: this.frame,
      picture: pictures?.get(this.step),
      weights: this.weightsFor(pictures),
      outcome: cell && (run.head.cache !== "none" || run.totals.computed < run.totals.total) ? cell[3] : null,
      opacity: this.opacity,
      heat: this.shows === "both" || this.shows === "motion",
      tokens: this.shows === "both" || this.shows === "tokens",
    };
  }

  /** The weights that this step's decision was made with: those of the last step before it that made some. */
  weightsFor(pictures) {
    for (let step = this.step - 1; step >= 0; step--) {
      const found = pictures?.get(step)?.weights;
      if (found) return found;
    }
    return null;
  }

  describeToken(run) {
    const { row, column } = this.token;
    const pictures = run.pictures.get(this.lane);
    const weight = weightOf(run.head, this.weightsFor(pictures), this.frame, row, column);
    const cell = run.cell(this.lane, this.step);
    if (!cell) return `row ${row}, column ${column}`;
    const done = recomputed(run.head, pictures?.get(this.step), cell[3], this.frame, row, column);
    const moves = weight === null ? "" : `, motion weight ${weight.toFixed(2)} (relative within this frame)`;
    const what = done === null ? "not kept whether recomputed" : done ? "recomputed" : "reused";
    return `row ${row}, column ${column}: ${what} in step ${this.step}${moves}`;
  }

  /** Phase and outcome in words, for tests and other scripts. */
  cellWords(lane, step) {
    const cell = this.run?.cell(lane, step);
    return cell ? { phase: PHASES[cell[2]], outcome: OUTCOMES[cell[3]] } : null;
  }
}
