"""Labelled radiographs: where they come from, whose they are, how they are varied.

Doors: `sources.folder_source`, `samples.Sample`.
"""
