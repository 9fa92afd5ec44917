"""Findings of every sort, and which answer a text names: for tests that nothing contradicts the one answer."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dicom_io.finding import Answer, Finding, Lungs, Orientation, Region

REGIONS = (
    Region((10, 20, 60, 90), ((10.0, 20.0), (60.0, 40.5), (42.25, 90.0)), "right", "lower"),
    Region((62, 30, 80, 50), ((62.0, 30.0), (80.0, 40.0), (62.0, 50.0)), "left", "middle"),
    Region((5, 5, 9, 9), ((5.0, 5.0), (9.0, 5.0), (9.0, 9.0))),
)
"""In an image of 128 rows and 96 columns; the last without a place."""

LUNGS = (
    None,
    *(Lungs(0.3 if count else 0.0, count, cut) for count in (0, 1, 2) for cut in (False, True)),
)
"""Not looked for; none, one and two, whole and cut off."""

SETS = (None, (), ("NORMAL",), ("PNEUMONIA",), ("NORMAL", "PNEUMONIA"))
"""All conformal sets."""

GRID = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""How often a test draws from `findings`; a busy machine is no failure."""

_NAMES = re.compile(r"\b(not flagged|flagged|uncertain|outside)\b", re.IGNORECASE)


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    """Return any finding that a model with any card may have: the whole grid of what an answer depends on."""
    edges = st.sampled_from((0.0, 0.004, 0.29, 0.4999, 0.5, 0.93, 0.9962, 1.0))
    probability = draw(edges | st.integers(0, 10_000).map(lambda part: part / 10_000))
    threshold = draw(edges | st.integers(1, 9_999).map(lambda part: part / 10_000))
    finding = Finding(
        probability,
        "PNEUMONIA" if probability >= threshold else "NORMAL",
        threshold,
        draw(st.sampled_from(("screening", "balanced", "custom"))),
        draw(st.sampled_from(SETS)),
        draw(st.sampled_from((None, 0.0, 0.4, 0.9999, 1.0, 3.7))),
        lungs=draw(st.sampled_from(LUNGS)),
        orientation=draw(st.sampled_from(tuple(Orientation))),
        age_outside=draw(st.booleans()),
    )
    if finding.answer not in (Answer.FLAGGED, Answer.UNCERTAIN):
        return finding
    count = draw(st.integers(0, len(REGIONS)))
    return replace(finding, regions=REGIONS[:count])


def answers_in(text: str) -> set[Answer]:
    """Return every answer that a text names, in whatever case: a reader must find one and no other."""
    return {Answer(name.lower()) for name in _NAMES.findall(" ".join(text.split()))}
