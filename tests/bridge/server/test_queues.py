from __future__ import annotations

import threading

import zmq

from bridge.protocol.messages import Heartbeat
from bridge.server.fair_queue import FairQueue
from bridge.server.reply_cache import ReplyCache
from bridge.transport.loop_calls import LoopCalls


def taken(queue: FairQueue[str]) -> list[str]:
    items = []
    while (item := queue.take()) is not None:
        items.append(item)
    return items


def test_clients_are_served_in_turn_however_much_one_has_sent() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put("flood", f"f{number}")
    queue.put("one", "o0")
    queue.put("other", "x0")
    queue.put("other", "x1")
    assert len(queue) == 7
    assert taken(queue) == ["f0", "o0", "x0", "f1", "x1", "f2", "f3"]
    assert len(queue) == 0


def test_what_is_first_is_what_is_taken() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.first() is None
    for client, item in (("a", "a0"), ("a", "a1"), ("b", "b0")):
        queue.put(client, item)
    while (first := queue.first()) is not None:
        assert queue.take() == first


def test_what_is_put_back_comes_before_the_clients_others() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", "a1")
    queue.put_back("a", "a0")
    assert taken(queue) == ["a0", "a1"]


def test_removed_items_are_gone_and_the_others_keep_their_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for client in "ab":
        for number in range(3):
            queue.put(client, f"{client}{number}")
    assert queue.remove(lambda item: item.startswith("a") or item == "b1") == ["a0", "a1", "a2", "b1"]
    assert len(queue) == 2
    assert taken(queue) == ["b0", "b2"]


def test_kept_replies_are_bounded_in_number_and_size() -> None:
    kept = ReplyCache(most=3, most_bytes=100)
    for number in range(5):
        kept.keep(number, Heartbeat(id=str(number)), [bytes(10)])
    assert [number for number in range(5) if kept.find(number)] == [2, 3, 4]
    kept.keep(5, Heartbeat(id="5"), [bytes(85)])
    assert [number for number in range(6) if kept.find(number)] == [4, 5]
    kept.keep(5, Heartbeat(id="again"), [b"x"])
    assert kept.find(5) == (Heartbeat(id="again"), (b"x",))


def test_calls_from_many_threads_are_made_each_once_and_in_order() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    loop_calls = LoopCalls(context)
    seen: list[tuple[int, int]] = []

    def put_calls(thread: int) -> None:
        for number in range(200):
            assert loop_calls.call_soon_threadsafe(lambda number=number: seen.append((thread, number)))  # type: ignore[misc]

    threads = [threading.Thread(target=put_calls, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 800:
        assert loop_calls.socket.poll(10_000)
        loop_calls.run()
    for thread in threads:
        thread.join()
    for thread_number in range(4):
        assert [n for t, n in seen if t == thread_number] == list(range(200))
    assert not loop_calls.socket.poll(0)
    loop_calls.close()
    assert not loop_calls.call_soon_threadsafe(lambda: None)
    context.term()
