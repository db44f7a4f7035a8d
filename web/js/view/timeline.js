// The timeline: one line a chunk, one cell a step, placed where it lies in the run's time.

import { prepared, theme } from "./canvas.js";
import { FULL, REUSED, pattern } from "./colours.js";

const LEFT = 24;
const BOTTOM = 14;
const WARM_UP = 1;
const CHUNK = 2;

/** Where things lie for a canvas of this size. `head`: a run's or a plan's lanes, steps and rows of time. */
function layout(head, width, height) {
  const lanes = Math.max(head.lanes.length, 1);
  const columns = Math.max(head.rows_of_time, 1);
  return {
    lanes,
    columns,
    across: (width - LEFT - 2) / columns,
    down: Math.min((height - BOTTOM - 2) / lanes, 26),
  };
}

/** Chunk and step under a point, in CSS pixels of the canvas; null outside. */
export function cellAt(head, canvas, x, y) {
  const place = layout(head, canvas.clientWidth, canvas.clientHeight);
  const lane = Math.floor((y - 1) / place.down);
  const step = Math.floor((x - LEFT) / place.across) - (head.lanes[lane]?.[2] ?? 0);
  return head.lanes[lane] && step >= 0 && step < head.steps ? { lane, step } : null;
}

/** Draw it. `mark`: (chunk, step) -> {kind, share, phase} or null for a step that waits. */
export function drawTimeline(canvas, head, mark, chosen) {
  const ready = prepared(canvas);
  if (!ready) return;
  const { context: pen, width, height, ratio } = ready;
  const ink = theme(canvas, "--input-text", "#ddd");
  const faint = theme(canvas, "--border-color", "#555");
  const place = layout(head, width, height);
  const gap = place.across > 4 ? 1 : 0;
  pen.font = "10px sans-serif";
  pen.textBaseline = "middle";
  for (let lane = 0; lane < place.lanes; lane++) {
    const top = 1 + lane * place.down;
    if (place.down >= 9 || lane % Math.ceil(9 / place.down) === 0) {
      pen.fillStyle = ink;
      pen.textAlign = "right";
      pen.fillText(String(lane), LEFT - 5, top + place.down / 2);
    }
    for (let step = 0; step < head.steps; step++) {
      const left = LEFT + (head.lanes[lane][2] + step) * place.across;
      drawCell(pen, left, top, Math.max(place.across - gap, 1), place.down - 1, mark(lane, step), { ink, faint, ratio });
    }
  }
  drawAxis(pen, head, place, height, ink);
  if (chosen) {
    const left = LEFT + (head.lanes[chosen.lane][2] + chosen.step) * place.across;
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.strokeRect(left - 1, 1 + chosen.lane * place.down - 1, Math.max(place.across - gap, 1) + 2, place.down + 1);
  }
}

function drawCell(pen, x, y, width, height, cell, { ink, faint, ratio }) {
  if (!cell) {
    pen.strokeStyle = faint;
    pen.lineWidth = 1;
    pen.globalAlpha = 0.6;
    pen.strokeRect(x + 0.5, y + 0.5, Math.max(width - 1, 0.5), height - 1);
    pen.globalAlpha = 1;
    return;
  }
  pen.globalAlpha = cell.planned ? 0.55 : 1;
  const share = cell.kind === "full" ? 1 : cell.kind === "reused" ? 0 : cell.share;
  if (share < 1) {
    pen.fillStyle = REUSED;
    pen.fillRect(x, y, width, height);
    texture(pen, x, y, width, height, "dots", "rgba(255,255,255,0.75)", ratio);
  }
  if (share > 0) {
    const part = Math.max(height * share, 2);
    pen.fillStyle = FULL;
    pen.fillRect(x, y + height - part, width, part);
    if (share < 1) texture(pen, x, y + height - part, width, part, "lines", "rgba(0,0,0,0.55)", ratio);
  }
  pen.globalAlpha = 1;
  if (cell.phase === WARM_UP || cell.phase === CHUNK) {
    // warm-up: a whole line on top; the chunk decides as one: half a line
    pen.fillStyle = ink;
    pen.fillRect(x, y, cell.phase === WARM_UP ? width : width / 2, 2);
  }
}

function texture(pen, x, y, width, height, kind, colour, ratio) {
  if (width < 3) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.scale(1 / ratio, 1 / ratio);
  pen.fillStyle = pattern(pen, kind, colour, 5 * ratio);
  pen.fillRect(x * ratio, y * ratio, width * ratio, height * ratio);
  pen.restore();
}

function drawAxis(pen, head, place, height, ink) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => n * place.across >= 26) ?? 1000;
  pen.fillStyle = ink;
  pen.textAlign = "center";
  const below = Math.min(1 + place.lanes * place.down + BOTTOM / 2, height - BOTTOM / 2);
  for (let row = 0; row < head.rows_of_time; row += every) {
    pen.fillText(String(row), LEFT + (row + 0.5) * place.across, below);
  }
}
