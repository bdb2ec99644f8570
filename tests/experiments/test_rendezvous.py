"""Processes that do not come, are not alike, or meet where others listen: one line, and no hang."""

import socket
import threading
import time

import pytest

from homoode_jax.experiments import rendezvous
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import how_started
from homoode_jax.experiments.rendezvous import Meeting, meet, split_address
from tests.experiments.runs import QUICK, free_address, start, start_pair

ALIKE = {"--mode": "train", "--config.train.seed": "0"}


def meetings(processes, seconds=5):
    """What each of some processes is told of where they meet."""
    host, port = split_address(free_address())
    return [
        Meeting(
            host=host, port=port, listen=host, processes=processes, process=process, seconds=seconds
        )
        for process in range(processes)
    ]


def verdicts(given):
    """Lets processes meet; returns what each of them ends with, or None."""
    found = [None] * len(given)

    def run(place, meeting, told):
        try:
            meet(meeting, told)
        except UserError as error:
            found[place] = str(error)

    threads = [threading.Thread(target=run, args=(i, *one)) for i, one in enumerate(given)]
    for thread in reversed(threads):  # process 0 comes last
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return found


def test_processes_that_were_started_alike_meet():
    assert verdicts([(meeting, ALIKE) for meeting in meetings(3)]) == [None] * 3


def test_what_differs_is_named_to_all():
    other = ALIKE | {"--config.train.seed": "1"}
    found = verdicts(list(zip(meetings(3), [ALIKE, ALIKE, other], strict=True)))
    assert len(set(found)) == 1 and found[0] is not None
    assert "process 2 was started otherwise" in found[0]
    assert "--config.train.seed is 1, not 0" in found[0] and "--mode" not in found[0]


def test_another_number_of_processes_is_named():
    two = meetings(2)
    found = verdicts([(two[0], ALIKE), (two[1]._replace(processes=3), ALIKE)])
    assert found[0] == found[1] and "--processes is 3, not 2" in str(found[0])


def test_the_missing_are_named_to_those_who_came():
    three = meetings(3, seconds=1)
    found = verdicts([(three[0], ALIKE), (three[1], ALIKE)])
    assert found[0] == found[1] and "within 1 s: 2. Start them too" in str(found[0])


def test_two_with_one_number_are_named():
    two = meetings(3, seconds=5)
    found = verdicts([(two[0], ALIKE), (two[1], ALIKE), (two[1], ALIKE)])
    assert "two processes were started with --process=1" in str(found[0])
    assert found[1] == found[2] == found[0]


def test_strangers_are_not_counted():
    """Anybody may connect, and say anything or nothing."""
    first, second = meetings(2)

    def disturb():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process": "1"}\n', b"\xff\n"):
            with socket.create_connection((first.host, first.port)) as connection:
                connection.sendall(words)

    thread = threading.Timer(0.5, disturb)
    thread.start()
    late = threading.Timer(1.0, lambda: meet(second, ALIKE))
    late.start()
    meet(first, ALIKE)
    thread.join()
    late.join()


def test_process_0_listens_where_it_was_told_and_nowhere_else():
    first = meetings(2)[0]
    with rendezvous._listen(first) as listener:
        assert listener.getsockname() == (first.host, first.port)
    with pytest.raises(UserError, match="another program listens there"), socket.socket() as taken:
        taken.bind((first.host, first.port))
        taken.listen()
        meet(first, ALIKE)
    with pytest.raises(UserError, match=r"10\.1\.2\.3 is not an address of this machine"):
        meet(first._replace(host="10.1.2.3", listen="10.1.2.3"), ALIKE)


@pytest.mark.parametrize("address", ["127.0.0.1", "host:", ":80", "host:0", "host:70000", "h:x"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UserError, match="must be HOST:PORT"):
        split_address(address)


def test_an_address_of_six_bytes_is_split():
    assert split_address("[::1]:80") == ("::1", 80) and split_address("h:1") == ("h", 1)


def test_all_that_must_be_alike_is_told():
    told = how_started("train", Config(), "runs/x", "")
    assert told["--config.train.learning_rate"] == "0.001"
    assert told["--workdir"].endswith("/runs/x") and told["--workdir"].startswith("/")
    assert {"the program's digest", "the version of jax", "--mode", "--init"} <= set(told)


def ended(*processes):
    """Exit codes and standard errors."""
    told = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], told


DIFFERENT = {
    "--config.train.learning_rate=0.5": "--config.train.learning_rate is 0.5, not 0.004",
    "--config.train.batch_size=64": "--config.train.batch_size is 64, not 128",
    "--config.train.epochs=9": "--config.train.epochs is 9, not 8",
    "--mode=evaluate": "--mode is evaluate, not train",
    "--workdir=elsewhere": "--workdir is ",
}


@pytest.mark.slow
@pytest.mark.parametrize("flag", DIFFERENT)
def test_a_process_with_another_setting_ends_both_in_one_line(flag, tmp_path):
    folder = tmp_path / "run"
    codes, told = ended(*start_pair(*QUICK, f"--workdir={folder}", second=(flag,)))
    assert codes == [2, 2], told
    assert told[0] == told[1] and told[0].count("\n") == 1
    assert "process 1 was started otherwise" in told[0] and DIFFERENT[flag] in told[0]
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "words"), [(0, "did not come to .* within 2 s: 1."), (1, "process 0 did not come")]
)
def test_a_process_that_nobody_joins_ends_in_one_line(process, words):
    flags = [*QUICK, "--workdir=nowhere", f"--coordinator={free_address()}", "--processes=2"]
    codes, told = ended(start(*flags, f"--process={process}", "--join_seconds=2"))
    assert codes == [2] and told[0].count("\n") == 1, told
    assert all(part in told[0] for part in words.split(".*")), told


@pytest.mark.slow
def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [*QUICK, "--workdir=nowhere", f"--coordinator={address}", "--processes=2"]
        codes, told = ended(start(*flags, "--process=0"))
    assert codes == [2] and told[0].count("\n") == 1, told
    assert "another program listens there; choose another port" in told[0]
