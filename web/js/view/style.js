// The view's look: ComfyUI's theme variables, fixed heights so that nothing jumps.

import { FULL, HEAT_GRADIENT, REUSED, TOKEN } from "./colours.js";

const lines = "repeating-linear-gradient(135deg, rgba(0,0,0,.55) 0 1px, transparent 1px 4px)";
const dots = "radial-gradient(rgba(255,255,255,.8) 22%, transparent 26%)";

const CSS = `
.motioncache-view {
  box-sizing: border-box; width: 100%; height: 100%; min-height: 0; contain: inline-size; display: flex; flex-direction: column; gap: 3px;
  padding: 4px; overflow: hidden; position: relative; border-radius: 4px; font: 11px/14px sans-serif;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535); outline: none; user-select: none;
}
.motioncache-view:focus-visible { outline: 2px solid var(--p-primary-color, ${REUSED}); outline-offset: -2px; }
.motioncache-view > * { flex: none; min-width: 0; }
.motioncache-view .mc-row { display: flex; align-items: center; gap: 4px; height: 20px; }
.motioncache-view .mc-top { height: 28px; align-items: flex-start; }
.motioncache-view.mc-folded .mc-top { height: 20px; align-items: center; }
.motioncache-view.mc-folded .mc-top .mc-two { height: 14px; -webkit-line-clamp: 1; }
.motioncache-view .mc-text {
  height: 14px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; color: var(--input-text, #ddd);
}
.motioncache-view .mc-two {
  height: 28px; white-space: normal; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow-wrap: anywhere;
}
.motioncache-view .mc-three { height: 42px; -webkit-line-clamp: 3; }
.motioncache-view .mc-legend { display: block; }
.motioncache-view .mc-aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.motioncache-view .mc-frame { white-space: nowrap; min-width: 62px; text-align: center; }
.motioncache-view .mc-quiet { color: var(--descrip-text, #999); }
.motioncache-view .mc-picture { flex: 1 1 60px; min-height: 60px; width: 100%; display: block; }
.motioncache-view .mc-strip { height: 40px; width: 100%; display: block; cursor: pointer; }
.motioncache-view .mc-timeline { height: 78px; width: 100%; display: block; cursor: pointer; }
.motioncache-view button, .motioncache-view select {
  height: 20px; padding: 0 5px; font: inherit; color: var(--input-text, #ddd); cursor: pointer; min-width: 0;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555); border-radius: 3px;
}
.motioncache-view button[aria-pressed="true"] { border-color: var(--input-text, #ddd); font-weight: bold; }
.motioncache-view button:disabled { opacity: .45; cursor: default; }
.motioncache-view input[type="range"] { flex: 1 1 40px; min-width: 40px; height: 14px; accent-color: ${REUSED}; }
.motioncache-view .mc-grow { flex: 1 1 0; min-width: 0; }
.motioncache-view .mc-legend > span { white-space: nowrap; margin-right: 8px; display: inline-block; }
.motioncache-view .mc-swatch {
  display: inline-block; width: 12px; height: 10px; margin-right: 3px; vertical-align: -1px;
}
.motioncache-view .mc-full { background: ${FULL}; }
.motioncache-view .mc-partial { background: ${lines} 0 4px/100% 6px no-repeat, linear-gradient(${REUSED} 40%, ${FULL} 40%); }
.motioncache-view .mc-reused { background: ${dots} 0 0/4px 4px, ${REUSED}; }
.motioncache-view .mc-waiting { border: 1px solid var(--border-color, #777); box-sizing: border-box; }
.motioncache-view .mc-token {
  border: 1px solid ${TOKEN}; box-sizing: border-box;
  background: repeating-linear-gradient(135deg, ${TOKEN} 0 2px, transparent 2px 5px);
}
.motioncache-view .mc-heat { width: 30px; background: ${HEAT_GRADIENT}; }
.motioncache-view.mc-folded > :not(:first-child) { display: none; }
`;

/** Put the rules into the page, once. */
export function installStyle() {
  if (document.getElementById("motioncache-view-style")) return;
  const style = document.createElement("style");
  style.id = "motioncache-view-style";
  style.textContent = CSS;
  document.head.append(style);
}
