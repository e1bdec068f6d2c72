"""The loop of `top`: keys change the view, answers change what there is to see, and both are drawn."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live

from qorzen_obs.cli.top.drawing import body_height, draw, list_height
from qorzen_obs.cli.top.poll import Poller, Watched
from qorzen_obs.cli.top.scene import Scene, Size
from qorzen_obs.cli.top.terminal import Terminal
from qorzen_obs.cli.top.view import Command, CommandKind, Shown, View, rows_of
from qorzen_obs.client import Client, ClientError

#: Redraw this often without news: the line that says how long the service has not answered changes.
_REDRAW_SECONDS = 1.0


def run_top(client: Client, interval_seconds: float, console: Console) -> None:
    """Show a service until somebody has seen enough.

    Raises:
        ClientError: the first question was refused or not answered. Later ones are asked again.
    """
    view = View()
    with (
        Terminal() as terminal,
        Poller(client, interval_seconds, terminal.wake) as poller,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            if poller.fault is not None:
                raise poller.fault
            if poller.snapshot is None and poller.trouble is not None:
                raise ClientError(poller.trouble.message)
            view.notice = poller.take_notice() or view.notice
            scene = _scene(client, view, poller, console)
            live.update(draw(scene), refresh=True)
            poller.watch(_watched(scene))
            keys = terminal.keys(_REDRAW_SECONDS)
            if keys is None:
                return
            for key in keys:
                command = view.press(key, _shown(scene))
                if command is not None and command.kind is CommandKind.QUIT:
                    return
                if command is not None:
                    _do(command, poller, view)
                scene = _scene(client, view, poller, console)


def _do(command: Command, poller: Poller, view: View) -> None:
    view.notice = "asked ..." if poller.do(command) else "the service has not answered the commands before"


def _scene(client: Client, view: View, poller: Poller, console: Console) -> Scene:
    snapshot = poller.snapshot
    rows = []
    if snapshot is not None and snapshot.listing is view.listing:
        rows = rows_of(
            view,
            snapshot.page.items,
            snapshot.page.at,
            busy=snapshot.busy,
            places=snapshot.places,
            names=snapshot.names,
        )
    scene = Scene(
        url=client.url,
        view=view,
        size=Size(console.width, console.height),
        now=datetime.now(UTC),
        monotonic=time.monotonic(),
        rows=rows,
        snapshot=snapshot,
        trouble=poller.trouble,
    )
    view.keep_selection(rows, list_height(scene))
    return scene


def _shown(scene: Scene) -> Shown:
    opened = scene.snapshot.opened if scene.snapshot is not None else None
    if scene.view.opened is None:
        return Shown(scene.rows, list_height(scene))
    is_this = opened is not None and opened.task.task_id == scene.view.opened
    return Shown(scene.rows, body_height(scene) - 1, opened.task if opened is not None and is_this else None)


def _watched(scene: Scene) -> Watched:
    view = scene.view
    visible = [row.task.task_id for row in scene.rows[view.offset : view.offset + list_height(scene)]]
    visible.sort(key=lambda task_id: task_id != view.selected)
    return Watched(view.listing, view.filter, tuple(visible), view.opened, view.tab, view.paused)
