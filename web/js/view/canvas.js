// Canvases that are crisp on any screen and at any zoom of the graph.

const { app } = window.comfyAPI.app;

/** Device pixels of a CSS pixel as it is seen now. */
export function sharpness() {
  const zoom = app.canvas?.ds?.scale ?? 1;
  return Math.min(Math.max((window.devicePixelRatio || 1) * Math.min(Math.max(zoom, 1), 2), 1), 4);
}

/** Give a canvas as many pixels as it covers and return its context, scaled to CSS pixels; null while it is hidden. */
export function prepared(canvas) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return null;
  const ratio = sharpness();
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

/** A colour of the page's theme. */
export function theme(element, name, otherwise) {
  return getComputedStyle(element).getPropertyValue(name).trim() || otherwise;
}
