// What is known of runs: loaded from the server's route, kept up to date by events, or taken from a node's output.

import { workflowId } from "./graph.js";

const { api } = window.comfyAPI.api;

export const PHASES = ["none", "warm-up", "chunk", "token"];
export const OUTCOMES = ["full", "partial", "reused"];
const EVENT = "motioncache.live";
const KEPT = 64;
const MOST_QUEUED = 1000;
const QUIET_MS = 5000;
const keyOf = (workflow, node) => JSON.stringify([workflow, node]);

/** Put an entry into a map that holds the last ones. */
function keepNewest(map, key, value, most) {
  map.set(key, value);
  while (map.size > most) map.delete(map.keys().next().value);
}

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

function pictureOf(data) {
  const made = { step: data.step, bits: data.bits === null ? null : bytesOf(data.bits), weights: null };
  if (data.weights) {
    const [values, low, high, rows, columns] = data.weights;
    made.weights = { values: bytesOf(values), low, high, rows, columns };
  }
  return made;
}

/** One run as far as this page knows it. */
class Run {
  constructor(state) {
    this.head = state;
    this.id = state.run;
    this.cells = new Map();
    this.pictures = new Map();
    this.thumbnails = new Map();
    this.asked = new Map();
    this.take(state);
    for (const [lane, pictures] of Object.entries(state.pictures ?? {})) this.takePictures(Number(lane), pictures);
  }

  /** Lay what changed over what is known. */
  take(change) {
    for (const cell of change.cells) this.cells.set(`${cell[0]}:${cell[1]}`, cell);
    if (change.picture?.[1]) this.takePictures(change.picture[0], [change.picture[1]]);
    for (const [lane, version, clean] of change.thumbnails ?? []) {
      const before = this.thumbnails.get(lane);
      if (before?.version !== version) this.thumbnails.set(lane, { ...before, version, clean: Boolean(clean), stale: true });
    }
    Object.assign(this, { seq: change.seq, status: change.status, message: change.message, now: change.now });
    Object.assign(this, { totals: change.totals, decoded: change.decoded ?? this.decoded });
  }

  takePictures(lane, pictures) {
    const known = this.pictures.get(lane) ?? new Map();
    for (const picture of pictures) known.set(picture.step, pictureOf(picture));
    this.pictures.set(lane, known);
  }

  cell(lane, step) {
    return this.cells.get(`${lane}:${step}`);
  }

  /** The last step of a chunk that has been made, -1 before the first. */
  lastStep(lane) {
    for (let step = this.head.steps - 1; step >= 0; step--) if (this.cell(lane, step)) return step;
    return -1;
  }
}

class Store extends EventTarget {
  constructor() {
    super();
    this.runs = new Map();
    this.shown = new Map(); // (workflow, node) -> {run, at}; runs sent by scripts have an empty workflow
    this.pinned = new Map(); // (workflow, node) -> run that the history shows
    this.loading = new Map();
    this.again = new Set(); // (workflow, node) whose answer on its way may be older than what was missed
    this.queued = new Map(); // prompt -> graph that the page queued it from
    this.heard = 0; // when the last event came, or was asked for in its place
    api.addEventListener(EVENT, ({ detail }) => this.hear(detail));
    const { queuePrompt } = api;
    api.queuePrompt = async (number, data, ...more) => {
      const workflow = workflowId(data?.workflow);
      const answer = await queuePrompt.call(api, number, data, ...more);
      if (answer?.prompt_id) keepNewest(this.queued, answer.prompt_id, workflow, MOST_QUEUED);
      return answer;
    };
    api.addEventListener("executed", ({ detail }) => {
      for (const state of detail.output?.motioncache ?? []) this.result(state, detail.prompt_id);
    });
    api.addEventListener("reconnected", () => {
      for (const key of this.shown.keys()) this.miss(JSON.parse(key)[1]);
    });
  }

  /** The newest run of any of these nodes in this graph (a subgraph's node has one id for every copy of it). */
  runOf(nodes, kind) {
    const workflow = workflowId();
    const keys = nodes.flatMap((node) => [keyOf(workflow, node), keyOf("", node)]);
    const found = keys.map((key) => this.shown.get(key)).filter((one) => one && this.runs.get(one.run)?.head.kind === kind);
    return this.runs.get(found.sort((a, b) => b.at - a.at)[0]?.run);
  }

  /** Ask the server for the state of a node of the graph on the page. */
  load(node) {
    const workflow = workflowId();
    const key = keyOf(workflow, node);
    if (!this.loading.has(key)) {
      const asked = api
        .fetchApi(`/motioncache/state?${new URLSearchParams({ node, workflow })}`)
        .then((answer) => (answer.ok ? answer.json() : {}))
        .then(({ state }) => {
          if (state === null) this.lose(workflow, node);
          const pinned = this.pinned.has(key) && state?.status !== "running";
          if (state && !pinned) this.adopt(state, state.workflow ?? "");
        })
        .catch((error) => console.warn("motioncache: the server did not tell its state", error))
        .finally(() => {
          this.loading.delete(key);
          if (this.again.delete(key)) this.load(node);
        });
      this.loading.set(key, asked);
    }
    return this.loading.get(key);
  }

  /**
   * Ask for a run from which nothing was heard for a while. ComfyUI may send nothing more to a page that was reloaded: when
   * the old connection ends late, it takes the new one, which has the same name, for it.
   */
  stir(run) {
    if (run?.status !== "running" || performance.now() - this.heard < QUIET_MS) return;
    this.heard = performance.now();
    this.load(run.head.node);
  }

  /** Something was missed: ask for the whole state, anew if an answer is on its way. */
  miss(node) {
    const key = keyOf(workflowId(), node);
    if (this.loading.has(key)) this.again.add(key);
    else this.load(node);
  }

  /** The server knows nothing of a node: it was started anew, and what ran in it has ended. */
  lose(workflow, node) {
    for (const key of [keyOf(workflow, node), keyOf("", node)]) {
      const run = this.runs.get(this.shown.get(key)?.run);
      if (run?.status !== "running") continue;
      Object.assign(run, { status: "failed", message: "ComfyUI was started anew" });
      this.changed(node);
    }
  }

  /** Take the state that the history has of a node of the graph on the page, in place of what the server told. */
  recall(state) {
    const workflow = workflowId();
    const key = keyOf(workflow, state?.node);
    const run = this.shown.get(key)?.run;
    if (run !== state?.run && this.runs.get(run)?.status === "running") return;
    this.pinned.set(key, state?.run);
    this.shown.delete(key);
    this.adopt(state, workflow, this.newest());
  }

  /**
   * Take a result of a prompt: to the graph that made it or, where ComfyUI had kept it from an earlier prompt, to the one
   * that asked for it now. Neither need be on the page any more.
   */
  result(state, prompt) {
    if (state?.prompt === prompt) return this.adopt(state, state.workflow);
    this.adopt(state, this.queued.get(prompt) ?? workflowId(), this.newest());
  }

  /** @param {number} at when it began by the server's clock: the page may hear of an older run later. */
  point(workflow, node, run, at) {
    const key = keyOf(workflow, node);
    if (this.shown.get(key)?.run !== run) this.shown.set(key, { run, at });
  }

  /** A time after all that are known. */
  newest() {
    return Math.max(0, ...[...this.shown.values()].map((one) => one.at)) + 0.001;
  }

  /**
   * Take a whole state. One that is not newer than what is known of the same run adds only its pictures.
   * @param {string} workflow of the graph that shows it; a result that ComfyUI kept may have been made from another one.
   * @param {number} at see point.
   */
  adopt(state, workflow, at = state?.began ?? 0) {
    if (state?.format !== "motioncache_live" || state.version !== 1) return;
    const known = this.runs.get(state.run);
    if (known) {
      if (state.seq >= known.seq) known.take(state);
      for (const [lane, pictures] of Object.entries(state.pictures ?? {})) known.takePictures(Number(lane), pictures);
    } else {
      keepNewest(this.runs, state.run, new Run(state), KEPT);
    }
    this.point(workflow, state.node, state.run, at);
    this.changed(state.node);
  }

  hear(change) {
    this.heard = performance.now();
    const run = this.runs.get(change.run);
    const workflow = change.workflow ?? "";
    const here = !workflow || workflow === workflowId();
    if (here) this.pinned.delete(keyOf(workflowId(), change.node));
    // an unknown run, or one of which something was missed; another graph's is asked for when that graph is shown
    if (!run || change.base > run.seq) return here ? this.miss(change.node) : null;
    run.take(change);
    this.point(workflow, change.node, change.run, change.began);
    this.changed(change.node);
  }

  changed(node) {
    this.dispatchEvent(new CustomEvent("change", { detail: { node } }));
  }

  /** See that the pictures of a chunk's steps are here, as far as they have been made. */
  async wantPictures(run, lane) {
    const made = run.lastStep(lane) + 1;
    const known = run.pictures.get(lane)?.size ?? 0;
    if (known >= made || run.asked.get(lane) === made) return;
    run.asked.set(lane, made);
    const answer = await this.ask(`/motioncache/pictures?run=${run.id}&lane=${lane}`);
    if (!answer) return;
    run.takePictures(lane, (await answer.json()).pictures);
    this.changed(run.head.node);
  }

  /** See that the small picture of a chunk's latents is here. */
  async wantThumbnail(run, lane) {
    const shown = run.thumbnails.get(lane);
    if (!shown?.stale || shown.loading) return;
    shown.loading = true;
    const { version } = shown;
    const answer = await this.ask(`/motioncache/thumbnails?run=${run.id}&lane=${lane}&version=${version}`);
    const image = answer ? await createImageBitmap(await answer.blob()) : shown.image;
    const now = run.thumbnails.get(lane);
    run.thumbnails.set(lane, { ...now, image, loading: false, stale: now.version !== version });
    this.changed(run.head.node);
  }

  async ask(route) {
    try {
      const answer = await api.fetchApi(route);
      return answer.ok ? answer : null;
    } catch {
      return null;
    }
  }
}

export const store = new Store();
