"""The method, in plain PyTorch: configuration, plans, solvers, decisions, and one folder a model family.

Imports no ComfyUI. MotionCache: arXiv 2605.01725.
"""
