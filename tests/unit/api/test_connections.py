"""Of one host so many connections stay, those that were there first; nothing else of the process is touched."""

import os
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from changefeed_gateway.api import connections
from changefeed_gateway.api.connections import HostShare, most_connections, most_of_one_host
from changefeed_gateway.core.limits import Limits

HOST, OTHER = "127.0.0.2", "127.0.0.3"
MOST = 3


class Port:
    """A port that has taken connections, and who is connected to it."""

    def __init__(self, stack: ExitStack) -> None:
        self.taken: list[socket.socket] = []
        self._stack = stack
        self._listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        self.number = int(self._listening.getsockname()[1])

    def connect(self, host: str) -> socket.socket:
        """The caller's end of one more connection, which is taken."""
        target = ("127.0.0.1", self.number)
        caller = self._stack.enter_context(socket.create_connection(target, timeout=10, source_address=(host, 0)))
        self.taken.append(self._stack.enter_context(self._listening.accept()[0]))
        return caller


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


def is_open(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1) != b""
    except BlockingIOError:
        return True


def test_who_was_there_first_stays_and_other_hosts_are_not_concerned(port: Port) -> None:
    share = HostShare(port.number, MOST)
    first = [port.connect(HOST) for _ in range(MOST - 1)]
    assert share.enforce() == Counter()
    others = [port.connect(OTHER) for _ in range(MOST)]
    assert share.enforce() == Counter()
    later = [port.connect(HOST) for _ in range(4)]
    assert share.enforce() == Counter({HOST: 3})
    assert [is_open(caller) for caller in [*first, *others]] == [True] * 5
    assert sorted(is_open(caller) for caller in later) == [False, False, False, True]


def test_a_place_that_was_given_back_is_anothers(port: Port) -> None:
    share = HostShare(port.number, MOST)
    before = [port.connect(HOST) for _ in range(MOST)]
    assert share.enforce() == Counter()
    for end in [*before, *port.taken]:
        end.close()
    after = [port.connect(HOST) for _ in range(MOST + 1)]
    assert share.enforce() == Counter({HOST: 1})
    assert sum(is_open(caller) for caller in after) == MOST


def test_only_connections_of_the_port_are_counted_or_closed(port: Port) -> None:
    share = HostShare(port.number, 1)
    with ExitStack() as stack:
        elsewhere = Port(stack)
        theirs = [elsewhere.connect(HOST) for _ in range(5)]
        pair = [stack.enter_context(end) for end in socket.socketpair()]
        ends = os.pipe()
        stack.callback(os.close, ends[0])
        stack.callback(os.close, ends[1])
        mine = port.connect(HOST)
        assert share.enforce() == Counter()
        assert all(is_open(caller) for caller in [*theirs, mine])
        pair[0].send(b"1")
        assert pair[1].recv(1) == b"1"
        os.write(ends[1], b"1")
        assert os.read(ends[0], 1) == b"1"


def test_a_file_that_is_another_by_now_is_left_alone(port: Port) -> None:
    caller = port.connect(HOST)
    file = caller.fileno()
    inode = os.fstat(file).st_ino
    assert not connections._shut_down(file, inode + 1)
    assert is_open(caller)
    assert connections._shut_down(file, inode)
    assert not connections._shut_down(1_000_000, inode)


def test_a_host_leaves_as_many_places_as_it_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 1_024))
    assert (most_connections(Limits()), most_of_one_host(Limits())) == (768, 384)
    assert most_of_one_host(Limits(peer_connections=10)) == 10
    assert most_of_one_host(Limits(max_connections=1)) == 1
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100_000, 100_000))
    assert most_of_one_host(Limits()) == 1_000
