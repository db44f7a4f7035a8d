// Front ends that read "advanced" from a node's definition without acting on it in classic drawing: hide those
// widgets until the node's menu entry "Show Advanced" is chosen. Values are kept and saved as ever.

const { app } = window.comfyAPI.app;

const HEIGHT = 20;
const SPACING = 4; // what the front end puts between two widgets

app.registerExtension({
  name: "motioncache.advanced",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("MotionCache")) return;
    const widgets = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
    if (!widgets.length) return;
    for (const widget of widgets) {
      widget.advanced = true;
      // a hidden widget would still take its place above the ones after it
      widget.computeSize ??= (width) => (node.showAdvanced ? [width ?? 0, HEIGHT] : [0, -SPACING]);
    }
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
