"""What several tests of the real host share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.host.environment import Environment
from tools.host.server import ComfyServer


@pytest.fixture(scope="module")
def new_front(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The same ComfyUI behind the newest front end."""
    if environment.new_front_end is None:
        pytest.skip("the newest front end is not here: run the tests with `python dev.py test`")
    arguments = ("--front-end-root", str(environment.new_front_end))
    with ComfyServer(tmp_path_factory.mktemp("new"), environment=environment, arguments=arguments) as server:
        yield server
