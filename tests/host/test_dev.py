"""`dev.py` and the environment it makes, short of making one (that is what running this suite did)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.host import environment as setup
from tools.host.environment import REPO, SetupError


def dev(*arguments: str, folder: Path = REPO) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "dev.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def test_help_names_every_command(tmp_path: Path):
    told = dev("--help", folder=tmp_path)
    assert told.returncode == 0
    for command in ("demo", "test", "serve", "verify", "bench", "train", "pictures", "screenshots"):
        assert f"python dev.py {command}" in told.stdout


def test_a_wrong_name_is_answered_with_the_right_ones():
    wrong = dev("rehearse")
    assert wrong.returncode == 2
    assert "'rehearse'" in wrong.stderr and "demo, test, serve" in wrong.stderr
    wrong = dev("train", "nothing_such")
    assert wrong.returncode == 2
    assert "'nothing_such'" in wrong.stderr and "tiny_world" in wrong.stderr


def test_a_half_made_folder_is_made_again_and_a_finished_one_is_kept(tmp_path: Path):
    folder = tmp_path / "thing"
    (folder / "left over").mkdir(parents=True)
    made, said = [], []

    def make(place: Path, say: object) -> None:
        assert not place.exists()
        place.mkdir()
        made.append(place)

    for _ in range(2):
        assert setup._once(folder, make, said.append) == folder
    assert made == [folder]
    assert said == ["thing is half made; starting it over"]


def test_a_failure_while_making_leaves_no_stamp(tmp_path: Path):
    def fail(place: Path, say: object) -> None:
        place.mkdir()
        raise SetupError("no network")

    with pytest.raises(SetupError, match="no network"):
        setup._once(tmp_path / "thing", fail, print)
    assert not (tmp_path / "thing" / "made.json").exists()


def test_other_pins_make_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTIONCACHE_CACHE", str(tmp_path))
    first = setup._venv_folder("host")
    monkeypatch.setattr(setup, "TORCH", "torch==0.0.0")
    assert first.parent == setup._venv_folder("host").parent == tmp_path.resolve()
    assert first != setup._venv_folder("host")


def test_a_missing_environment_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTIONCACHE_CACHE", str(tmp_path))
    monkeypatch.delenv("MOTIONCACHE_COMFYUI", raising=False)
    with pytest.raises(SetupError, match="python dev.py test"):
        setup.located()


def test_two_set_ups_wait_for_each_other(tmp_path: Path):
    """The lock is taken in another process, so that it is a file lock and not a thread's."""
    hold = (
        f"import sys; sys.path.append({str(REPO)!r})\n"
        "from pathlib import Path\n"
        "from tools.host.environment import _lock\n"
        f"with _lock(Path({str(tmp_path / 'lock')!r}), print):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        said = []

        def release(line: str) -> None:
            said.append(line)
            other.stdin.close()

        with setup._lock(tmp_path / "lock", release):
            assert other.wait(timeout=100) == 0
    assert len(said) == 1 and "waiting" in said[0]


def test_pins_are_exact_and_name_no_place():
    for name in ("host", "cli"):
        lines = [line for line in setup.pins(name).read_text().splitlines() if not line.startswith("#")]
        assert len(lines) > 20
        loose = [line for line in lines if line.count("==") != 1 or "/" in line or " " in line]
        assert loose == []
