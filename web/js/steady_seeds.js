// Keeps the seeds of storyboard nodes as they are from one Run to the next. ComfyUI gives a new node a seed that changes
// after every Run; here that would make the whole video again, where only what was edited should be.

const { app } = window.comfyAPI.app;

const NODES = ["MotionCacheBeginVideo", "MotionCacheBeginMagi1Video", "MotionCacheGenerateChunks"];

app.registerExtension({
  name: "motioncache.steady_seeds",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const seed = node.widgets?.find((widget) => widget.name === "seed");
    const control = seed?.linkedWidgets?.[0]; // a graph that is being loaded sets its own value after this
    if (control) control.value = "fixed";
  },
});
