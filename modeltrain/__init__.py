"""The network, its data, its training, its judgement and its versions."""

import os

# ONNX Runtime reports its use to its makers, and keeps an id of the machine in the home folder. It looks at this when
# it is imported, which nothing does before it has imported this package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
