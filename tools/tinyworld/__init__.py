"""The tiny world: procedural clips, and what trains the small demo models on them."""
