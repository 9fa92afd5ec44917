"""The demonstration: drawn radiographs, an archive and a viewer.

Door: `demo.run`.
"""
