"""Free ports: below what the system hands out, free for both kinds, in a row where asked."""

import socket
from pathlib import Path

import pytest

from loadtests import ports
from loadtests.ports import FIRST, free_port


def test_no_port_twice_and_none_that_an_outgoing_connection_could_take() -> None:
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == 50
    low = int(ports.EPHEMERAL.read_text().split()[0])
    assert all(FIRST <= port < low for port in given)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_row_is_free_from_end_to_end(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start = free_port(8)
    monkeypatch.setattr(ports, "_tried", iter(range(start - FIRST, start - FIRST + 10_000)))
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", start + 2))
        assert not start <= free_port(4) <= start + 2


def test_says_where_the_system_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "range").write_text("1024\t60999\n")
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
    with pytest.raises(OSError, match="begins at 1024"):
        free_port()
