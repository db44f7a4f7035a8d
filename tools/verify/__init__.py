"""Checks the core against golden cases: `python -m tools.verify DIR...` (`python dev.py verify DIR`).

A family folder holds `cases.json`, the arrays and the JSON files that it names. Nothing passes silently: an unknown
kind, quirk or restriction, a reference that does not resolve, an output that is not compared and an array that no case
claims are all misses.
"""
