"""What speaks ComfyUI: nodes call it, the core does not know it."""
