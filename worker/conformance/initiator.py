"""What cxrd asks of others, for the conformance statement: storage, query and retrieval, DICOMweb, notifications."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_io.dicomweb import store_response, wado
from dicom_io.network import query_retrieve, storage_commitment
from dicom_io.network.address import address, origin, plain_url
from dicom_io.network.storage_scu import PLAIN, proposed, ways
from dicom_io.objects.jpeg import LOSSY, PICTURES, QUALITY
from worker.conformance.tables import contexts, table
from worker.deliver.committer import MOST
from worker.deliver.dicom import node_of
from worker.destination_settings import (
    Destination,
    DicomDestination,
    DicomwebDestination,
    Hl7Destination,
    WebhookDestination,
)
from worker.ledger.deliveries import RESENDS
from worker.results.kinds import KINDS
from worker.settings import Settings

_STORE_STATUSES = (
    ("0x0000", "Success", "the delivery is *sent*"),
    ("0x0001, 0x0107, 0x0116, 0xBxxx", "Warning", "the delivery is *sent*"),
    ("0x0106, 0x0112, 0x0117, 0x0120, 0x0122, 0x0124, 0xA9xx, 0xCxxx", "Failure", "the delivery has *failed*"),
    ("0x0111", "Failure", "looked for by a query: delivered where it is found or nothing can be asked"),
    ("0xA7xx, 0x0110, any other; no answer", "Failure", "tried again, later each time"),
)
_FIND_STATUSES = (
    (", ".join(f"0x{each:04X}" for each in query_retrieve.PENDING), "Pending", "the match is taken"),
    ("0x0000", "Success", "the search is complete"),
    ("any other; no answer", "Failure, Cancel", "the search has failed, and its status is told"),
)
_RETRIEVE_STATUSES = (
    ("0xFF00", "Pending", "waits for the next answer"),
    ("0x0000", "Success", "the series is complete where the ledger holds each of its instances"),
    (
        f"0x{query_retrieve.UNKNOWN_DESTINATION:04X} to a C-MOVE",
        "Refused: move destination unknown",
        "ends, and names our AE title",
    ),
    (
        "0xB000, any other",
        "Warning, Failure, Cancel",
        "told with the failed suboperations; the next series is asked for",
    ),
    ("no answer", "", "told; after three series in a row, the end"),
)
_SAMPLE = query_retrieve.Series("1.2.3", "1.2.3.4", "DX")
_QUERIES = (
    ("STUDY", query_retrieve.study_query(query_retrieve.Query("20260131", "x", "x", "1.2.3"))),
    ("SERIES", query_retrieve.series_query("1.2.3")),
    ("IMAGE", query_retrieve.instance_query(_SAMPLE)),
)
_MATCHING = {"DA": "single value or range", "UI": "single value", "CS": "single value"}


def overview(settings: Settings) -> Iterator[str]:
    """Say in a few lines what is used besides storage."""
    if _nodes(settings):
        model = "Study Root Query/Retrieve"
        yield (
            f"{model} FIND, and MOVE or GET, as SCU, for `cxrd pull`, FIND also after 0x0111; with GET, Storage as SCP"
            f" on the same association ({', '.join(UID(each).name for each in settings.rules.sop_classes)}; SCP/SCU"
            " role selection)."
        )
    if _servers(settings):
        yield "DICOMweb user agent: STOW-RS for results, QIDO-RS and WADO-RS for `cxrd pull` (3.4.4)."


def section(settings: Settings) -> Iterator[str]:
    """Yield the section of the Initiator."""
    yield "### 3.4 Initiator: Storage, Verification and Query/Retrieve as SCU; DICOMweb user agent"
    yield ""
    if not settings.destinations:
        yield "No destination is configured: results stay in the storage folder."
        return
    yield from table(
        ("destination", "called", "address", "calling", "SOP classes", "compression"),
        [_destination(each, settings) for each in settings.destinations],
    )
    for part in (_storage, _statuses, _verification, _retrieval, _web, _commitment):
        yield from part(settings)


def _destination(destination: Destination, settings: Settings) -> tuple[str, ...]:
    """Return a destination's row: name, called, address, calling, SOP classes, compression."""
    classes = ", ".join(UID(each).name for each in _sop_classes(destination, settings))
    match destination:
        case DicomDestination():
            where = address(destination.host, destination.port)
            calling = destination.calling_ae or settings.scp.ae_title
            return destination.name, destination.ae_title, where, calling, classes, destination.compression
        case DicomwebDestination():
            called, where = "DICOMweb (STOW-RS)", plain_url(destination.url)
        case WebhookDestination():
            called, where = "webhook (no DICOM)", origin(destination.webhook)
        case Hl7Destination():
            tls = " and TLS" if destination.tls else ""
            called, where = f"HL7 v2.5.1 ORU^R01 over MLLP{tls} (no DICOM)", address(*destination.address)
    return destination.name, called, where, "", classes, ""


def _sop_classes(destination: Destination, settings: Settings) -> list[str]:
    """Return the SOP classes of the results that go to a destination."""
    return [KINDS[kind].sop_class for kind in destination.select(settings.results.kinds)]


def _nodes(settings: Settings) -> list[DicomDestination]:
    return [each for each in settings.destinations if isinstance(each, DicomDestination)]


def _servers(settings: Settings) -> list[DicomwebDestination]:
    return [each for each in settings.destinations if isinstance(each, DicomwebDestination)]


_LAST_RESORT = (
    "The JPEG syntaxes are for a node that accepts no other syntax that a picture can be brought into. They lose"
    f" something, so that what travels in them is another object: of quality {QUALITY}, with a SOP Instance UID derived"
    " from the picture's, Lossy Image Compression 01, and the picture in Source Image Sequence as (121320, DCM,"
    " Uncompressed predecessor)."
)


def offered(destination: DicomDestination, settings: Settings) -> list[PresentationContext]:
    """Return the presentation contexts that a node is offered when results of all its kinds are due."""
    classes = _sop_classes(destination, settings)
    kinds = {(each, str(ExplicitVRLittleEndian)) for each in classes}
    if settings.results.jpeg_quality is not None:
        kinds |= {(each, str(JPEGBaseline8Bit)) for each in classes if each in PICTURES}
    return proposed(node_of(destination, settings), kinds)


def gets_pictures(destination: Destination, settings: Settings) -> bool:
    """Tell whether results that are pictures go to a destination."""
    return any(each in PICTURES for each in _sop_classes(destination, settings))


def arriving(destination: DicomDestination, settings: Settings) -> list[UID]:
    """Return the transfer syntaxes that pictures may arrive in at a node, the first that it accepts being taken."""
    (sop_class, *_), peer = PICTURES, node_of(destination, settings)
    own = ExplicitVRLittleEndian if settings.results.jpeg_quality is None else JPEGBaseline8Bit
    accepted = {str(own), *map(str, PLAIN), *map(str, peer.compressions)}
    order = []
    while usable := ways(sop_class, own, accepted, peer):
        order.append(UID(usable[0]))
        accepted.remove(str(usable[0]))
    return order


def _storage(settings: Settings) -> Iterator[str]:
    yield ""
    yield "#### 3.4.1 Storage as SCU"
    for each in _nodes(settings):
        yield ""
        yield f"Proposed to {each.name}, as far as such results are due, each row a presentation context:"
        yield ""
        yield from contexts(offered(each, settings), "SCU")
        if gets_pictures(each, settings):
            yield ""
            yield f"{_pictures(settings)} to {each.name} travel in the first of these that it accepts:"
            yield ""
            order = arriving(each, settings)
            yield from (f"{number}. {uid.name} ({uid})" for number, uid in enumerate(order, start=1))
            if order[-1] in LOSSY and settings.results.jpeg_quality is None:
                yield ""
                yield _LAST_RESORT
    yield ""
    yield f"At most {settings.outbox.per_association} objects for each association. {_conversion(settings)}"


def _pictures(settings: Settings) -> str:
    quality = settings.results.jpeg_quality
    encoding = "uncompressed RGB" if quality is None else f"JPEG Baseline of quality {quality}"
    return f"Pictures (Secondary Capture), made as {encoding},"


def _conversion(settings: Settings) -> str:
    """Say what becomes of a picture on its way."""
    rule = "A picture keeps its SOP Instance UID in whichever syntax it travels that loses nothing."
    if settings.results.jpeg_quality is None:
        return rule
    return (
        f"{rule} A JPEG Baseline picture is decompressed to RGB where it travels in another syntax, and compressed"
        " again without loss where that is one; Lossy Image Compression stays 01."
    )


def _statuses(settings: Settings) -> Iterator[str]:
    yield ""
    yield from table(("status", "service status", "what follows"), _STORE_STATUSES)
    yield ""
    yield (
        f"First repeated after {settings.outbox.retry_first:g} s, then at growing intervals of at most"
        f" {settings.outbox.retry_max:g} s, for {settings.outbox.give_up_after_hours:g} hours. A picture that"
        " is refused in one transfer syntax is sent in the next one that the node accepts, up to an uncompressed one."
    )


def _verification(settings: Settings) -> Iterator[str]:
    if _nodes(settings):
        yield ""
        yield "#### 3.4.2 Verification as SCU"
        yield ""
        yield "By `cxrd check`, to each node."
        yield ""
        yield from contexts([build_context(Verification)], "SCU")


def _retrieval(settings: Settings) -> Iterator[str]:
    if not _nodes(settings):
        return
    yield ""
    yield "#### 3.4.3 Query/Retrieve as SCU"
    yield ""
    yield "By `cxrd pull NAME` from a node: C-FIND, then C-MOVE of whole series to our own title, received as in 3.3."
    yield ""
    yield from contexts(query_retrieve.proposed(), "SCU")
    yield ""
    yield (
        "By `cxrd pull NAME --get`: C-FIND, then C-GET of whole series, with Storage as SCP on the same association;"
        " its C-STORE statuses are those of 3.3."
    )
    yield ""
    classes = settings.rules.sop_classes
    selected = {str(each.sop_class_uid): "SCP" for each in query_retrieve.roles(classes) if each.scp_role}
    yield from contexts(query_retrieve.proposed(classes), "SCU", roles=selected, together=True)
    yield ""
    yield "Of storage, each transfer syntax is proposed on a presentation context of its own."
    yield ""
    yield (
        "No extended negotiation for Query/Retrieve: no relational queries, no fuzzy matching, no combined date and"
        " time. `cxrd check NAME --store` searches by Study Instance UID."
    )
    yield ""
    yield from table(
        ("level", "key", "tag", "used for"), [row for level, query in _QUERIES for row in _keys(level, query)]
    )
    yield ""
    names = ", ".join(row[1] for row in _keys("", query_retrieve.retrieval(_SAMPLE)))
    yield f"Identifier of C-MOVE and C-GET: {names}."
    yield ""
    yield from table(("status of C-FIND", "service status", "what follows"), _FIND_STATUSES)
    yield ""
    yield from table(("status of C-MOVE, C-GET", "service status", "what follows"), _RETRIEVE_STATUSES)


def _keys(level: str, query: Dataset) -> Iterator[tuple[str, ...]]:
    for element in query:
        if element.keyword == "QueryRetrieveLevel":
            use = element.value
        elif not element.value:
            use = "asked for"
        else:
            use = f"matching: {_MATCHING.get(element.VR, 'single value or wild card')}"
        yield level, dictionary_description(element.tag), str(element.tag), use


def _web(settings: Settings) -> Iterator[str]:
    if not _servers(settings):
        return
    yield ""
    yield "#### 3.4.4 DICOMweb user agent"
    yield ""
    answers = "application/dicom+json, application/json"
    keys = ", ".join(
        (*wado.filters(query_retrieve.Query("x", "x", "x", "x")), *(f"includefield={each}" for each in wado.FIELDS))
    )
    yield from table(
        ("service", "request", "media types", "notes"),
        [
            (
                "Store (STOW-RS, PS3.18 10.5)",
                "POST /studies",
                f"sent: {wado.WHOLE}; answer: {', '.join((*store_response.JSON, *store_response.XML))}",
                _stored(settings),
            ),
            ("Search (QIDO-RS, 10.6)", "GET /studies", f"accepted: {answers}", f"{keys}, limit={wado.PAGE}, offset"),
            ("Search", "GET /studies/{study}/series", f"accepted: {answers}", f"limit={wado.PAGE}, offset"),
            ("Search", "GET …/series/{series}/instances", f"accepted: {answers}", f"limit={wado.PAGE}, offset"),
            (
                "Retrieve (WADO-RS, 10.4)",
                "GET …/instances/{instance}",
                f"accepted: {'; where answered with 406: '.join(f'`{each}`' for each in wado.ACCEPTED)}",
                "one instance at a time, in whichever transfer syntax it comes",
            ),
        ],
    )
    yield ""
    yield (
        "STOW-RS: an object is stored only if the answer names it in its Referenced SOP Sequence. Failure Reason and"
        " Warning Reason count as the status of a C-STORE; HTTP 400, 409, 413, 415 and 422 without one as 0xA900. After"
        " every other answer it is tried again. No redirect is followed."
    )


def _stored(settings: Settings) -> str:
    plain = f"in {ExplicitVRLittleEndian.name} ({ExplicitVRLittleEndian})"
    if settings.results.jpeg_quality is None:
        return plain
    return (
        f"{plain}; pictures in {JPEGBaseline8Bit.name} ({JPEGBaseline8Bit}), and where that is refused for good,"
        " decompressed to RGB"
    )


_REASONS = (
    ("no failure", "the delivery is *committed*"),
    ("0x0112", f"sent again, {RESENDS} times at most, later each time; then the delivery has *failed*"),
    ("0x0119", "the delivery has *failed*"),
    ("0x0122", "the delivery stays *sent*"),
    ("0x0110, 0x0131, 0x0213, any other; no report", "asked again"),
)


def _commitment(settings: Settings) -> Iterator[str]:
    if not _nodes(settings):
        return
    yield ""
    yield "#### 3.4.5 Storage commitment: Push Model as SCU"
    names = [each.name for each in _nodes(settings) if each.commitment is not False]
    yield ""
    if not names:
        yield "None. `cxrd check NAME` proposes it to see whether it is offered; nothing uses it."
        return
    outbox = settings.outbox
    yield (
        f"With {', '.join(names)}, where it is accepted: results that were sent {outbox.commit_after:g} s ago or"
        f" earlier go into one N-ACTION of at most {MOST} instances, under a new Transaction UID. The N-EVENT-REPORT is"
        " taken on this association or on a new one to the Acceptor, at any time. What was sent as a lossy copy is"
        f" asked about by the copy's UID. Without a report it is asked again every {outbox.commit_report_within:g} s,"
        f" {outbox.commit_requests} times at most; then the delivery stays *sent*."
    )
    yield ""
    yield from contexts(storage_commitment.proposed(), "SCU")
    yield ""
    yield from table(("Failure Reason", "what follows"), _REASONS)


def security(settings: Settings) -> Iterator[str]:
    """Say of each destination whether its connection it is encrypted, and whom it trusts."""
    for each in settings.destinations:
        match each:
            case DicomDestination():
                yield f"{each.name} (DICOM): {_node_tls(each)}."
            case DicomwebDestination():
                secret = "HTTP basic authentication" if each.username else ""
                yield _http(each.name, each.url, "the authorities of certifi, or `REQUESTS_CA_BUNDLE`", secret)
            case WebhookDestination():
                secret = "signed with HMAC-SHA-256" if each.secret.get_secret_value() else ""
                yield _http(each.name, each.webhook, "the system's authorities", secret)
            case Hl7Destination():
                authorities = "its `ca_file` alone" if each.ca_file else "the system's authorities"
                tls = f"{_VERIFIED} {authorities}; no certificate of ours"
                yield f"{each.name} (MLLP): {tls if each.tls else 'no TLS'}."


def _node_tls(destination: DicomDestination) -> str:
    if destination.tls is None:
        return "no TLS"
    authorities = "its `ca_file` alone" if destination.tls.ca_file else "the system's authorities"
    ours = "with a certificate of ours" if destination.tls.certificate else "no certificate of ours"
    return f"{_VERIFIED} {authorities}; {ours}"


_VERIFIED = "TLS 1.2 or later, with verification of the server's certificate and of its name against"


def _http(name: str, url: str, authorities: str, secret: str) -> str:
    way = f"HTTPS: {_VERIFIED} {authorities}" if urlsplit(url).scheme == "https" else "HTTP without TLS"
    return f"{name}: {way}{'; ' if secret else ''}{secret}."
