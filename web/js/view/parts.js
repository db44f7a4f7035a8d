// The view's elements and what they listen to.

import { installStyle } from "./style.js";

function make(tag, className, attributes = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function button(text, title, action) {
  const made = make("button", "", { type: "button", title, "aria-label": title });
  made.textContent = text;
  made.addEventListener("click", action);
  return made;
}

function legend() {
  const row = make("div", "mc-text mc-two mc-legend mc-quiet");
  row.title =
    "Timeline: a line on top of a cell means warm-up, half a line the chunk phase. Motion weights are relative " +
    "within a frame. A token counts as recomputed if at least one branch recomputed it.";
  const words = {};
  const entries = [
    ["full", "computed"],
    ["partial", "partly"],
    ["reused", "reused"],
    ["waiting", "waiting"],
    ["token", "recomputed token"],
    ["heat", "still to moving, per frame"],
  ];
  for (const [name, text] of entries) {
    const entry = make("span");
    words[name] = make("span");
    words[name].textContent = text;
    entry.append(make("i", `mc-swatch mc-${name}`), words[name]);
    row.append(entry);
  }
  return { row, words };
}

/** Everything in the view, for a MotionView. */
export function build(view) {
  installStyle();
  const root = make("div", "motioncache-view", {
    tabindex: "0",
    role: "group",
    "aria-label": "MotionCache: what is computed and what is reused. Arrow keys choose chunk and step, space plays.",
  });
  const status = make("div", "mc-text mc-two mc-grow");
  const fold = button("–", "Fold or unfold", () => view.onFold?.());
  const planButton = button("Plan", "The plan, before the run", () => view.setMode("plan"));
  const runButton = button("Run", "What the last run did", () => view.setMode("run"));
  const top = make("div", "mc-row mc-top");
  top.append(status, ...(view.plans ? [planButton, runButton] : []), fold);

  const totals = make("div", "mc-text mc-two mc-quiet");
  const picture = make("canvas", "mc-picture", { role: "img", "aria-label": "Picture of the chosen chunk and frame" });
  const strip = make("canvas", "mc-strip", { role: "img", "aria-label": "Chunks; finished ones play as a loop" });
  const timeline = make("canvas", "mc-timeline", { role: "img", "aria-label": "Timeline: chunks by steps" });

  const play = button("▶", "Play through the steps (space)", () => view.play());
  const back = button("‹", "Frame before (page up)", () => view.choose(view.lane, view.step, view.frame - 1));
  const on = button("›", "Frame after (page down)", () => view.choose(view.lane, view.step, view.frame + 1));
  const frame = make("span", "mc-frame mc-quiet");
  const shows = make("select", "", { title: "What lies over the picture", "aria-label": "What lies over the picture" });
  for (const [value, words] of [
    ["both", "tokens + motion"],
    ["tokens", "recomputed tokens"],
    ["motion", "motion weights"],
    ["none", "picture only"],
  ]) {
    const option = make("option", "", { value });
    option.textContent = words;
    shows.append(option);
  }
  const opacity = make("input", "", {
    type: "range", min: "0", max: "1", step: "0.05", value: String(view.opacity),
    title: "Opacity of what lies over the picture", "aria-label": "Opacity of what lies over the picture",
  });
  const controls = make("div", "mc-row");
  controls.append(play, back, frame, on, shows, opacity);
  const hover = make("div", "mc-text mc-two mc-three");
  // what changes ten times a second is not said aloud: only the chosen cell, and begin and end of a run
  const chosen = make("div", "mc-aloud", { "aria-live": "polite" });
  const events = make("div", "mc-aloud", { "aria-live": "polite" });
  const { row, words } = legend();
  root.append(top, totals, picture, strip, controls, timeline, hover, row, chosen, events);

  root.addEventListener("keydown", (event) => view.key(event));
  // the node must not be dragged from here; the wheel still zooms the graph
  root.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  timeline.addEventListener("pointermove", (event) => view.pointed(event));
  timeline.addEventListener("pointerdown", (event) => {
    root.focus({ preventScroll: true });
    view.pointed(event);
  });
  timeline.addEventListener("pointerleave", () => {
    view.hovered = null;
    view.invalidate();
  });
  picture.addEventListener("pointermove", (event) => view.pointedPicture(event));
  picture.addEventListener("pointerleave", () => {
    view.token = null;
    view.invalidate();
  });
  strip.addEventListener("click", (event) => view.clickedStrip(event));
  shows.addEventListener("change", () => {
    view.shows = shows.value;
    view.keep();
    view.invalidate();
  });
  opacity.addEventListener("input", () => {
    view.opacity = Number(opacity.value);
    view.keep();
    view.invalidate();
  });
  return {
    root, status, totals, picture, strip, timeline, play, frame, shows, opacity, hover, fold, planButton, runButton, chosen, events,
    legend: words,
  };
}
