"""The DICOM Conformance Statement of this installation, from its configuration, in the structure of PS3.2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_io import key_objects, parametric_map
from dicom_io import structured_report as report
from dicom_io.presentation_state import LAYER
from dicom_io.scp import READABLE_SYNTAXES
from modeltrain.registry import Card
from worker import __version__
from worker.results import KINDS, MODALITIES, OFFSETS, SOP_CLASSES
from worker.settings import Destination, Settings

_STATUSES_GIVEN = (
    ("0x0000", "Success", "the bytes and the ledger's row are on disk, or were already"),
    ("0xA700", "Refused: out of resources", "disk full or database locked; nothing was kept, send again later"),
    ("0xA900", "Error: data set does not match SOP class", "an identifying UID is missing, too long, or differs"),
    ("0xC000", "Error: cannot understand", "the data set cannot be parsed"),
)
_STATUSES_TAKEN = (
    ("0x0000", "Success", "the delivery is *sent*"),
    ("0x0001, 0x0107, 0x0116, 0xBxxx", "Warning", "the delivery is *sent*"),
    ("0x0106, 0x0112, 0x0117, 0x0120, 0x0122, 0x0124, 0xA9xx, 0xCxxx", "Failure", "the delivery has *failed*"),
    ("0xA7xx, 0x0110, any other; no answer", "Failure", "tried again, later each time"),
)
_CALLED = {
    "url": "DICOMweb (STOW-RS)",
    "webhook": "webhook (no DICOM)",
    "hl7": "HL7 v2.5.1 ORU^R01 over MLLP (no DICOM)",
}
_FURTHER_CODES = (
    ("structured-report", report.PROBABILITY),
    ("key-objects", key_objects.TITLE),
    ("parametric-map", parametric_map.QUANTITY),
)
_CODES = (report.PNEUMONIA, report.PRESENCE, report.PRESENT, report.ABSENT, report.INDETERMINATE)


def statement(settings: Settings, card: Card) -> str:
    """Return the statement as Markdown.

    Parameters
    ----------
    settings
        The running configuration.
    card
        Of the model in service.
    """
    chapters = (
        _overview(settings, card),
        _networking(settings),
        _acceptor(settings),
        _initiator(settings),
        _rest(settings),
        _results(settings, card),
    )
    return "\n".join(line for chapter in chapters for line in (*chapter, ""))


def _overview(settings: Settings, card: Card) -> Iterator[str]:
    yield "# DICOM Conformance Statement"
    yield ""
    yield f"cxrd {__version__}, application entity {settings.scp.ae_title}, model {card.label} (SHA-256 {card.sha256})"
    yield ""
    yield "## 1 Overview"
    yield ""
    yield (
        "cxrd receives chest radiographs, looks for pneumonia in them, and sends what it found back into the same"
        " study. For research use. Not for diagnosis."
    )
    yield ""
    sent = {SOP_CLASSES[kind] for kind in settings.results.kinds} if settings.destinations else set()
    rows = [("Verification", "yes", "yes")]
    rows += [(UID(each).name, "yes" if each in sent else "no", "yes") for each in sorted(SOP_CLASSES.values())]
    rows += [(UID(each).name, "no", "yes") for each in settings.rules.sop_classes if each not in SOP_CLASSES.values()]
    rows += [(f"all other of {len(AllStoragePresentationContexts)} storage SOP classes, retired, private", "no", "yes")]
    yield from _table(("SOP class", "User of service (SCU)", "Provider of service (SCP)"), rows)
    yield ""
    model = "Study Root Query/Retrieve"
    yield (
        f"{model} FIND, and MOVE or GET, as SCU, for `cxrd pull`; with GET, Storage as SCP on the same association"
        f" ({', '.join(UID(each).name for each in settings.rules.sop_classes)}; SCP/SCU role selection). DICOMweb user"
        " agent: STOW-RS for results, QIDO-RS and WADO-RS (application/dicom, any transfer syntax) for `cxrd pull`."
        " No worklist, printing, media or storage commitment."
    )


def _networking(settings: Settings) -> Iterator[str]:
    scp = settings.scp
    yield "## 2 Introduction"
    yield ""
    yield "For administrators who connect cxrd with a PACS. Terms are those of PS3.1 to PS3.8 of the DICOM standard."
    yield ""
    yield "## 3 Networking"
    yield ""
    yield "### 3.1 Implementation model"
    yield ""
    yield "Two application entities in one process, of one title:"
    yield ""
    yield "- **Acceptor**: stores what is sent, and answers when it is durable."
    yield "- **Initiator**: sends results to each destination, from a durable queue."
    yield ""
    yield (
        "An object received becomes a task: eligibility by its header, then pixels, model, result objects, delivery."
        " A second copy of a SOP instance changes nothing. Own results that come back are not analysed."
    )
    yield ""
    yield "### 3.2 Association policies"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("application context", "1.2.840.10008.3.1.1.1"),
            ("implementation class UID", PYNETDICOM_IMPLEMENTATION_UID),
            ("implementation version name", PYNETDICOM_IMPLEMENTATION_VERSION),
            ("address", f"{scp.host}:{scp.port}"),
            ("maximum PDU", f"{scp.maximum_pdu} bytes"),
            ("simultaneous associations accepted", scp.maximum_associations),
            ("closed after silence of", f"{scp.network_timeout:g} s"),
            ("called AE titles", scp.ae_title if scp.require_called else f"{scp.ae_title}, and any other"),
            ("calling AE titles", ", ".join(scp.allowed_calling) or "any"),
            ("asynchronous operations", "none: one operation at a time"),
        ],
    )


def _acceptor(settings: Settings) -> Iterator[str]:
    yield "### 3.3 Acceptor: Verification and Storage as SCP"
    yield ""
    yield "Of the transfer syntaxes proposed in a presentation context, the first in this order is taken:"
    yield ""
    yield from _table(("transfer syntax", "UID"), [(uid.name, uid) for uid in READABLE_SYNTAXES])
    yield ""
    yield "Classes that are not analysed are taken in every other standard transfer syntax too."
    yield ""
    yield from _table(("status", "service status", "meaning"), _STATUSES_GIVEN)
    yield ""
    yield "Analysed are the objects that these rules admit:"
    yield ""
    rules = settings.rules
    yield from _table(
        ("attribute", "values"),
        [
            ("SOP Class UID", ", ".join(UID(each).name for each in rules.sop_classes)),
            ("Modality", ", ".join(rules.modalities)),
            ("Body Part Examined", f"{', '.join(rules.body_parts)}; absent: {rules.absent_body_part}"),
            ("View Position", f"{', '.join(rules.views)}; absent: {rules.absent_view}"),
            ("Image Type", "any" if rules.allow_derived else "not DERIVED, not SECONDARY"),
            ("patient's age", _ages(rules.min_age_years, rules.max_age_years, rules.absent_age)),
        ],
    )


def _ages(least: float | None, most: float | None, absent: str) -> str:
    if least is None and most is None:
        return "any"
    low, high = "" if least is None else f"from {least:g} ", "" if most is None else f"to {most:g} "
    return f"{low}{high}years; absent: {absent}"


def _initiator(settings: Settings) -> Iterator[str]:
    yield "### 3.4 Initiator: Storage as SCU"
    yield ""
    if not settings.destinations:
        yield "No destination is configured: results stay in the storage folder."
        return
    yield from _table(
        ("destination", "called", "address", "calling", "SOP classes"),
        [_destination(each, settings) for each in settings.destinations],
    )
    yield ""
    syntaxes = f"{ExplicitVRLittleEndian.name} or {ImplicitVRLittleEndian.name}"
    yield f"Proposed in {syntaxes}; at most {settings.outbox.per_association} objects for each association."
    yield ""
    yield from _table(("status", "service status", "what follows"), _STATUSES_TAKEN)
    yield ""
    yield (
        f"First repeated after {settings.outbox.retry_first:g} s, then at growing intervals of at most"
        f" {settings.outbox.retry_max:g} s, for {settings.outbox.give_up_after_hours:g} hours."
    )


def _destination(destination: Destination, settings: Settings) -> tuple[str, ...]:
    kinds = [kind for kind in settings.results.kinds if not destination.kinds or kind in destination.kinds]
    return (
        destination.name,
        destination.ae_title or _CALLED["webhook" if destination.webhook else "hl7" if destination.hl7 else "url"],
        destination.url or destination.webhook or destination.hl7 or f"{destination.host}:{destination.port}",
        "" if not destination.ae_title else destination.calling_ae or settings.scp.ae_title,
        "" if destination.notified else ", ".join(UID(SOP_CLASSES[kind]).name for kind in kinds),
    )


def _rest(settings: Settings) -> Iterator[str]:
    yield "### 3.5 Network interfaces and configuration"
    yield ""
    yield "TCP/IP over IPv4. All of the above is set in config.yaml and read when the program starts."
    yield ""
    yield "## 4 Media interchange"
    yield ""
    yield "None."
    yield ""
    yield "## 5 Support of character sets"
    yield ""
    yield (
        "Texts of the image are copied into the results byte for byte, with its Specific Character Set, whichever it"
        " is. cxrd's own texts are ASCII."
    )
    yield ""
    yield "## 6 Security"
    yield ""
    plain = {"hash": "as a keyed hash", "plain": "as it is", "none": "not at all"}[settings.audit.patient_id]
    yield (
        "No TLS and no user identity negotiation: run it on a protected network. Logs hold no patient data; the audit"
        f" database holds the patient ID {plain}."
    )


def _results(settings: Settings, card: Card) -> Iterator[str]:
    yield "## 7 Annexes"
    yield ""
    yield "### 7.1 Objects created"
    yield ""
    yield from _table(
        ("kind", "SOP class", "modality", "Series Number"),
        [
            (kind, UID(SOP_CLASSES[kind]).name, MODALITIES[kind], settings.results.series_number + OFFSETS[kind])
            for kind in KINDS
            if kind in settings.results.kinds
        ],
    )
    yield ""
    yield (
        "Each in a new series of the image's study, with patient, study and request attributes copied; UIDs under"
        " 2.25, derived from the image and the model; Contributing Equipment (109102, DCM, Processing Equipment) with a"
        " Device UID of its own for each set of weights; Content Qualification RESEARCH."
    )
    yield ""
    yield from (f"- {words}" for kind, words in _contents(settings) if kind in settings.results.kinds)
    yield (
        "- When an image is read again by a newer model, objects with UIDs of their own are made beside the earlier"
        " ones, and the report names the last earlier one in Predecessor Documents Sequence."
    )
    if settings.results.report_not_analysed:
        yield (
            "- Radiographs that are not analysed get a structured report too: Indeterminate, the reason as a Comment."
        )
    yield ""
    yield "### 7.2 Coded terminology"
    yield ""
    yield from _table(
        ("code", "scheme", "meaning"),
        [(each.CodeValue, each.CodingSchemeDesignator, each.CodeMeaning) for each in _CODES]
        + [
            (each.value, each.scheme_designator, each.meaning)
            for kind, each in _FURTHER_CODES
            if kind in settings.results.kinds
        ],
    )
    yield ""
    yield "### 7.3 Model"
    yield ""
    points = ", ".join(f"{name} {threshold:.4g}" for name, threshold in card.operating_points.items())
    yield f"{card.label}; operating points: {points}; in use: {settings.model.operating_point}."
    yield ""
    yield "No private attributes, no private transfer syntaxes, no extended, specialised or private SOP classes."


def _contents(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what is in each kind of object."""
    quality = settings.results.jpeg_quality
    made = "RGB, uncompressed, or lossless RLE or JPEG 2000 where a destination is set so and accepts it"
    if quality is not None:
        made = f"JPEG Baseline (quality {quality}), or decompressed to RGB where a destination does not accept that"
    height = f"8 bits, {settings.results.height} rows at most"
    yield "secondary-capture", f"Secondary Capture: {height}; {made}."
    yield "presentation-state", f"Presentation state: graphic layer {LAYER}; window and polarity as shown."
    yield "structured-report", "Structured report: TID 1500 with TID 1004, 1600, 1501 or 1410, and 4019; UNVERIFIED."
    yield "key-objects", "Key objects: TID 2010; the image, with the presentation state, and every other result."
    yield (
        "parametric-map",
        (
            "Parametric map: one frame of Float Pixel Data, real world values as stored; in a frame of reference of its"
            " own in the plane of the detector."
        ),
    )
    yield "encapsulated-pdf", "Encapsulated PDF: one A4 page without patient's name, ID or any UID of the study."
    yield (
        "multi-frame-capture",
        f"Multi-frame Secondary Capture: two frames of {height}, by Frame Label Vector; {made}.",
    )


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    names = [str(each) for each in head]
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(str(each).replace('|', '/') for each in row)} |"
