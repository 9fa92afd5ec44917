"""Places go to those who ask for an association, and no peer takes them all."""

from __future__ import annotations

import pytest

from dicom_io.network.admission import MOST_WAITING, Admission, most_of_one_peer


class Visitor:
    """A connection of a peer."""

    def __init__(self, peer: str = "10.0.0.1", stalled_for: float = 0.0) -> None:
        self.peer = peer
        self.stalled_for = stalled_for
        self.reasons: list[str] = []

    def give_way(self, reason: str) -> None:
        self.reasons.append(reason)


def associated(admission: Admission, *visitors: Visitor) -> list[bool]:
    for each in visitors:
        admission.connect(each)
    return [not admission.associate(each) for each in visitors]


def test_connections_without_an_association_take_no_place() -> None:
    admission = Admission(2, 2)
    for _ in range(50):
        admission.connect(Visitor())
    assert associated(admission, Visitor()) == [True]


def test_one_address_does_not_take_all_places() -> None:
    admission = Admission(4, 3)
    assert associated(admission, *(Visitor("10.0.0.1") for _ in range(4))) == [True, True, True, False]
    assert associated(admission, Visitor("10.0.0.2")) == [True]


def test_a_place_that_was_left_is_free() -> None:
    admission, first, second = Admission(1, 1), Visitor(), Visitor()
    assert associated(admission, first, second) == [True, False]
    admission.leave(first)
    admission.leave(first)
    assert associated(admission, second) == [True]


def test_the_idlest_association_gives_way_and_one_at_work_does_not() -> None:
    admission = Admission(3, 3)
    busy, idle, idlest = Visitor("a"), Visitor("b", 6), Visitor("c", 9)
    assert associated(admission, busy, idle, idlest) == [True] * 3
    assert associated(admission, Visitor("d")) == [True]
    assert [len(each.reasons) for each in (busy, idle, idlest)] == [0, 0, 1]
    idle.stalled_for = 4
    assert associated(admission, Visitor("e")) == [False]


def test_of_too_many_that_wait_the_oldest_of_the_peer_with_most_goes() -> None:
    admission, honest = Admission(1, 1), Visitor("10.0.0.9")
    admission.connect(honest)
    crowd = [Visitor("10.0.0.1") for _ in range(MOST_WAITING + 3)]
    for each in crowd:
        admission.connect(each)
    assert [bool(each.reasons) for each in crowd] == [True] * 4 + [False] * (MOST_WAITING - 1)
    assert honest.reasons == []


@pytest.mark.parametrize(("most", "stated", "expected"), [(20, None, 15), (1, None, 1), (2, None, 2), (20, 3, 3)])
def test_three_quarters_go_to_one_address(most: int, stated: int | None, expected: int) -> None:
    assert most_of_one_peer(most, stated) == expected
