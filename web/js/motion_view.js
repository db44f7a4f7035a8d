// Puts the view of what MotionCache does on the pack's samplers and on the motion mask preview.

import { executionIds, planRequest } from "./view/graph.js";
import { store } from "./view/store.js";
import { MotionView } from "./view/view.js";

const { app } = window.comfyAPI.app;
const { api } = window.comfyAPI.api;

const SAMPLERS = [
  "MotionCacheAutoregressiveSampler",
  "MotionCacheAutoregressiveSamplerObject",
  "MotionCacheMagi1Sampler",
];
const PREVIEW = "MotionCacheMotionMaskPreview";
const NAME = "motioncache_view";
const MIN_HEIGHT = 430;
const FOLDED_HEIGHT = 30;
const FOLDED = "motioncache_folded";
const LOOK_MS = 400;

const views = new Map();

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
  const { onConfigure, onExecuted, onRemoved } = node;
  node.onConfigure = function (...args) {
    onConfigure?.apply(this, args);
    fit();
  };
  node.onExecuted = function (output, ...rest) {
    onExecuted?.call(this, output, ...rest);
    for (const state of output?.motioncache ?? []) store.adopt(state);
  };
  node.onRemoved = function (...args) {
    onRemoved?.apply(this, args);
    view.dispose();
    views.delete(node);
  };
  fit();
  views.set(node, { view, key: null, asked: 0 });
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
  const number = ++entry.asked;
  try {
    const answer = await api.fetchApi("/motioncache/plan", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: key,
    });
    const drawn = await answer.json();
    if (number === entry.asked) entry.view.showPlan(drawn.error ? null : drawn, drawn.error, entry.moved);
  } catch {
    if (number === entry.asked) entry.view.showPlan(null, "the server does not answer", entry.moved);
  }
}

setInterval(() => {
  if (document.hidden) return;
  for (const [node, entry] of views) {
    if (!node.graph) continue;
    const ids = executionIds(node).join();
    if (ids && ids !== entry.ids) {
      // new, pasted, or put into a subgraph: ask for what ran under this id
      entry.ids = ids;
      entry.view.restore();
      for (const id of ids.split(",")) store.load(id);
    }
    if (entry.view.plans) look(node, entry);
  }
}, LOOK_MS);

app.registerExtension({
  name: "motioncache.view",
  nodeCreated(node) {
    if (SAMPLERS.includes(node.comfyClass) || node.comfyClass === PREVIEW) attach(node);
  },
});
