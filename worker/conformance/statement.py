"""The DICOM Conformance Statement of this installation, from its configuration, in the structure of PS3.2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_io.network.address import address
from dicom_io.network.admission import most_of_one_peer
from dicom_io.network.commitment_messages import PUSH_MODEL
from dicom_io.network.commitment_scp import MOST_REFERENCES
from dicom_io.network.storage_scp import ANY_SYNTAX, RADIOGRAPHS, READABLE_SYNTAXES, supported
from dicom_io.network.storage_scu import CONNECT, MAXIMUM_PDU
from modeltrain.model.card import Card, load_card
from worker import __version__
from worker.conformance import initiator, objects
from worker.conformance.tables import contexts, table
from worker.destination_settings import DicomDestination
from worker.inference.serving import model_folder
from worker.receive.commitments import addresses
from worker.results.kinds import KINDS
from worker.settings import Scp, Settings

_STATUSES_RETURNED = (
    ("0x0000", "Success", "the bytes and the ledger's row are on disk, or were already"),
    ("0xA700", "Refused: out of resources", "disk full or database locked; nothing was kept, send again later"),
    ("0xA900", "Error: data set does not match SOP class", "an identifying UID is missing, too long, or differs"),
    ("0xC000", "Error: cannot understand", "the data set cannot be parsed, or is too large (Error Comment)"),
)
_DUPLICATE = ("0x0111", "Duplicate SOP Instance", "another content was received under this SOP Instance UID")


_OTHERS = {
    "version": "another content under its UID is stored and analysed as a further version, whose results name those"
    " that they replace",
    "refuse": "another content under its UID is refused",
}


def installation_statement(settings: Settings) -> str:
    """Return the statement of this installation, with the model that serves. Raises as `statement` and `load_card`."""
    return statement(settings, load_card(model_folder(settings)))


def statement(settings: Settings, card: Card) -> str:
    """Return the statement as Markdown.

    Parameters
    ----------
    settings
        The running configuration.
    card
        Of the model in service.

    Raises
    ------
    InvalidSettings
        A destination asks for a compression that nothing here can do.
    """
    chapters = (
        _overview(settings, card),
        _networking(settings),
        _acceptor(settings),
        initiator.section(settings),
        _rest(settings),
        objects.chapter(settings, card),
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
    sent = {
        KINDS[kind].sop_class
        for destination in settings.destinations
        for kind in destination.select(settings.results.kinds)
    }
    rows = [("Verification", "yes", "yes")]
    asks = any(isinstance(each, DicomDestination) and each.commitment is not False for each in settings.destinations)
    rows += [
        (UID(PUSH_MODEL).name, "yes" if asks else "no", "yes" if settings.commitment.offered else "no"),
    ]
    ours = sorted(kind.sop_class for kind in KINDS.values())
    rows += [(UID(each).name, "yes" if each in sent else "no", "yes") for each in ours]
    rows += [(UID(each).name, "no", "yes") for each in settings.rules.sop_classes if each not in ours]
    rows += [(f"all other of {len(AllStoragePresentationContexts)} storage SOP classes, retired, private", "no", "yes")]
    yield from table(("SOP class", "User of service (SCU)", "Provider of service (SCP)"), rows)
    yield ""
    yield from initiator.overview(settings)
    yield ""
    yield "No worklist, printing or media interchange."


_CLIENTS = {
    "required": "a client's certificate is required",
    "optional": "a client's certificate is verified where it shows one",
    "none": "clients are asked for no certificate",
}


def _tls(scp: Scp) -> str:
    if scp.tls is None:
        return "no TLS"
    alone = ", no port without TLS" if scp.tls.port == scp.port != 0 else ""
    return f"TLS at port {scp.tls.port}{alone}; {_CLIENTS[scp.tls.clients]}"


def _audit_trail(settings: Settings) -> str:
    url = settings.audit.syslog.url
    if not url:
        return "No audit trail messages (PS3.15 A.5) are sent; `audit.syslog` names a collector."
    way = "SYSLOG-TLS (PS3.15 A.6)" if url.startswith("tls:") else "SYSLOG-UDP (PS3.15 A.7)"
    return (
        f"Audit trail messages (PS3.15 A.5) by {way}: Application Activity, Begin Transferring DICOM Instances, DICOM"
        " Instances Accessed (deletions), DICOM Instances Transferred, Export, Query, Security Alert. The Patient ID in"
        " them is the audit database's; they name no patient."
    )


def _titles(titles: Iterable[str], networks: Mapping[str, tuple[str, ...]]) -> str:
    words = [f"{each} from {' or '.join(networks[each])}" if each in networks else each for each in titles]
    return ", ".join(words)


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
    yield "Two application entities in one program, of one title:"
    yield ""
    yield "- **Acceptor**: stores what is sent, and answers when it is durable."
    yield "- **Initiator**: sends results to each destination, from a durable queue; fetches what `cxrd pull` asks for."
    yield ""
    yield (
        "An object received becomes a task: eligibility by its header, then pixels, model, result objects, delivery."
        f" A second copy of a SOP instance changes nothing; {_OTHERS[scp.duplicates]}. Own results that come back are"
        " not analysed."
    )
    yield ""
    yield "### 3.2 Association policies"
    yield ""
    yield from table(
        ("", ""),
        [
            ("application context", "1.2.840.10008.3.1.1.1"),
            ("implementation class UID", PYNETDICOM_IMPLEMENTATION_UID),
            ("implementation version name", PYNETDICOM_IMPLEMENTATION_VERSION),
            ("address", address(scp.host, scp.port)),
            ("with TLS", _tls(scp)),
            ("maximum PDU, acceptor and initiator", f"{scp.maximum_pdu} and {MAXIMUM_PDU} bytes"),
            ("simultaneous associations accepted", scp.maximum_associations),
            ("of these, from one address", most_of_one_peer(scp.maximum_associations, scp.associations_per_peer)),
            ("simultaneous associations initiated", "one to each destination; one for `cxrd pull`"),
            ("closed after silence of", f"{scp.network_timeout:g} s"),
            ("closed without a complete request after", f"{scp.association_timeout:g} s"),
            ("aborted in the middle of an object below", f"{scp.least_rate} bytes a second"),
            ("waits for a connection, as initiator", f"a destination's timeout, at most {CONNECT:g} s"),
            ("called AE titles", _titles(scp.called_titles, scp.called_networks) or f"{scp.ae_title}, and any other"),
            ("calling AE titles", _titles(scp.titles, scp.networks) or "any"),
            ("asynchronous operations", "none: one operation at a time"),
        ],
    )


def _acceptor(settings: Settings) -> Iterator[str]:
    yield "### 3.3 Acceptor: Verification and Storage as SCP"
    yield ""
    yield "Of the transfer syntaxes proposed in a presentation context, the first in this order is taken:"
    yield ""
    yield from table(("transfer syntax", "UID"), [(uid.name, uid) for uid in READABLE_SYNTAXES])
    yield ""
    yield "Classes that are not analysed are taken, after these in preference, in every other standard syntax too:"
    yield ""
    yield from table(
        ("transfer syntax", "UID"), [(uid.name, uid) for uid in ANY_SYNTAX if uid not in READABLE_SYNTAXES]
    )
    yield ""
    yield "Presentation contexts accepted:"
    yield ""
    few = [each for each in supported() if each.abstract_syntax == "1.2.840.10008.1.1"]
    few += [each for each in supported() if str(each.abstract_syntax) in RADIOGRAPHS]
    yield from contexts(few, "SCP")
    yield ""
    yield (
        "So are, in the syntaxes of both tables, all classes of 7.4, and every proposed class that is, or may be, one"
        " for storage: retired, private, newer. SCP/SCU role selection and extended negotiation are not answered."
    )
    yield ""
    yield from table(
        ("status", "service status", "meaning"),
        (*_STATUSES_RETURNED, *([_DUPLICATE] if settings.scp.duplicates == "refuse" else [])),
    )
    yield ""
    yield from _commitment(settings)
    yield ""
    yield "Analysed are the objects that these rules admit:"
    yield ""
    rules = settings.rules
    yield from table(
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


def _commitment(settings: Settings) -> Iterator[str]:
    """Say what the node does about storage commitment: its reports to others, and others' reports to us."""
    model = UID(PUSH_MODEL).name
    if not settings.commitment.offered:
        yield (
            f"{model} ({PUSH_MODEL}) is accepted for N-EVENT-REPORT alone, from an SCP that reports on a request of"
            " ours (SCP/SCU role selection); an N-ACTION is answered with 0x0124 (not authorised)."
        )
        return
    yield (
        f"{model} ({PUSH_MODEL}) as SCP, and as SCU for reports on requests of ours (SCP/SCU role selection). Committed"
        " is what was answered with 0x0000 and whose file is there at the time of the request; all else gets Failure"
        " Reason 0x0112, or 0x0119 with another SOP class. The commitment ends where an image is deleted by the"
        f" settings or a person. The report comes on the same association, or on a new one to: {_requestors(settings)}."
        f" At most {MOST_REFERENCES} references in a request."
    )


def _requestors(settings: Settings) -> str:
    places = [
        f"{title} at {address(place.host, place.port)}{' (TLS)' if place.tls else ''}"
        for title, place in sorted(addresses(settings).items())
    ]
    return ", ".join(places) or "nobody (commitment.report_to is empty)"


def _ages(least: float | None, most: float | None, absent: str) -> str:
    if least is None and most is None:
        return "any"
    low, high = "" if least is None else f"from {least:g} ", "" if most is None else f"to {most:g} "
    return f"{low}{high}years; absent: {absent}"


def _rest(settings: Settings) -> Iterator[str]:
    yield "### 3.5 Network interfaces and configuration"
    yield ""
    yield (
        "TCP/IP, IPv4 or IPv6 as the addresses are given. All of the above is set in config.yaml and read when the"
        " program starts."
    )
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
    yield (
        "DICOM associations (DIMSE) over TLS, accepted and initiated, follow the Modified BCP 195 RFC 8996, 9325 TLS"
        " Secure Transport Connection Profile (PS3.15 B.12): TLS 1.2 and 1.3. There is no user identity negotiation."
        " Without TLS, run them on a protected network."
    )
    yield ""
    yield f"- Associations accepted: {_tls(settings.scp)}."
    yield from (f"- {words}" for words in initiator.security(settings))
    plain = {"hash": "as a keyed hash", "plain": "as it is", "none": "not at all"}[settings.audit.patient_id]
    yield f"- {_audit_trail(settings)}"
    yield f"- Logs hold no patient data; the audit database holds the patient ID {plain}."
