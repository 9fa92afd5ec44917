"""The workers: what is suspect goes alone, a fault costs no image anything, and second readings give way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_io.errors import OutOfResources
from dicom_io.objects.common import encode
from tests.support.ledgers import record_finding, task_row, waiting
from tests.support.models import tiny
from tests.support.peers import chest, wait_for
from tests.unit.worker.ledger.test_receipts import FINDING, NEW, kinds
from worker.clock import now
from worker.engines.pipeline import SystemicFault
from worker.engines.workers import Workers
from worker.inference.engine import EngineFault
from worker.ledger.queries import Filter, findings
from worker.ledger.reanalyses import Reanalyses
from worker.ledger.receipts import Receipts
from worker.queue.breaker import Pause
from worker.queue.claim import Queue
from worker.queue.task import Kind, Priority, Task
from worker.queue.wake import ring
from worker.settings import ModelSettings, Settings, Storage, WorkerSettings
from worker.storage.blobs import Blobs

NEW_TASKS, AGAIN = [Kind.ANALYSE], [Kind.REANALYSE]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("models") / "tiny")


class Shop:
    """Workers on a storage folder of their own; nothing runs until they are started, or asked for a round."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.settings = Settings(
            storage=Storage(folder=folder, min_free_mb=0),
            model=ModelSettings(folder=model, out_of_distribution="warn"),
            worker=WorkerSettings(threads=3, lease_seconds=600, reanalysis_pause=0, stop_seconds=60),
        )
        self.made: list[Workers] = []
        self.workers = self.open()

    def open(self, **worker: Any) -> Workers:
        """Make the workers of a process that takes the place of the one before."""
        settings = self.settings.model_copy(update={"worker": self.settings.worker.model_copy(update=worker)})
        self.workers = Workers(settings)
        self.workers._pause = Pause(first=0.02, most=0.05)
        self.made.append(self.workers)
        return self.workers

    @property
    def ledger(self) -> Any:
        return self.workers.ledger

    def put(self, name: str, *, stored: bool = True, **changes: Any) -> int:
        """Enter an image; not `stored`, it is only a row."""
        dataset = chest(name)
        sha256 = Blobs(self.folder / "objects").put(encode(dataset)) if stored else "a" * 64
        new = replace(NEW, sop_instance_uid=str(dataset.SOPInstanceUID), sha256=sha256, received_at=now())
        number = self.ledger.receive(replace(new, **changes))
        assert number is not None
        return int(number)

    def leave_in_hand(self, *numbers: int, kind: Kind = Kind.ANALYSE) -> None:
        """Take images in hand, and die."""
        dead = Queue(self.ledger)
        for number in numbers:
            assert dead.claim([kind], now(), subject=number, among="any")
        assert dead.release(dead.owner, now()) == len(numbers)

    def states(self) -> dict[int, str]:
        return {row["receipt_id"]: row["status"] for row in findings(self.ledger, Filter())}


@pytest.fixture
def shop(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr("worker.engines.workers.POLL", 0.02)
    made = Shop(tmp_path / "data", model)
    yield made
    for each in made.made:
        ring(made.folder, "work")  # whoever listens for long ends now
        if each._listener.ident is not None and not each._ending.is_set():
            each.stop()
        each._bell.close()
        each.ledger.engine.dispose()


class Work:
    """Stands for the pipeline: notes who is inside with whom, and finishes the tasks."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.done: list[Task] = []
        self.together: list[set[int]] = []
        self._inside: set[int] = set()
        self._lock = threading.Lock()

    def process(self, task: Task) -> None:
        with self._lock:
            self._inside.add(task.subject)
            self.together.append(set(self._inside))
        self.act(task)
        with self.workers.ledger.writing() as connection:
            self.workers.queue.finish(connection, task)
        with self._lock:
            self._inside.discard(task.subject)  # a test may have emptied it
            self.done.append(task)

    def act(self, task: Task) -> None:
        """Do something that takes time."""

    def subjects(self) -> list[int]:
        return [task.subject for task in self.done]


@pytest.fixture
def work(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Work:
    made = Work(shop.workers)
    monkeypatch.setattr(shop.workers, "_pipeline", made)
    return made


# ---- threads -----------------------------------------------------------------------------------------------------


def test_they_work_side_by_side_and_stop_after_what_they_have_in_hand(
    shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(4)

    def meet(_: Task) -> None:
        barrier.wait(60)  # nobody passes before all three are inside, and this test
        shop.workers._ending.set()
        barrier.wait(60)

    monkeypatch.setattr(work, "act", meet)
    numbers = [shop.put(str(n), stored=False) for n in range(9)]
    shop.workers.start()
    barrier.wait(60)
    barrier.wait(60)
    shop.workers.stop()
    assert sorted(work.subjects()) == numbers[:3]
    assert work.together[-1] == set(numbers[:3])
    assert waiting(shop.ledger, now()) == numbers[3:]
    assert not any(thread.is_alive() for thread in shop.workers._threads)


def test_what_nobody_rang_for_is_found(shop: Shop, work: Work) -> None:
    """What an earlier process left, and what came without a ring."""
    left = [shop.put(str(n), stored=False) for n in range(2)]
    shop.workers.start()
    wait_for(lambda: sorted(work.subjects()) == left)
    new = shop.put("new", stored=False)
    wait_for(lambda: new in work.subjects())


def test_a_ring_is_answered_long_before_the_next_look(shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.workers.POLL", 600)
    shop.workers.start()
    first = shop.put("a", stored=False)
    ring(shop.folder, "work")
    wait_for(lambda: work.subjects() == [first])
    second = shop.put("b", stored=False)
    ring(shop.folder, "work")
    wait_for(lambda: work.subjects() == [first, second])
    threading.Timer(0.5, ring, (shop.folder, "work")).start()
    shop.workers.stop()


def test_the_urgent_go_first(shop: Shop, work: Work) -> None:
    low, high, stat, next_low = (
        shop.put(name, stored=False, priority=priority)
        for name, priority in [("a", Priority.LOW), ("b", Priority.HIGH), ("c", Priority.STAT), ("d", Priority.LOW)]
    )
    while shop.workers._round():
        pass
    assert work.subjects() == [stat, high, low, next_low]


def test_a_thread_does_not_end_with_what_nobody_foresaw(
    shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shop.workers.queue, "lease", shop.workers.queue.lease * 0)  # nobody waits for it to run out
    failed: list[int] = []

    def fail_once(task: Task) -> None:
        if task.subject not in failed:
            failed.append(task.subject)
            work._inside.clear()
            raise (ZeroDivisionError(), OutOfResources("locked"), KeyError())[len(failed) % 3]

    monkeypatch.setattr(work, "act", fail_once)
    numbers = [shop.put(str(n), stored=False) for n in range(3)]
    shop.workers.start()
    wait_for(lambda: sorted(work.subjects()) == numbers)
    assert all(thread.is_alive() for thread in shop.workers._threads)
    assert sorted(failed) == numbers
    said = capsys.readouterr().out
    assert "work_pauses" in said
    assert "work_goes_on" in said


def test_what_a_thread_does_not_finish_in_time_is_handed_back_and_what_it_says_later_does_not_count(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = shop.open(threads=1, stop_seconds=0.1)
    number = shop.put("a")
    before = task_row(shop.ledger, number)
    begun, free = threading.Event(), threading.Event()
    load = Receipts.load

    def hang(self: Receipts, task: Task) -> Any:
        begun.set()
        assert free.wait(60)
        return load(self, task)

    monkeypatch.setattr(Receipts, "load", hang)
    workers.start()
    assert begun.wait(60)
    workers.stop()
    assert "handed_back" in capsys.readouterr().out
    assert task_row(shop.ledger, number) == before
    free.set()
    workers._threads[0].join(60)
    assert task_row(shop.ledger, number) == before
    assert kinds(shop.ledger, number) == ["received"]
    assert "lease_lost" in capsys.readouterr().out


# ---- suspects ----------------------------------------------------------------------------------------------------


def test_what_was_in_hand_when_a_process_died_goes_alone(
    shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspects = [shop.put(f"suspect {n}", stored=False) for n in range(4)]
    fresh = [shop.put(f"fresh {n}", stored=False) for n in range(6)]
    shop.leave_in_hand(*suspects)
    monkeypatch.setattr(work, "act", lambda _: threading.Event().wait(0.01))
    shop.workers.start()
    wait_for(lambda: sorted(work.subjects()) == suspects + fresh)
    assert all(len(inside) == 1 for inside in work.together if inside & set(suspects))
    assert {task.subject: task.crashes for task in work.done} == dict.fromkeys(suspects, 1) | dict.fromkeys(fresh, 0)


class Died(BaseException):
    """The end of a process."""


def test_a_poison_image_fails_and_its_companions_do_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that were in hand together when the worker died, three are answered."""
    numbers = [shop.put(str(n)) for n in range(4)]
    poison = numbers[1]
    shop.leave_in_hand(*numbers)
    later = shop.put("later")
    deaths = 1
    load = Receipts.load

    def deadly(self: Receipts, task: Task) -> Any:
        if task.subject == poison and task.crashes < shop.settings.worker.max_crashes:
            raise Died
        return load(self, task)

    monkeypatch.setattr(Receipts, "load", deadly)
    workers = shop.workers
    while waiting(shop.ledger, now()) or workers.queue.has_suspects(NEW_TASKS, now()):
        try:
            workers._careful(workers._round)
        except Died:
            deaths += 1
            Queue(shop.ledger).release(workers.queue.owner, now())  # as the supervisor does
            workers = shop.open()
    assert deaths == shop.settings.worker.max_crashes == 3
    assert shop.states() == dict.fromkeys([*numbers, later], "analysed") | {poison: "failed"}
    assert {task_row(shop.ledger, number) for number in numbers} == {None}
    (row,) = findings(shop.ledger, Filter(status="failed"))
    assert row["reason"] == "the worker died 3 times while it had this image in hand"
    for each in shop.made:
        if each.serving:
            each.serving.close()


def test_a_second_reading_that_is_suspect_holds_nobody_up(shop: Shop, work: Work) -> None:
    """Its model may never serve again; nor does it go before a new image."""
    number, model = shop.put("a", stored=False), FINDING.model
    record_finding(shop.ledger, number, FINDING, [], now())
    again = Reanalyses(shop.ledger)
    again.request([number], model.label, model.digest, "jd", now())
    shop.leave_in_hand(number, kind=Kind.REANALYSE)
    assert shop.workers._open_model()
    assert not shop.workers._round()
    assert not shop.workers._round_again()
    assert shop.workers.serving is not None
    serves = shop.workers.serving.reader
    assert again.cancel("jd", now()) == 1
    again.request([number], serves.card.label, serves.identity.digest, "jd", now())
    with shop.ledger.writing() as connection:  # who died had it in hand
        connection.exec_driver_sql("UPDATE task SET crashes = 1")
    new = shop.put("b", stored=False)
    assert not shop.workers._round_again()
    assert shop.workers._round()
    assert shop.workers._round_again()
    assert work.subjects() == [new, number]
    shop.workers.serving.close()


# ---- what is out of order ----------------------------------------------------------------------------------------


def test_a_systemic_fault_pauses_the_work_and_costs_no_attempt(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = shop.workers
    assert workers._open_model()
    assert workers.serving is not None
    reader = workers.serving.reader
    numbers = [shop.put(str(n)) for n in range(5)]
    tries: list[int] = []

    def out_of_order(_: object) -> Any:
        tries.append(1)
        raise EngineFault("the model's engine failed (RuntimeError)")

    with monkeypatch.context() as broken:
        broken.setattr(reader._batcher, "predict", out_of_order)
        workers.start()
        wait_for(lambda: len(tries) > 30)
        assert workers._detail()["pauses"] == "the model's engine failed (RuntimeError)"
        assert set(shop.states().values()) == {"received"}
        assert {kinds(shop.ledger, number)[-1] for number in numbers} == {"received"}
    wait_for(lambda: set(shop.states().values()) == {"analysed"})
    assert {row["attempts"] for row in findings(shop.ledger, Filter())} == {1}
    wait_for(lambda: workers._detail()["pauses"] == "")
    said = capsys.readouterr().out
    assert said.count("work_pauses") == said.count("work_goes_on") == 1


def test_after_a_fault_one_waits_longer_each_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = shop.workers
    workers._pause = Pause(first=1000, most=10_000)
    monkeypatch.setattr(workers, "_ending", threading.Event())
    assert workers._open_model()
    tries: list[int] = []

    def fail() -> bool:
        tries.append(1)
        raise SystemicFault("disk full")

    for _ in range(3):
        assert not workers._careful(fail)
    assert len(tries) == 1
    assert workers._pause.left() > 400
    assert workers.serving is not None
    workers.serving.close()


def test_a_ledger_that_does_not_say_what_a_task_is_about_costs_no_attempt(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = shop.put("a")
    before = task_row(shop.ledger, number)
    assert before is not None

    def unreachable(*_: object) -> None:
        raise OutOfResources("the ledger cannot be reached")

    assert shop.workers._open_model()
    with monkeypatch.context() as broken:
        broken.setattr(Receipts, "load", unreachable)
        with pytest.raises(OutOfResources):
            shop.workers._round()
    assert task_row(shop.ledger, number) == before | {"reason": "the ledger cannot be reached"}
    assert shop.workers.queue.in_hand() == []
    assert shop.workers._round()
    assert shop.states() == {number: "analysed"}
    assert shop.workers.serving is not None
    shop.workers.serving.close()


def test_a_model_that_does_not_load_is_said_and_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened: list[int] = []
    load = Workers._load_model

    def counted(self: Workers) -> bool:
        opened.append(1)
        return load(self)

    monkeypatch.setattr(Workers, "_load_model", counted)
    shop.settings = shop.settings.model_copy(update={"model": ModelSettings(folder=tmp_path / "late")})
    workers = shop.open()
    number = shop.put("a")
    workers.start()
    wait_for(lambda: len(opened) > 3)
    assert not workers.ready
    assert task_row(shop.ledger, number) is not None
    assert shop.states() == {number: "received"}
    tiny(tmp_path / "late")
    wait_for(lambda: shop.states()[number] != "received")
    tries = len(opened)
    assert workers.ready
    said = capsys.readouterr().out
    assert (said.count("model_not_loaded"), said.count('"ready"') + said.count(" ready ")) == (1, 1)
    assert len(opened) == tries  # once is enough for all threads


# ---- second readings ---------------------------------------------------------------------------------------------


def asked(shop: Shop, names: str) -> list[int]:
    """Enter images that another model has answered, and that the serving one is to read again."""
    assert shop.workers._open_model()
    assert shop.workers.serving is not None
    reader = shop.workers.serving.reader
    numbers = [shop.put(name, stored=False) for name in names]
    for number in numbers:
        record_finding(shop.ledger, number, FINDING, [], now())
    Reanalyses(shop.ledger).request(numbers, reader.card.label, reader.identity.digest, "jd", now())
    return numbers


def test_an_image_is_read_again_only_while_nothing_new_waits_and_the_newest_first(
    shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = asked(shop, "abc")
    other = shop.put("d", stored=False)
    record_finding(shop.ledger, other, FINDING, [], now())
    Reanalyses(shop.ledger).request([other], "net-7.0.0", "7" * 64, "jd", now())
    new = shop.put("e", stored=False)
    assert not shop.workers._round_again()
    (in_hand,) = shop.workers.queue.claim(NEW_TASKS, now())
    assert not shop.workers._round_again()  # nor while it is in hand
    with shop.ledger.writing() as connection:
        shop.workers.queue.finish(connection, in_hand)
    assert shop.workers._round_again()
    later = shop.put("f", stored=False)
    assert not shop.workers._round_again()
    assert shop.workers._round()
    while shop.workers._round_again():
        pass
    assert work.subjects() == [old[2], later, old[1], old[0]]
    assert in_hand.subject == new
    assert waiting(shop.ledger, now(), Kind.REANALYSE) == [other]  # for a model that does not serve
    assert shop.workers.serving is not None
    shop.workers.serving.close()


def test_second_readings_are_done_by_a_thread_that_comes_back_after_a_fault(
    shop: Shop, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = asked(shop, "abc")
    new = [shop.put(name, stored=False) for name in "de"]
    gate = threading.Event()
    failed: list[int] = []

    def act(task: Task) -> None:
        if task.kind is Kind.ANALYSE:
            assert gate.wait(60)
        elif not failed:
            failed.append(task.subject)
            work._inside.clear()
            shop.workers._hand_back(task, "locked")
            raise SystemicFault("locked")

    monkeypatch.setattr(work, "act", act)
    shop.workers.start()
    wait_for(lambda: len(work.together) == 2)  # both new ones are in hand
    assert not threading.Event().wait(0.1)
    assert failed == work.subjects() == []
    gate.set()
    wait_for(lambda: len(work.done) == 5)
    assert sorted(work.subjects()[:2]) == new
    assert work.subjects()[2:] == numbers[::-1]
    assert failed == [numbers[2]]
