// The picture of a chunk's latent frame: what it shows, how strongly it moves, and which tokens were recomputed.

import { prepared, theme } from "./canvas.js";
import { TOKEN, heat, pattern } from "./colours.js";
import { OUTCOMES } from "./store.js";

const sheet = document.createElement("canvas");

/** Where the picture lies in a canvas: as large as fits, in the shape of the video. */
function frameIn(head, width, height) {
  const ratio = head.columns / head.rows;
  const across = Math.min(width, height * ratio);
  return { x: (width - across) / 2, y: (height - across / ratio) / 2, across, down: across / ratio };
}

/** Token under a point of the canvas; null beside the picture. */
export function tokenAt(head, canvas, x, y) {
  if (!head.rows) return null;
  const area = frameIn(head, canvas.clientWidth, canvas.clientHeight);
  const column = Math.floor(((x - area.x) / area.across) * head.columns);
  const row = Math.floor(((y - area.y) / area.down) * head.rows);
  const inside = column >= 0 && column < head.columns && row >= 0 && row < head.rows;
  return inside ? { row, column } : null;
}

/**
 * Whether a token was recomputed by at least one branch, null where it is not known (any more).
 * @param outcome of the cell, for pictures that say all or none.
 */
export function recomputed(head, picture, outcome, frame, row, column) {
  if (!picture && OUTCOMES[outcome] === "partial") return null;
  if (!picture?.bits) return OUTCOMES[outcome] !== "reused";
  const at = (frame * head.rows + row) * head.columns + column;
  return Boolean((picture.bits[at >> 3] >> (at & 7)) & 1);
}

/** A token's motion weight, null where none is known. */
export function weightOf(head, weights, frame, row, column) {
  if (!weights) return null;
  const block = blockOf(head, weights);
  const at = (frame * weights.rows + Math.floor(row / block)) * weights.columns + Math.floor(column / block);
  return weights.low + ((weights.high - weights.low) * weights.values[at]) / 255;
}

/** Tokens along a side of the blocks that weights are the means of; the last block of a line may be narrower. */
function blockOf(head, weights) {
  return Math.max(Math.ceil(head.rows / weights.rows), Math.ceil(head.columns / weights.columns));
}

function drawSheet(pen, area, columns, rows, colourOf) {
  sheet.width = columns;
  sheet.height = rows;
  const inner = sheet.getContext("2d");
  const data = inner.createImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const colour = colourOf(row, column);
      if (colour) data.data.set(colour, 4 * (row * columns + column));
    }
  }
  inner.putImageData(data, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(sheet, area.x, area.y, area.across, area.down);
}

/**
 * Draw it.
 * @param {object} shown image (of all the chunk's frames, below each other), frames, frame, picture, weights, outcome,
 *   opacity, heat and tokens (whether to show them).
 */
export function drawPicture(canvas, head, shown) {
  const ready = prepared(canvas);
  if (!ready) return;
  const { context: pen, width, height, ratio } = ready;
  const area = frameIn(head, width, height);
  pen.fillStyle = theme(canvas, "--comfy-input-bg", "#222");
  pen.fillRect(area.x, area.y, area.across, area.down);
  if (shown.image) {
    const each = shown.image.height / shown.frames;
    pen.imageSmoothingEnabled = shown.image.width > 4 * head.columns;
    pen.drawImage(
      shown.image, 0, each * shown.frame, shown.image.width, each, area.x, area.y, area.across, area.down,
    );
  }
  if (shown.heat && shown.weights) {
    pen.globalAlpha = shown.tokens ? 0.7 * shown.opacity : shown.opacity;
    drawHeat(pen, head, shown, area);
  }
  if (shown.tokens && shown.outcome !== null) drawTokens(pen, head, shown, area, ratio);
  pen.globalAlpha = 1;
}

function drawHeat(pen, head, { weights, frame }, area) {
  const [low, high] = rangeOf(weights, frame);
  const block = blockOf(head, weights);
  const whole = {
    ...area,
    across: (area.across * weights.columns * block) / head.columns,
    down: (area.down * weights.rows * block) / head.rows,
  };
  pen.save();
  pen.beginPath();
  pen.rect(area.x, area.y, area.across, area.down);
  pen.clip();
  drawSheet(pen, whole, weights.columns, weights.rows, (row, column) => {
    const value = weights.values[(frame * weights.rows + row) * weights.columns + column];
    return [...heat((value - low) / Math.max(high - low, 1)), 255];
  });
  pen.restore();
}

/** Smallest and largest value of a frame: weights are relative within it. */
function rangeOf(weights, frame) {
  const size = weights.rows * weights.columns;
  const values = weights.values.subarray(frame * size, (frame + 1) * size);
  return [Math.min(...values), Math.max(...values)];
}

function drawTokens(pen, head, shown, area, ratio) {
  const [wide, high] = [area.across / head.columns, area.down / head.rows];
  const path = new Path2D();
  const edge = new Path2D();
  const is = (row, column) => recomputed(head, shown.picture, shown.outcome, shown.frame, row, column);
  for (let row = 0; row < head.rows; row++) {
    for (let column = 0; column < head.columns; column++) {
      if (!is(row, column)) continue;
      const [x, y] = [area.x + column * wide, area.y + row * high];
      path.rect(x, y, wide, high);
      if (row === 0 || !is(row - 1, column)) edge.rect(x, y, wide, 1.5);
      if (row === head.rows - 1 || !is(row + 1, column)) edge.rect(x, y + high - 1.5, wide, 1.5);
      if (column === 0 || !is(row, column - 1)) edge.rect(x, y, 1.5, high);
      if (column === head.columns - 1 || !is(row, column + 1)) edge.rect(x + wide - 1.5, y, 1.5, high);
    }
  }
  pen.save();
  pen.clip(path);
  pen.globalAlpha = shown.opacity * 0.35;
  pen.fillStyle = TOKEN;
  pen.fillRect(area.x, area.y, area.across, area.down);
  pen.globalAlpha = shown.opacity;
  pen.scale(1 / ratio, 1 / ratio);
  pen.fillStyle = pattern(pen, "lines", TOKEN, 8 * ratio);
  pen.fillRect(area.x * ratio, area.y * ratio, area.across * ratio, area.down * ratio);
  pen.restore();
  pen.globalAlpha = shown.opacity;
  pen.fillStyle = TOKEN;
  pen.fill(edge);
}

/** The strip of chunks: each one's frames as a loop. Returns where each lies. */
export function drawStrip(canvas, head, lanes, imageOf, frameOf, chosen) {
  const ready = prepared(canvas);
  if (!ready) return [];
  const { context: pen, width, height } = ready;
  const ink = theme(canvas, "--input-text", "#ddd");
  const faint = theme(canvas, "--border-color", "#555");
  const ratio = head.rows ? head.columns / head.rows : 16 / 9;
  const down = height - 2;
  const across = Math.min(down * ratio, width / 2);
  const most = Math.max(1, Math.floor(width / (across + 4)));
  const first = Math.min(Math.max(0, (chosen ?? 0) - Math.floor(most / 2)), Math.max(0, lanes - most));
  const places = [];
  pen.font = "10px sans-serif";
  pen.textBaseline = "bottom";
  pen.textAlign = "left";
  for (let lane = first; lane < Math.min(lanes, first + most); lane++) {
    const x = 1 + (lane - first) * (across + 4);
    places.push({ lane, x, across });
    const shown = imageOf(lane);
    const frames = head.lanes[lane][1] - head.lanes[lane][0];
    if (shown?.image) {
      const each = shown.image.height / frames;
      pen.imageSmoothingEnabled = false;
      pen.drawImage(shown.image, 0, each * frameOf(lane, frames), shown.image.width, each, x, 1, across, down);
    }
    pen.strokeStyle = lane === chosen ? ink : faint;
    pen.lineWidth = lane === chosen ? 2 : 1;
    pen.strokeRect(x + 0.5, 1.5, across - 1, down - 1);
    const label = `${lane}${shown?.clean ? " ✓" : ""}`;
    pen.fillStyle = "rgba(0,0,0,0.6)";
    pen.fillRect(x + 1, height - 14, pen.measureText(label).width + 5, 12);
    pen.fillStyle = "#fff";
    pen.fillText(label, x + 3, height - 2.5);
  }
  return places;
}
