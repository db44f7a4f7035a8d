// ComfyUI's own preview below a node, which would make it grow during a run: left out where the view shows the same.

const { api } = window.comfyAPI.api;

const EVENT = "b_preview_with_metadata";

/**
 * Leave previews out.
 * @param {(id: string) => boolean} shown whether a view in sight shows the latents of the node with that id.
 */
export function leaveOutPreviews(shown) {
  const heard = (event) => {
    const id = String(event.detail?.displayNodeId ?? "");
    if (!shown(id)) return;
    event.stopImmediatePropagation();
    // the subgraphs around the node have no view
    const holder = id.split(":").slice(0, -1).join(":");
    if (holder) api.dispatchCustomEvent(EVENT, { ...event.detail, displayNodeId: holder });
  };
  api.addEventListener(EVENT, heard, true); // before ComfyUI's own listener, which newer front ends add earlier
}
