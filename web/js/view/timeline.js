// The timeline: one line a chunk, one cell a step, placed where it lies in the run's time. Of a long video it shows the
// chunks around the chosen one, below a bar of all chunks.

import { prepared, theme } from "./canvas.js";
import { FULL, REUSED, pattern } from "./colours.js";

const LEFT = 24;
const BOTTOM = 14;
const OVERVIEW = 8;
const LOWEST = 5;
const NARROWEST = 3;
const WARM_UP = 1;
const CHUNK = 2;

const within = (value, low, high) => Math.min(Math.max(value, low), high);

/** A stretch of `size` that holds `wanted`, moved from where it lay as little as needed, or around it if it is far. */
function stretchAround(wanted, size, all, before) {
  let first = before ?? wanted - Math.floor(size / 2);
  if (wanted < first - size || wanted >= first + 2 * size) first = wanted - Math.floor(size / 2);
  else if (wanted < first) first = wanted;
  else if (wanted >= first + size) first = wanted - size + 1;
  return within(first, 0, Math.max(all - size, 0));
}

/** How many chunks around the chosen one are high and wide enough to be told apart. */
function lanesThatFit(head, width, height, chosen, before) {
  const columns = Math.max(head.rows_of_time, 1);
  const widest = Math.max(Math.floor((width - LEFT - 2) / NARROWEST), 1);
  const high = Math.floor((height - BOTTOM - 2) / LOWEST);
  const all = head.lanes.length;
  if (all <= high && (columns <= widest || all <= 1)) return all;
  let count = within(Math.floor((height - BOTTOM - OVERVIEW - 2) / LOWEST), 1, all);
  for (; count > 3; count--) {
    const [from, to] = spanOf(head, stretchAround(chosen.lane, count, all, before), count);
    if (to - from <= widest) break;
  }
  return count;
}

/** Rows of time from the first step of some chunks to their last. */
function spanOf(head, first, count) {
  const begins = head.lanes.slice(first, first + count).map((lane) => lane[2]);
  return [Math.min(...begins), Math.max(...begins) + head.steps];
}

/**
 * Which chunks and which rows of time a canvas of this size shows.
 * @param {object} head a run's or a plan's lanes, steps and rows of time.
 * @param {{lane: number, step: number}} chosen is in sight.
 * @param {object | null} before what was shown, so that it moves no more than needed.
 */
function layout(head, width, height, chosen, before) {
  const all = Math.max(head.lanes.length, 1);
  const kept = before?.all === all ? before : null;
  const count = lanesThatFit(head, width, height, chosen, kept?.first);
  const part = count < all;
  const top = 1 + (part ? OVERVIEW : 0);
  const first = part ? stretchAround(chosen.lane, count, all, kept?.first) : 0;
  let [from, to] = part ? spanOf(head, first, count) : [0, Math.max(head.rows_of_time, 1)];
  const widest = Math.max(Math.floor((width - LEFT - 2) / NARROWEST), 1);
  if (to - from > widest) {
    const column = head.lanes[chosen.lane][2] + chosen.step - from;
    const at = kept ? kept.from - from : undefined;
    from += stretchAround(column, widest, to - from, at);
    to = from + widest;
  }
  return {
    all, first, count, from, part, top,
    columns: to - from,
    across: (width - LEFT - 2) / (to - from),
    down: Math.min((height - BOTTOM - 1 - top) / count, 26),
  };
}

/** Chunk and step under a point, in CSS pixels of the canvas; null outside. `place`: what the drawing returned. */
export function cellAt(head, place, canvas, x, y, step) {
  if (place.part && y < place.top) {
    const lane = Math.floor(((x - LEFT) / (canvas.clientWidth - LEFT - 2)) * place.all);
    return lane >= 0 && lane < place.all ? { lane, step } : null;
  }
  const lane = place.first + Math.floor((y - place.top) / place.down);
  const at = Math.floor((x - LEFT) / place.across) + place.from - (head.lanes[lane]?.[2] ?? 0);
  const inside = lane >= place.first && lane < place.first + place.count && x >= LEFT;
  return inside && head.lanes[lane] && at >= 0 && at < head.steps ? { lane, step: at } : null;
}

/**
 * Draw it.
 * @param {(lane: number, step: number) => object | null} mark {kind, share, phase}, null for a step that waits.
 * @param {object | null} before what this returned the last time.
 * @returns where things lie; null while the canvas is hidden.
 */
export function drawTimeline(canvas, head, mark, chosen, before) {
  const ready = prepared(canvas);
  if (!ready) return null;
  const { context: pen, width, height, ratio } = ready;
  const ink = theme(canvas, "--input-text", "#ddd");
  const faint = theme(canvas, "--border-color", "#555");
  const place = layout(head, width, height, chosen, before);
  const gap = place.across > 4 ? 1 : 0;
  const wide = Math.max(place.across - gap, 1);
  pen.font = "10px sans-serif";
  pen.textBaseline = "middle";
  if (place.part) drawOverview(pen, head, place, width, mark, { ink, faint });
  for (let lane = place.first; lane < Math.min(place.first + place.count, head.lanes.length); lane++) {
    const top = place.top + (lane - place.first) * place.down;
    if (place.down >= 9 || lane % Math.ceil(9 / place.down) === 0) {
      pen.fillStyle = ink;
      pen.textAlign = "right";
      pen.fillText(String(lane), LEFT - 5, top + place.down / 2);
    }
    const shift = head.lanes[lane][2] - place.from;
    const last = Math.min(head.steps, place.columns - shift);
    for (let step = Math.max(0, -shift); step < last; step++) {
      drawCell(pen, LEFT + (shift + step) * place.across, top, wide, place.down - 1, mark(lane, step), { ink, faint, ratio });
    }
  }
  drawAxis(pen, head, place, height, ink);
  const left = LEFT + (head.lanes[chosen.lane][2] + chosen.step - place.from) * place.across;
  pen.strokeStyle = ink;
  pen.lineWidth = 2;
  pen.strokeRect(left - 1, place.top - 1 + (chosen.lane - place.first) * place.down, wide + 2, place.down + 1);
  return place;
}

/** All chunks in one bar, with a frame around those that are shown below it. */
function drawOverview(pen, head, place, width, mark, { ink, faint }) {
  const across = (width - LEFT - 2) / place.all;
  const down = OVERVIEW - 3;
  for (let lane = 0; lane < place.all; lane++) {
    const cells = Array.from({ length: head.steps }, (_, step) => mark(lane, step)).filter(Boolean);
    const shares = cells.map((cell) => (cell.kind === "full" ? 1 : cell.kind === "reused" ? 0 : cell.share));
    const made = (cells.length / head.steps) * across;
    const share = shares.reduce((sum, one) => sum + one, 0) / Math.max(cells.length, 1);
    const x = LEFT + lane * across;
    pen.fillStyle = faint;
    pen.fillRect(x, 1, across, down);
    pen.fillStyle = REUSED;
    pen.fillRect(x, 1, made, down);
    pen.fillStyle = FULL;
    pen.fillRect(x, 1 + down * (1 - share), made, down * share);
  }
  pen.strokeStyle = ink;
  pen.lineWidth = 1.5;
  pen.strokeRect(LEFT + place.first * across, 0.75, place.count * across, down + 0.75);
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
    pen.fillRect(x, y, cell.phase === WARM_UP ? width : width / 2, height > 8 ? 2 : 1);
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
  const below = Math.min(place.top + place.count * place.down + BOTTOM / 2, height - BOTTOM / 2);
  for (let row = Math.ceil(place.from / every) * every; row < place.from + place.columns; row += every) {
    pen.fillText(String(row), LEFT + (row - place.from + 0.5) * place.across, below);
  }
}
