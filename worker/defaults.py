"""Default values that a command and the function behind it share. It imports nothing: `cxrd --help` waits for it."""

MARGIN = 0.01
"""How much worse a candidate's AUC, sensitivity and specificity may be."""
LEAST_IMAGES = 30
"""Images of each class: the customary size from which the intervals of a comparison, those of large samples, hold."""
MODEL_VERSION = "0.0.0"
"""Version of a new model."""
MOST_WAITING = 20
"""Images that wait to be analysed, at which a back-fill pauses."""
