"""The exceptions of cxrd.

Their messages are written for a person, fit on one line and never quote a value of a dataset, so that they may go into
a log, an audit row or onto a terminal as they are.

    CxrdError
    ├── Permanent               doing it again will not help
    │   ├── UnreadableObject    not a DICOM object, or one too broken to parse
    │   │   ├── ObjectTooLarge  an object of more bytes than we take
    │   │   └── ObjectCutShort  an object that ends within one of its elements
    │   ├── UnsupportedPixels   pixel data that is missing, damaged, too large or of a kind we do not read
    │   ├── Unsuitable          a source that lacks what one kind of result object needs
    │   ├── InvalidResult       a result object of ours that does not hold to the standard
    │   ├── RefusedByPeer       a destination will never take this object
    │   ├── Declined            a peer refuses this one thing and says why; others may pass
    │   ├── InvalidSettings     config.yaml or the environment says something we cannot follow
    │   ├── InvalidModel        a model folder that is missing, incomplete or altered
    │   └── InvalidData         training or evaluation data that cannot be used
    └── Retryable               the same step may pass later
        ├── OutOfResources      disk full, ledger locked
        ├── PeerUnavailable     a destination that does not answer, or is busy
        │   ├── AssociationRejected   it answers, and rejects our association
        │   ├── NotSecure             there is no TLS with it: a certificate does not hold, or is refused
        │   └── AssociationLost       it broke off, or did not answer, while it had one object in hand
        └── NotNow              a peer that does not take this one thing now; others may pass
"""

from __future__ import annotations


class CxrdError(Exception):
    """Base of every error that cxrd raises on purpose."""


class Permanent(CxrdError):
    """Doing the same thing again will not help."""


class UnreadableObject(Permanent):
    """Not a DICOM object, or one too broken to parse."""


class ObjectTooLarge(UnreadableObject):
    """An object of more bytes than we take."""


class ObjectCutShort(UnreadableObject):
    """An object that ends within one of its elements."""


class UnsupportedPixels(Permanent):
    """Pixel data that is missing, damaged, too large or of a kind we do not read."""


class Unsuitable(Permanent):
    """A source that lacks what one kind of result object needs; the other kinds can still be made."""


class InvalidResult(Permanent):
    """A result object of ours that does not hold to the standard."""


class RefusedByPeer(Permanent):
    """A destination will never take this object."""


class Declined(Permanent):
    """A peer refuses this one thing, and says why; others may pass."""


class InvalidSettings(Permanent):
    """The configuration says something that cannot be followed."""


class InvalidModel(Permanent):
    """A model folder that is missing, incomplete or altered."""


class InvalidData(Permanent):
    """Training or evaluation data that cannot be used."""


class Retryable(CxrdError):
    """The same step may pass later."""


class OutOfResources(Retryable):
    """The disk is full or the ledger is locked."""


class PeerUnavailable(Retryable):
    """A destination that does not answer, or is busy."""


class AssociationRejected(PeerUnavailable):
    """A peer answers, and rejects our association."""


class NotSecure(PeerUnavailable):
    """There is no TLS with a peer: its certificate does not hold, or it refuses ours."""


class AssociationLost(PeerUnavailable):
    """A peer broke off, or did not answer, while it had one object in hand: that one may be why."""


class NotNow(Retryable):
    """A peer that does not take this one thing now; others may pass."""
