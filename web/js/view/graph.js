// Reading the graph around a sampler node: under which ids it runs, which settings and which model come before it.

const { app } = window.comfyAPI.app;

const BYPASSED = 4;
const MUTED = 2;
const FROM_SUBGRAPH_INPUT = -10;
const FARTHEST = 60;

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
    if (holder.inputs[place].link === null || holder.inputs[place].link === undefined)
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

/** A node's widgets' values, with those that come through a link where they can be read; others are left out. */
function valuesOf(node) {
  const values = {};
  for (const widget of node.widgets ?? []) {
    if (["number", "string", "boolean"].includes(typeof widget.value)) values[widget.name] = widget.value;
  }
  for (const [index, input] of (node.inputs ?? []).entries()) {
    if (!input.widget || input.link === null || input.link === undefined) continue;
    const origin = originOf(node, index);
    const widget = origin?.widget ?? (/^Primitive/.test(origin?.node.type ?? "") ? origin.node.widgets?.[0] : null);
    delete values[input.widget.name];
    if (widget) values[input.widget.name] = widget.value;
  }
  return values;
}

function inputOf(node, kind) {
  return (node.inputs ?? []).findIndex((input) => input.type === kind);
}

/** Where the MODEL of a sampler comes in; a SAMPLER object gets it through the guider of the node that it goes to. */
function modelEntrance(node) {
  const own = inputOf(node, "MODEL");
  if (own >= 0) return [node, own];
  for (const id of node.outputs?.[0]?.links ?? []) {
    const link = linkOf(node.graph, id);
    const target = link && node.graph.getNodeById(link.target_id);
    const guider = target && originOf(target, inputOf(target, "GUIDER"))?.node;
    if (guider && inputOf(guider, "MODEL") >= 0) return [guider, inputOf(guider, "MODEL")];
  }
  return null;
}

/** What the server needs to draw a sampler's plan. */
export function planRequest(node) {
  let cache = null;
  let model = null;
  let entrance = modelEntrance(node);
  for (let left = FARTHEST; entrance && left > 0; left--) {
    const found = originOf(...entrance)?.node;
    if (!found) break;
    const values = valuesOf(found);
    if (found.comfyClass === "MotionCacheApply") cache ??= values;
    model ??= values.model_name ?? values.unet_name ?? null;
    const next = inputOf(found, "MODEL");
    entrance = next >= 0 ? [found, next] : null;
  }
  const linked = (node.inputs ?? []).filter((input) => input.link !== null && input.link !== undefined && !input.widget);
  return {
    node: node.comfyClass,
    inputs: valuesOf(node),
    cache,
    model,
    connected: linked.map((input) => input.name),
  };
}
