// Puts the view of what MotionCache does on the pack's samplers and on the motion mask preview.

import { executionIds, outputNames, planRequest, workflowId } from "./view/graph.js";
import { leaveOutPreviews } from "./view/previews.js";
import { store } from "./view/store.js";
import { MotionView } from "./view/view.js";

const { app } = window.comfyAPI.app;
const { api } = window.comfyAPI.api;

const SAMPLERS = [
  "MotionCacheAutoregressiveSampler",
  "MotionCacheAutoregressiveSamplerObject",
  "MotionCacheMagi1Sampler",
  "MotionCacheGenerateChunks",
  "MotionCacheFinishVideo",
];
const PREVIEW = "MotionCacheMotionMaskPreview";
const NAME = "motioncache_view";
const MIN_HEIGHT = 430;
const FOLDED_HEIGHT = 30;
const FOLDED = "motioncache_folded";
const LOOK_MS = 400;
const MOST_GONE = 8; // looks

const views = new Map(); // of nodes that are in a graph

function attach(node) {
  const view = new MotionView(node.comfyClass, () => executionIds(node), SAMPLERS.includes(node.comfyClass));
  const folded = () => Boolean(node.properties?.[FOLDED]);
  const minHeight = () => (folded() ? FOLDED_HEIGHT : MIN_HEIGHT);
  const widget = node.addDOMWidget(NAME, "MOTIONCACHE_VIEW", view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: minHeight,
    getMaxHeight: () => (folded() ? FOLDED_HEIGHT : undefined),
    getValue: () => undefined,
    setValue: () => {},
  });
  widget.serialize = false;
  widget.view = view;

  const fit = () => {
    view.element.classList.toggle("mc-folded", folded());
    view.element.style.minHeight = `${minHeight()}px`;
    view.parts.fold.textContent = folded() ? "+" : "–";
    view.invalidate();
  };
  view.onFold = () => {
    node.setProperty?.(FOLDED, !folded());
    fit();
    node.setSize?.([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas?.(true, true);
  };
  const { onAdded, onConfigure, onRemoved } = node;
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    fit();
  };
  // nodes that are only made to be copied from are in no graph, but have the id of the one that they copy
  node.onAdded = function (...args) {
    onAdded?.apply(this, args);
    if (views.has(node)) return;
    view.start();
    views.set(node, { view, key: null, gone: 0 });
  };
  node.onRemoved = function (...args) {
    onRemoved?.apply(this, args);
    forget(node);
  };
  fit();
}

function forget(node) {
  views.get(node)?.view.dispose();
  views.delete(node);
}

/** Look at the knobs before each sampler; when they rest after a change, have the plan drawn anew. */
async function look(node, entry) {
  const request = planRequest(node);
  const key = JSON.stringify(request);
  if (key !== entry.key) {
    Object.assign(entry, { key, moved: entry.key !== null, due: true });
    return;
  }
  if (!entry.due) return;
  entry.due = false;
  entry.asking?.abort();
  const asking = (entry.asking = new AbortController());
  const { drawn, problem } = await drawing(key, asking.signal);
  if (entry.asking !== asking) return;
  const { moved } = entry;
  entry.moved = false;
  entry.view.showPlan(drawn, problem, moved);
}

/** The server's drawing of a plan, or why there is none. */
async function drawing(request, signal) {
  let answer;
  try {
    const headers = { "Content-Type": "application/json" };
    answer = await api.fetchApi("/motioncache/plan", { method: "POST", headers, body: request, signal });
  } catch {
    return { drawn: null, problem: "the server does not answer" };
  }
  try {
    const drawn = await answer.json();
    return drawn.error ? { drawn: null, problem: drawn.error } : { drawn, problem: "" };
  } catch {
    return { drawn: null, problem: `cannot be drawn (the server answers with status ${answer.status})` };
  }
}

api.addEventListener("reconnected", () => views.forEach((entry) => (entry.due = true)));

leaveOutPreviews((id) =>
  [...views].some(([node, { view }]) => view.showsLatents && !node.properties?.[FOLDED] && executionIds(node).includes(id)),
);

setInterval(() => {
  if (document.hidden) return;
  for (const [node, entry] of views) {
    const ids = node.graph ? executionIds(node) : [];
    entry.gone = ids.length ? 0 : entry.gone + 1;
    // older front ends do not tell nodes inside of a subgraph that their graph is gone
    if (entry.gone > MOST_GONE) forget(node);
    if (!ids.length) continue;
    const place = [workflowId(), ...ids].join();
    if (place !== entry.place) {
      // new, pasted, or put into a subgraph: ask for what ran under this id
      entry.place = place;
      entry.view.restore();
      for (const id of ids) store.load(id);
    }
    store.stir(entry.view.run);
    if (entry.view.plans) look(node, entry);
  }
}, LOOK_MS);

app.registerExtension({
  name: "motioncache.view",
  nodeCreated(node) {
    if (SAMPLERS.includes(node.comfyClass) || node.comfyClass === PREVIEW) attach(node);
  },
  /** An older entry of the queue was loaded, or a tab with its outputs: these are what is asked for. */
  onNodeOutputsUpdated(outputs) {
    store.pinned.clear();
    for (const [node] of views) {
      const output = node.graph && outputNames(node).map((name) => outputs?.[name]).find(Boolean);
      for (const state of output?.motioncache ?? []) store.recall(state);
    }
  },
});
