"""A real ComfyUI server in a child process, and a client for it.

    with ComfyServer(base=folder, pack=repository) as comfy:
        run = comfy.run(comfy.convert(json.loads(workflow.read_text())))
        video = run.files()[0]

The protocol (HTTP routes, websocket messages, binary previews) is ComfyUI's own `server.py` and `execution.py`, 0.3.75.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from .environment import HERE, REPO, Environment, located
from .workflow import to_api_prompt

PREVIEW, PREVIEW_WITH_METADATA = 1, 4  # binary message types that carry a picture
FOLDERS = ("custom_nodes", "input", "user/default", "temp", "models")
OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
# Without these the first page load covers the graph with the Templates dialog and a tour.
USER_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.Enabled": False,
}


class ComfyError(RuntimeError):
    """The server did not do what was asked; the message carries its own words."""


class PromptRefusedError(ComfyError):
    """`/prompt` found the graph invalid. `node_errors` is ComfyUI's dict: node id to its errors."""

    def __init__(self, message: str, node_errors: dict[str, Any]):
        super().__init__(message)
        self.node_errors = node_errors


class PromptFailedError(ComfyError):
    """A node raised. `node_id`, `node_type`, `exception_type` and `exception_message` are ComfyUI's."""

    def __init__(self, data: dict[str, Any], log: str):
        self.node_id, self.node_type = data["node_id"], data["node_type"]
        self.exception_type, self.exception_message = data["exception_type"], data["exception_message"]
        trace = "".join(data.get("traceback", []))
        said = f"{self.exception_type}: {self.exception_message}"
        super().__init__(f"node {self.node_id} ({self.node_type}) raised {said}\n{trace}\n{log}")


class PromptInterruptedError(ComfyError):
    """The prompt was interrupted before it ended."""


@dataclass
class Run:
    """One finished prompt.

    Args:
        prompt_id: ComfyUI's id of it.
        history: its entry of `/history` (`prompt`, `outputs`, `status`, `meta`).
        messages: what the websocket sent meanwhile, in order: `{"type": ..., "data": {...}}`.
        previews: (metadata, encoded picture) of each binary preview.
        seconds: wall-clock from queueing to the end.
        folders: where the server keeps its `output`, `temp` and `input`.
    """

    prompt_id: str
    history: dict[str, Any]
    messages: list[dict[str, Any]]
    previews: list[tuple[dict[str, Any], bytes]]
    seconds: float
    folders: dict[str, Path] = field(repr=False, default_factory=dict)

    @property
    def outputs(self) -> dict[str, dict[str, list]]:
        """Node id to its `ui` values, each a list."""
        return self.history["outputs"]

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that ran, in order; nodes taken from ComfyUI's cache are not among them."""
        return [data["node"] for data in self.events("executing") if data.get("node") is not None]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The data of all messages of one type; a `kind` that ends in a dot takes all types that begin so."""
        same = str.startswith if kind.endswith(".") else str.__eq__
        return [message["data"] for message in self.messages if same(message["type"], kind)]

    def files(self, node_id: str | int | None = None) -> list[Path]:
        """Paths of the files that nodes saved or previewed, all or one node's."""
        nodes = self.outputs if node_id is None else {str(node_id): self.outputs[str(node_id)]}
        values = [value for ui in nodes.values() for entries in ui.values() for value in entries]
        saved = [value for value in values if isinstance(value, dict) and "filename" in value]
        return [self.folders[file["type"]] / file.get("subfolder", "") / file["filename"] for file in saved]


class ComfyServer:
    """ComfyUI with the pack in its `custom_nodes`, from entering the context to leaving it.

    Args:
        base: folder for models, input, output and user settings; made when missing.
        pack: folder of the pack, linked (copied where links are not allowed) as `custom_nodes/motioncache`; None for a
            bare ComfyUI.
        environment: where Python and ComfyUI lie; by default what `environment.located()` finds.
        port: 0 takes a free one.
        cpu: keep ComfyUI off the GPU.
        settings: front-end settings beside, or instead of, `USER_SETTINGS`.
        output: where saved files go; by default `output` under `base`.
        arguments: more of ComfyUI's command line.
        wait: seconds to wait for the first answer; ten are usual, a crowded machine takes minutes.
    """

    def __init__(
        self,
        base: Path,
        pack: Path | None = REPO,
        *,
        environment: Environment | None = None,
        port: int = 0,
        cpu: bool = True,
        settings: dict[str, Any] | None = None,
        output: Path | None = None,
        arguments: tuple[str, ...] = (),
        wait: float = 400.0,
    ):
        self.base = Path(base).resolve()
        self.pack = Path(pack).resolve() if pack else None
        self.environment = environment or located()
        self.port = port or _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.client_id = uuid.uuid4().hex
        self.log_file = self.base / "comfyui.log"
        self.folders = {name: self.base / name for name in ("output", "temp", "input")}
        if output is not None:
            self.folders["output"] = Path(output).resolve()
        self._cpu, self._arguments, self._wait = cpu, arguments, wait
        self._settings = {**USER_SETTINGS, **(settings or {})}
        # Straight to the loopback address, whatever proxy the machine is set to use.
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._process: subprocess.Popen | None = None
        self._socket: websocket.WebSocket | None = None
        self._heard = threading.Condition()
        self._messages: list[dict[str, Any]] = []
        self._previews: list[tuple[dict[str, Any], bytes]] = []
        self._begun: dict[str, tuple[int, int, float]] = {}

    # Life

    def __enter__(self) -> ComfyServer:
        self.prepare()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server; harmless when it is not running."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.stdin.close()  # the launcher ends when it reads the end of its input
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def leave(self) -> None:
        """Close this client's websocket, so that nobody listens; `run` and `wait` work no more."""
        self._socket.close()
        self._socket = None

    def prepare(self) -> None:
        """Make the folders, the settings and the link to the pack."""
        self.folders["output"].mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        settings = json.dumps(self._settings, indent=1)
        (self.base / "user/default/comfy.settings.json").write_text(settings, encoding="utf-8")
        place = self.base / "custom_nodes" / "motioncache"
        # One left by an earlier run may be of another checkout.
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        if self.pack is None:
            return
        try:
            place.symlink_to(self.pack, target_is_directory=True)
        except OSError:
            shutil.copytree(self.pack, place, ignore=shutil.ignore_patterns(".git", "__pycache__", "tests"))

    def command(self) -> list[str]:
        """The command line of the server, which ends when its standard input does."""
        command = [str(self.environment.python), str(HERE / "launcher.py"), str(self.environment.comfyui)]
        command += ["--output-directory", str(self.folders["output"])]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--preview-method", "auto"]
        return command + (["--cpu"] if self._cpu else []) + list(self._arguments)

    def _start(self) -> None:
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **OFFLINE}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=self.base,
            )
        deadline = time.monotonic() + self._wait
        while True:
            try:
                self._get("/system_stats")
                break
            except (ComfyError, OSError):
                self._check_alive()
                if time.monotonic() > deadline:
                    raise ComfyError(f"ComfyUI did not answer within {self._wait:.0f} s\n{self.log(4000)}") from None
                time.sleep(0.2)
        self._socket = websocket.create_connection(f"ws://{self.address}/ws?clientId={self.client_id}", timeout=30)
        self._socket.settimeout(None)
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self._socket.send(json.dumps(flags))
        threading.Thread(target=self._listen, args=(self._socket,), daemon=True).start()

    def _listen(self, connection: websocket.WebSocket) -> None:
        while True:
            try:
                received = connection.recv()
            except (websocket.WebSocketException, OSError):
                received = ""
            with self._heard:
                self._heard.notify_all()
                if not received:
                    return
                if isinstance(received, str):
                    self._messages.append(json.loads(received))
                elif (preview := _preview(received)) is not None:
                    self._previews.append(preview)

    def _check_alive(self) -> None:
        if self._process is None:
            raise ComfyError("the server is not running: use `with ComfyServer(...) as comfy`")
        if self._process.poll() is not None:
            raise ComfyError(f"ComfyUI ended with exit code {self._process.returncode}\n{self.log(4000)}")

    # Asking it things

    def log(self, last: int | None = None) -> str:
        """What the server wrote, or its `last` characters."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""
        return text if last is None else text[-last:]

    def version(self) -> str:
        """The running ComfyUI's version, such as `0.3.75`."""
        return self._get("/system_stats")["system"]["comfyui_version"]

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The nodes' schemas as the front end gets them: all, or `{node: ...}` (empty when there is no such node)."""
        return self._get("/object_info" + (f"/{node}" if node else ""))

    def convert(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """An API prompt from a saved workflow (see `workflow.to_api_prompt`)."""
        return to_api_prompt(workflow, self.object_info())

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue an API prompt and return its id.

        Raises:
            PromptRefusedError: ComfyUI finds the graph, or one of its outputs, invalid.
        """
        with self._heard:
            begun = len(self._messages), len(self._previews), time.monotonic()
        answer = self._post("/prompt", {"prompt": prompt, "client_id": self.client_id})
        # A graph with one good output is queued even if another is not; here that is an error.
        if answer["node_errors"]:
            raise _refusal("some outputs are invalid", answer["node_errors"])
        self._begun[answer["prompt_id"]] = begun
        return answer["prompt_id"]

    def run(self, prompt: dict[str, Any], timeout: float = 300.0) -> Run:
        """Queue an API prompt, wait for its end and return what came of it. Raises what `queue` and `wait` raise."""
        return self.wait(self.queue(prompt), timeout)

    def wait(self, prompt_id: str, timeout: float = 300.0) -> Run:
        """Wait for the end of a prompt that `queue` queued.

        Raises:
            PromptFailedError, PromptInterruptedError: with the node's own words.
            ComfyError: the server died, or `timeout` seconds passed since queueing (the prompt is then interrupted).
        """
        first, first_preview, started = self._begun.pop(prompt_id)
        with self._heard:
            while not any(_ends(message, prompt_id) for message in self._messages[first:]):
                self._check_alive()
                if time.monotonic() - started > timeout:
                    self.interrupt()
                    raise ComfyError(f"the prompt took more than {timeout:.0f} s\n{self.log(4000)}")
                self._heard.wait(timeout=0.5)
            messages, previews = self._messages[first:], self._previews[first_preview:]
        seconds = time.monotonic() - started
        for message in messages:
            if message["data"].get("prompt_id") != prompt_id:
                continue
            if message["type"] == "execution_error":
                raise PromptFailedError(message["data"], self.log(2000))
            if message["type"] == "execution_interrupted":
                raise PromptInterruptedError(f"node {message['data'].get('node_id')} was interrupted")
        history = self._get(f"/history/{prompt_id}")[prompt_id]
        return Run(prompt_id, history, messages, previews, seconds, self.folders)

    def messages(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All websocket messages so far, or those of one type; useful while a queued prompt is still running."""
        with self._heard:
            return [message for message in self._messages if kind in (None, message["type"])]

    def interrupt(self) -> None:
        """Ask the running prompt to stop."""
        self._post("/interrupt", {})

    def free(self) -> None:
        """Unload models and forget cached outputs, so that every node runs again."""
        self._post("/free", {"unload_models": True, "free_memory": True})
        # The worker does it between two prompts, and may not be woken up for it: give it one.
        image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
        shown = {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}}
        self.run({"image": image, "shown": shown})

    def _get(self, route: str) -> Any:
        return self._ask(urllib.request.Request(self.url + route))

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        return self._ask(urllib.request.Request(self.url + route, data, {"Content-Type": "application/json"}))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with self._http.open(request, timeout=60) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            content = error.read().decode(errors="replace")
            if error.code == 400 and request.selector == "/prompt":
                refused = json.loads(content)
                words = f"{refused['error']['message']} {refused['error'].get('details', '')}".strip()
                raise _refusal(words, refused["node_errors"]) from None
            raise ComfyError(f"{request.selector} answered {error.code}: {content[:500]}") from None
        return json.loads(content) if content.strip() else None


def _ends(message: dict[str, Any], prompt_id: str) -> bool:
    data = message["data"]
    return message["type"] == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id


def _preview(received: bytes) -> tuple[dict[str, Any], bytes] | None:
    (kind,) = struct.unpack(">I", received[:4])
    if kind == PREVIEW:
        return {}, received[8:]
    if kind == PREVIEW_WITH_METADATA:
        (length,) = struct.unpack(">I", received[4:8])
        return json.loads(received[8 : 8 + length]), received[8 + length :]
    return None


def _refusal(words: str, node_errors: dict[str, Any]) -> PromptRefusedError:
    lines = [
        f"node {node_id} ({entry['class_type']}): {error['message']} {error['details']}"
        for node_id, entry in node_errors.items()
        for error in entry["errors"]
    ]
    return PromptRefusedError("\n".join([words, *lines]), node_errors)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
