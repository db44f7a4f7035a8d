// What is known of runs: loaded from the server's route, kept up to date by events, or taken from a node's output.

const { api } = window.comfyAPI.api;

export const PHASES = ["none", "warm-up", "chunk", "token"];
export const OUTCOMES = ["full", "partial", "reused"];
const EVENT = "motioncache.live";
const KEPT = 24;

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
    this.totals = change.totals;
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
    this.byNode = new Map();
    this.loading = new Map();
    api.addEventListener(EVENT, ({ detail }) => this.hear(detail));
    api.addEventListener("reconnected", () => [...this.byNode.keys()].forEach((node) => this.load(node)));
  }

  /** The newest run of any of these nodes (a subgraph's node has one id for every copy of the subgraph). */
  runOf(nodes, kind) {
    const found = nodes.map((node) => this.runs.get(this.byNode.get(node))).filter((run) => run?.head.kind === kind);
    return found.sort((a, b) => b.born - a.born)[0];
  }

  /** Ask the server for a node's state. */
  load(node) {
    if (!this.loading.has(node)) {
      const asked = api
        .fetchApi(`/motioncache/state?node=${encodeURIComponent(node)}`)
        .then((answer) => (answer.ok ? answer.json() : { state: null }))
        .then(({ state }) => state && this.adopt(state))
        .catch((error) => console.warn("motioncache: the server did not tell its state", error))
        .finally(() => this.loading.delete(node));
      this.loading.set(node, asked);
    }
    return this.loading.get(node);
  }

  /** Take a whole state. One that is not newer than what is known of the same run adds only its pictures. */
  adopt(state) {
    if (state?.format !== "motioncache_live" || state.version !== 1) return;
    const known = this.runs.get(state.run);
    if (known) {
      if (state.seq >= known.seq) known.take(state);
      for (const [lane, pictures] of Object.entries(state.pictures ?? {})) known.takePictures(Number(lane), pictures);
    } else {
      const run = new Run(state);
      run.born = performance.now();
      this.runs.set(run.id, run);
      while (this.runs.size > KEPT) this.runs.delete(this.runs.keys().next().value);
    }
    this.byNode.set(state.node, state.run);
    this.changed(state.node);
  }

  hear(change) {
    const run = this.runs.get(change.run);
    // an unknown run, or one of which something was missed
    if (!run || change.base > run.seq) return this.load(change.node);
    run.take(change);
    this.byNode.set(change.node, change.run);
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
