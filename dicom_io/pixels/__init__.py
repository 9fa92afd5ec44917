"""Pixels: from stored values, compressed or not, to the picture that a radiologist would see.

Doors: `render.render`, `compression.compress`.
"""
