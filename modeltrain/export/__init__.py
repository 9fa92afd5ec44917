"""From a training run to a model folder: weights, ONNX files, calibration, card.

Door: `export.export_model`.
"""
