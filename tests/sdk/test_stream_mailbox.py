"""The mailbox of the cameras and the queue of the recordings: what any order of calls must leave true."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from florence_edge.stream.channel import Channel
from florence_edge.stream.mailbox import Ledger, Mailbox

TAGS = ("left", "right", "rear")


class MailboxMachine(RuleBasedStateMachine):
    """Against a plain model: the newest item per tag, and who was served when."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Mailbox[int] = Mailbox(TAGS)
        self.newest: dict[str, int] = {}
        self.served_at = dict.fromkeys(TAGS, -1)
        self.put_count = self.replaced = self.taken = self.turn = 0

    @rule(tag=st.sampled_from(TAGS))
    def put(self, tag: str) -> None:
        self.put_count += 1
        assert self.box.put(tag, self.put_count) == self.newest.get(tag)
        self.replaced += tag in self.newest
        self.newest[tag] = self.put_count

    @rule(served=st.booleans())
    def take(self, served: bool) -> None:
        taken = self.box.take(0.0)
        if not self.newest:
            assert taken is None
            return
        assert taken is not None
        tag, item = taken
        assert item == self.newest.pop(tag)
        assert all(self.served_at[tag] <= self.served_at[other] for other in self.newest)
        self.taken += 1
        if served:
            self.turn += 1
            self.served_at[tag] = self.turn
            self.box.served(tag)

    @precondition(lambda self: self.newest)
    @rule(tag=st.sampled_from(TAGS))
    def take_no_later_than(self, tag: str) -> None:
        taken = self.box.take(0.0, up_to=tag)
        if taken is None:
            assert all(self.served_at[other] >= self.served_at[tag] for other in self.newest)
            assert tag not in self.newest
        else:
            assert self.served_at[taken[0]] <= self.served_at[tag]
            del self.newest[taken[0]]
            self.taken += 1

    @invariant()
    def everything_is_accounted_for(self) -> None:
        assert self.put_count == self.taken + self.replaced + len(self.newest)
        assert {tag: self.box.peek(tag) for tag in TAGS} == {tag: self.newest.get(tag) for tag in TAGS}


TestMailbox = MailboxMachine.TestCase
TestMailbox.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_threads_lose_nothing_and_the_last_item_is_the_newest() -> None:
    box: Mailbox[int] = Mailbox(["camera"])
    ledger = Ledger(["camera"])

    def capture() -> None:
        for number in range(5000):
            ledger.add("camera", captured=1)
            if box.put("camera", number) is not None:
                ledger.add("camera", dropped=1)
        box.end("camera")

    thread = threading.Thread(target=capture)
    thread.start()
    seen = []
    while not box.ended:
        taken = box.take(1.0)
        if taken is not None:
            seen.append(taken[1])
            ledger.add("camera", done=1)
    thread.join()
    assert seen == sorted(set(seen))
    assert seen[-1] == 4999
    counts = ledger["camera"]
    assert counts.captured == 5000 == counts.done + counts.dropped


def test_a_channel_keeps_order_and_never_holds_more_than_its_size() -> None:
    channel: Channel[int] = Channel(3)
    ahead: list[int] = []

    def fill() -> None:
        for number in range(200):
            ahead.append(number)
            assert channel.put(number)
        channel.end()

    thread = threading.Thread(target=fill)
    thread.start()
    read = []
    while (item := channel.get()) is not None:
        read.append(item)
        assert len(ahead) - len(read) <= 3 + 1  # three wait inside, one in the writer's hand
    thread.join()
    assert read == list(range(200))
    assert channel.finished


def test_an_error_arrives_behind_the_last_item() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.end(OSError("cut"))
    assert channel.get() == 1
    with pytest.raises(OSError, match="cut"):
        channel.get()


def test_a_writer_that_waits_for_room_is_let_go_when_the_reader_leaves() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(channel.put(2)))
    thread.start()
    channel.close()
    thread.join(5.0)
    assert outcome == [False]
    assert channel.get() is None
