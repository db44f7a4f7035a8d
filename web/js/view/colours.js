// Colours that people with any kind of colour vision can tell apart (after Okabe and Ito), each with a pattern of its
// own, and a ramp of rising lightness for motion weights.

export const FULL = "#e69f00";
export const REUSED = "#0072b2";
export const TOKEN = "#d55e00";

const RAMP = [
  [0, 32, 77],
  [66, 78, 108],
  [125, 124, 120],
  [188, 175, 111],
  [255, 234, 70],
];

/** Red, green and blue of a value from 0 (still) to 1 (moving). */
export function heat(value) {
  const place = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  const share = place - below;
  return RAMP[below].map((low, i) => Math.round(low + (RAMP[below + 1][i] - low) * share));
}

/** The ramp as a CSS gradient, for the legend. */
export const HEAT_GRADIENT = `linear-gradient(90deg, ${RAMP.map((c) => `rgb(${c.join(",")})`).join(", ")})`;

const patterns = new Map();

/** A fill of diagonal lines or dots over transparency, `size` device pixels wide. */
export function pattern(context, kind, colour, size) {
  const side = Math.max(4, Math.round(size));
  const key = `${kind} ${colour} ${side}`;
  if (!patterns.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = side;
    const pen = tile.getContext("2d");
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = Math.max(1, side / 5);
    if (kind === "dots") {
      pen.beginPath();
      pen.arc(side / 2, side / 2, Math.max(0.8, side / 6), 0, 2 * Math.PI);
      pen.fill();
    } else {
      pen.beginPath();
      for (const shift of [-side, 0, side]) {
        pen.moveTo(shift, side);
        pen.lineTo(shift + side, 0);
      }
      pen.stroke();
    }
    patterns.set(key, tile);
  }
  return context.createPattern(patterns.get(key), "repeat");
}
