// Keeps the MotionCache node's knobs and its preset in step: choosing a preset shows its values on the knobs, and
// touching a knob turns the preset to "custom". The values come from Python with the node's definition.

const { app } = window.comfyAPI.app;

const CUSTOM = "custom";

function presetsOf(node) {
  const definition = node.constructor?.nodeData ?? {};
  return definition.input?.required?.preset?.[1]?.motioncache_presets ?? {};
}

function follow(node) {
  const byName = new Map((node.widgets ?? []).map((widget) => [widget.name, widget]));
  const preset = byName.get("preset");
  if (!preset) return;
  const presets = presetsOf(node);
  let filling = false;

  const show = (name) => {
    filling = true;
    for (const [knob, value] of Object.entries(presets[name] ?? {})) {
      const widget = byName.get(knob);
      if (!widget || widget.value === value) continue;
      widget.value = value;
      widget.callback?.(value);
    }
    filling = false;
    node.setDirtyCanvas?.(true, true);
  };

  const onPreset = preset.callback;
  preset.callback = function (value, ...rest) {
    onPreset?.call(this, value, ...rest);
    if (!filling) show(value);
  };

  for (const [name, widget] of byName) {
    if (widget === preset) continue;
    const onKnob = widget.callback;
    widget.callback = function (value, ...rest) {
      onKnob?.call(this, value, ...rest);
      if (filling || preset.value === CUSTOM || presets[preset.value]?.[name] === value) return;
      preset.value = CUSTOM;
      node.setDirtyCanvas?.(true, true);
    };
  }
}

app.registerExtension({
  name: "motioncache.presets",
  nodeCreated(node) {
    if (node.comfyClass === "MotionCacheApply") follow(node);
  },
});
