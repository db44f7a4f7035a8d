// Reading the graph around a sampler node: under which ids it runs, which settings and which model come before it.

const { app } = window.comfyAPI.app;

const BYPASSED = 4;
const MUTED = 2;
const FROM_SUBGRAPH_INPUT = -10;
const FARTHEST = 60;
const UNKNOWN = "unknown";

const isLinked = (input) => input.link !== null && input.link !== undefined;

function linkOf(graph, id) {
  if (id === null || id === undefined) return null;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}

function rootGraph() {
  const graph = app.rootGraph ?? app.graph;
  return graph?.rootGraph ?? graph;
}

function* subgraphNodes(graph, path = []) {
  for (const node of graph?.nodes ?? graph?._nodes ?? []) {
    if (!node.subgraph) continue;
    const here = [...path, node];
    yield here;
    yield* subgraphNodes(node.subgraph, here);
  }
}

const NO_ID = "00000000-0000-0000-0000-000000000000"; // older front ends: made by hand and not saved yet
const LONGEST_ID = 100;

/** Id of the graph on the page, empty where it has none; node ids alone are the same in many graphs. */
export function workflowId(graph = rootGraph()) {
  const id = graph?.id;
  return typeof id === "string" && id.length <= LONGEST_ID && id !== NO_ID ? id : "";
}

/** Names under which the page keeps a node's outputs: in a subgraph the graph's id and the node's own, elsewhere its id. */
export function outputNames(node) {
  const inner = node.graph && node.graph !== rootGraph();
  return inner ? [`${node.graph.id}:${node.id}`, ...executionIds(node)] : [String(node.id)];
}

/** Ids under which the server runs a node: several if it lies in a subgraph that is used several times. */
export function executionIds(node) {
  const root = rootGraph();
  if (!node.graph || node.graph === root) return [String(node.id)];
  const paths = [...subgraphNodes(root)].filter((path) => path.at(-1).subgraph === node.graph);
  return paths.map((path) => [...path, node].map((part) => part.id).join(":"));
}

function holderOf(graph) {
  for (const path of subgraphNodes(rootGraph())) if (path.at(-1).subgraph === graph) return path.at(-1);
  return null;
}

/** The node that an input comes from, through reroutes, bypassed nodes and the borders of subgraphs, and its output. */
function originOf(node, index, left = FARTHEST) {
  const link = linkOf(node.graph, node.inputs?.[index]?.link);
  if (!link || left <= 0) return null;
  if (link.origin_id === FROM_SUBGRAPH_INPUT) {
    const holder = holderOf(node.graph);
    const name = node.graph.inputs?.[link.origin_slot]?.name;
    const place = holder?.inputs?.findIndex((input) => input.name === name) ?? -1;
    if (place < 0) return null;
    if (!isLinked(holder.inputs[place]))
      return { node: holder, widget: holder.widgets?.find((widget) => widget.name === name) };
    return originOf(holder, place, left - 1);
  }
  return behind(node.graph.getNodeById(link.origin_id), link.origin_slot, left - 1);
}

function behind(origin, slot, left) {
  if (!origin || origin.mode === MUTED || left <= 0) return null;
  if (origin.subgraph && origin.mode !== BYPASSED) {
    const output = origin.subgraph.outputs?.[slot];
    const link = linkOf(origin.subgraph, output?.linkIds?.[0]);
    return link ? behind(origin.subgraph.getNodeById(link.origin_id), link.origin_slot, left - 1) : null;
  }
  const passes = origin.mode === BYPASSED || origin.type === "Reroute";
  if (!passes) return { node: origin, slot };
  const kind = origin.outputs?.[slot]?.type;
  const place = origin.type === "Reroute" ? 0 : origin.inputs?.findIndex((input) => input.type === kind);
  return place >= 0 ? originOf(origin, place, left - 1) : null;
}

/** A node's widgets' values, with those that come through a link where they can be read, and the names of the others. */
function readWidgets(node) {
  const values = {};
  const unknown = [];
  for (const widget of node.widgets ?? []) {
    if (["number", "string", "boolean"].includes(typeof widget.value)) values[widget.name] = widget.value;
  }
  for (const [index, input] of (node.inputs ?? []).entries()) {
    if (!input.widget || !isLinked(input)) continue;
    const origin = originOf(node, index);
    const widget = origin?.widget ?? (/^Primitive/.test(origin?.node.type ?? "") ? origin.node.widgets?.[0] : null);
    delete values[input.widget.name];
    if (widget) values[input.widget.name] = widget.value;
    else unknown.push(input.widget.name);
  }
  return { values, unknown };
}

const valuesOf = (node) => readWidgets(node).values;

function inputOf(node, kind) {
  return (node.inputs ?? []).findIndex((input) => input.type === kind);
}

/** Nodes that a SAMPLER goes to. */
function takersOf(node) {
  const links = (node.outputs?.[0]?.links ?? []).map((id) => linkOf(node.graph, id));
  return links.map((link) => link && node.graph.getNodeById(link.target_id)).filter(Boolean);
}

/** Where the MODEL of a sampler comes in; a SAMPLER object gets it through the guider of the node that it goes to. */
function modelEntrance(node) {
  const own = inputOf(node, "MODEL");
  if (own >= 0) return [node, own];
  for (const taker of takersOf(node)) {
    const guider = originOf(taker, inputOf(taker, "GUIDER"))?.node;
    if (guider && inputOf(guider, "MODEL") >= 0) return [guider, inputOf(guider, "MODEL")];
  }
  return null;
}

const VIDEO_LATENTS = /^(EmptyHunyuanLatentVideo|Wan.*)$/;
const SCHEDULERS = /Scheduler$/;

/** Frames and steps that a SAMPLER object gets, as far as the nodes before the sampler that it goes to tell them. */
function lengthAndSteps(node) {
  const [taker] = node.outputs?.[0]?.type === "SAMPLER" ? takersOf(node) : [];
  if (!taker) return {};
  const told = (kind, names, value) => {
    const found = originOf(taker, inputOf(taker, kind))?.node;
    const number = found && names.test(found.comfyClass) ? valuesOf(found)[value] : null;
    return Number.isInteger(number) ? number : null;
  };
  return { length: told("LATENT", VIDEO_LATENTS, "length"), steps: told("SIGMAS", SCHEDULERS, "steps") };
}

const ADDS_CHUNKS = "MotionCacheGenerateChunks";
const BEGINS = /^MotionCacheBegin/;

/** The nodes of a take's chain up to one of them, the latest first; ends with the one that begins it, where it is found. */
function chainOf(node) {
  const chain = [node];
  while (chain.length < FARTHEST && !BEGINS.test(chain.at(-1).comfyClass)) {
    const place = inputOf(chain.at(-1), "MOTIONCACHE_TAKE");
    const before = place >= 0 ? originOf(chain.at(-1), place)?.node : null;
    if (!before) break;
    chain.push(before);
  }
  return chain;
}

/**
 * What a take's plan hangs on: the node that begins it, how many chunks there are up to a node, where its MODEL comes in,
 * the last part's own cache settings, and whether another part has other ones.
 */
function takeOf(node) {
  const chain = chainOf(node);
  const parts = chain.filter((one) => one.comfyClass === ADDS_CHUNKS);
  const chunks = parts.map((one) => valuesOf(one).chunks);
  const settings = parts.map(partSettings);
  const models = parts.map((part) => modelFrom(chain.slice(chain.indexOf(part))));
  const sources = new Set(models.map((entrance) => entrance && originOf(...entrance)?.node));
  return {
    begin: chain.at(-1),
    chunks: chunks.every(Number.isInteger) ? chunks.reduce((sum, count) => sum + count, 0) || null : null,
    entrance: modelFrom(chain),
    settings: settings[0] ?? {},
    several: sources.size > 1 || new Set(settings.map((one) => JSON.stringify(one))).size > 1,
  };
}

/** Where the MODEL of the first of some nodes comes in: its own, else that of the nearest one before it. */
function modelFrom(chain) {
  const fed = chain.find((one) => inputOf(one, "MODEL") >= 0 && isLinked(one.inputs[inputOf(one, "MODEL")]));
  return fed ? [fed, inputOf(fed, "MODEL")] : null;
}

/** A part's own cache settings; null: they come from a node that cannot be read. */
function partSettings(node) {
  const { values, unknown } = readWidgets(node);
  if (["cache", "threshold"].some((name) => unknown.includes(name))) return null;
  return { off: values.cache === "off", threshold: values.threshold >= 0 ? values.threshold : undefined };
}

/** Cache settings with those of a take's part over them. */
function withPart(cache, part) {
  if (part === null) return UNKNOWN;
  if (part.off) return null;
  return cache && cache !== UNKNOWN && part.threshold !== undefined ? { ...cache, threshold: part.threshold } : cache;
}

const MODEL_NAME = /^(model|unet|ckpt|checkpoint|diffusion_model)(_name)?$/;

/**
 * What lies before a MODEL input.
 * @param {[object, number] | null} entrance node and place of the input, null where it was not found.
 * @returns {{cache: object | string | null, model: string | null}} the cache's settings, null for no MotionCache,
 *   "unknown" where the way ends at something else than a loader (nodes that fetch a value, switches); the file's name.
 */
function modelChain(entrance) {
  const model = { cache: entrance ? null : UNKNOWN, model: null };
  if (entrance && !isLinked(entrance[0].inputs[entrance[1]])) return model;
  for (let left = FARTHEST; entrance && left > 0; left--) {
    const found = originOf(...entrance)?.node;
    if (!found) {
      model.cache ??= UNKNOWN;
      break;
    }
    const { values, unknown } = readWidgets(found);
    if (found.comfyClass === "MotionCacheApply") model.cache ??= unknown.length ? UNKNOWN : values;
    const name = Object.keys(values).find((one) => MODEL_NAME.test(one));
    const ways = (found.inputs ?? []).filter((input) => input.type === "MODEL" && isLinked(input));
    const merges = /^ModelMerge/.test(found.comfyClass ?? ""); // the first one's settings stay
    if (ways.length === 0 || (ways.length > 1 && !merges)) {
      if (!name || ways.length) model.cache ??= UNKNOWN;
      model.model = ways.length ? null : (values[name] ?? null);
      break;
    }
    entrance = [found, found.inputs.indexOf(ways[0])];
  }
  return model;
}

/** What the server needs to draw a sampler's plan, or that of a take up to one of its nodes. */
export function planRequest(shown) {
  const take = inputOf(shown, "MOTIONCACHE_TAKE") >= 0 ? takeOf(shown) : null;
  const node = take?.begin ?? shown;
  const { cache, model } = modelChain(take ? take.entrance : modelEntrance(node));
  const { values, unknown } = readWidgets(node);
  const linked = (node.inputs ?? []).filter((input) => isLinked(input) && !input.widget);
  return {
    node: node.comfyClass,
    inputs: values,
    unknown,
    cache: take ? withPart(cache, take.settings) : cache,
    model,
    connected: linked.map((input) => input.name),
    ...(take ? { chunks: take.chunks, several: take.several } : lengthAndSteps(node)),
  };
}
