"""The words of a picture and of the page: all of them follow from the one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_io.finding import Answer, readable

if TYPE_CHECKING:
    from datetime import datetime

    from dicom_io.finding import Finding

NOTICE = "For research use. Not for diagnosis."


def caption(finding: Finding) -> str:
    """Return what stands over the panel for the evidence, whether it is shown there or not."""
    if finding.answer is Answer.NOT_FLAGGED:
        return "Radiograph. Too little evidence to show"
    if finding.answer is Answer.OUTSIDE:
        return "Radiograph. No evidence is shown for such an image"
    return "Evidence for pneumonia" if finding.regions else "Evidence for pneumonia: too weak to show"


def where(finding: Finding) -> str:
    """Return the places of the evidence; empty where it has none, or they have no names."""
    return f"Where: {finding.places}" if finding.places else ""


def caution(finding: Finding) -> str:
    """Return what makes the answer doubtful; empty where nothing does."""
    return f"Caution: {finding.caution}" if finding.cautions else ""


def time(created: datetime) -> str:
    """Return a time to the minute with its zone: `UTC`, or how far it is from there."""
    zone = created.strftime("%z")[:5]
    return f"{created:%Y-%m-%d %H:%M} {'UTC' if zone == '+0000' else f'{zone[:3]}:{zone[3:]}'}"


def facts(finding: Finding) -> list[tuple[str, str]]:
    """Return what the page says of a finding, as names and values."""
    rows = [("Answer", finding.answer.sentence)]
    if finding.answered:
        rows += [
            ("Probability of pneumonia", readable(finding.probability, 4)),
            ("Threshold", f"{readable(finding.threshold, 4)} ({finding.operating_point})"),
        ]
        if finding.prediction_set is not None:
            rows.append(("Prediction set", ", ".join(finding.prediction_set) or "empty"))
    if finding.answer.shows_evidence:
        rows.append(("Evidence", finding.places or caption(finding)))
    if finding.lungs is not None:
        rows.append(("Lungs", f"{finding.lungs.count} found, {finding.lungs.share:.0%} of the image"))
    rows += [("Caution", words) for words in finding.cautions]
    return rows
