"""Many tasks at once in a real browser: by definition, by failure, below one of them, and those of a category."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from qorzen_obs import current_task, task
from qorzen_obs.settings import ServerSettings
from qorzen_obs.tasks import TaskCategory, TaskStatus
from tests.integration.page.tasks import PAYLOAD
from tests.services.browser import visit
from tests.services.ops_plane import managing, serving
from tests.support import Gate, until

pytestmark = pytest.mark.slow

READER = "may-read-and-no-more"


@task(name="mail.send")
async def send(message: str = "no such host", *_: object) -> None:
    raise ConnectionError(message)


async def parent(gate: Gate) -> None:
    """Have two children."""
    for _ in range(2):
        await current_task().manager.submit_task(gate, name="child")
    await gate()


async def test_a_group_of_failures_is_run_again_after_its_count_was_shown(browser: Browser) -> None:
    async with managing(keep_value_bytes=10_000) as (manager, _), serving(manager) as plane:
        failed = [await manager.submit_task(send, PAYLOAD) for _ in range(3)]
        failed.append(await manager.submit_task(send, "large", b"x" * 20_000))
        for task_id in failed:
            await manager.wait_for_task(task_id)
        seen = await visit(browser, f"{plane.url}/#/failures")
        page = seen.page
        row = page.locator("#failures tbody tr")
        await expect(row).to_contain_text("mail.send")
        await expect(row).to_contain_text("ConnectionError")
        await row.get_by_role("button", name="Run 3 again").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Run 3 tasks again?")
        await expect(dialog).to_contain_text("1 task left out: its arguments were not kept")
        assert manager.status()["tasks"]["total"] == 4
        await dialog.get_by_role("button", name="Leave them").click()
        assert manager.status()["tasks"]["total"] == 4
        await row.get_by_role("button", name="Run 3 again").click()
        await dialog.get_by_role("button", name="Run them again").click()
        await expect(row).to_contain_text("3 tasks run again. 1 task left out")
        assert manager.status()["tasks"]["total"] == 7
        await expect(row.locator("td").nth(1)).to_have_text("7")
        await row.get_by_role("link", name="mail.send").click()
        await expect(page.locator("#shown")).to_have_text("7")
        assert seen.complaints == []
        await page.close()


async def test_each_definition_is_shown_with_its_figures_and_what_runs_of_it_is_cancelled(
    browser: Browser,
) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.wait_for_task(await manager.submit_task(send))
        root = await manager.submit_task(parent, gate)
        await gate.holds(3)
        seen = await visit(browser, f"{plane.url}/#/definitions", width=1440)
        page = seen.page
        row = page.locator("#definitions tbody tr", has_text="mail.send")
        await expect(row.locator("td").nth(3)).to_have_text("1")  # has ended
        await expect(row.locator("td").nth(5)).to_have_text("1")  # has failed
        await expect(row).to_contain_text("100 %")
        await page.get_by_role("button", name="Running").click()
        first = page.locator("#definitions tbody tr").first
        await expect(first).to_contain_text("Gate")
        await expect(page.locator('#definitions th[aria-sort="descending"]')).to_contain_text("Running")
        await first.get_by_role("button", name="Cancel 2").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel them").click()
        await until(lambda: manager.status()["tasks"]["by_status"]["cancelled"] == 2)
        await row.get_by_role("link", name="mail.send").click()
        await expect(page.locator("#shown")).to_have_text("1")
        assert manager.find(root) is not None
        assert seen.complaints == []
        gate.open()
        await page.close()


async def test_a_task_leads_to_its_parent_and_its_children_which_are_cancelled_together(
    browser: Browser,
) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        root = await manager.submit_task(parent, gate)
        await gate.holds(3)
        seen = await visit(browser, f"{plane.url}/#/tasks/{root}")
        page, family = seen.page, seen.page.locator("#family")
        await expect(family).to_contain_text("2 running")
        await family.get_by_role("link", name="2 tasks").last.click()
        await expect(page.locator("#shown")).to_have_text("2")
        await page.locator(".tasks-list tbody a").first.click()
        await family.get_by_role("link", name="parent").click()
        await family.get_by_role("button", name="Cancel all below (2)").click()
        await (
            page.get_by_role("dialog", name="Cancel all below")
            .get_by_role("button", name="Cancel them")
            .click()
        )
        await expect(family).to_contain_text("2 cancelled")
        info = manager.find(root)
        assert info is not None
        assert info.status is TaskStatus.RUNNING
        await expect(family.get_by_role("button")).to_have_count(0)
        assert seen.complaints == []
        gate.open()
        await page.close()


async def test_run_again_is_offered_where_it_can_work_and_else_the_page_says_why_not(
    browser: Browser,
) -> None:
    async with managing(keep_value_bytes=10_000) as (manager, _), serving(manager) as plane:
        failed, large = [await manager.submit_task(send, "gone", size) for size in (b"", b"x" * 20_000)]
        for task_id in (failed, large):
            await manager.wait_for_task(task_id)
        seen = await visit(browser, f"{plane.url}/#/tasks/{large}")
        page, again = seen.page, seen.page.get_by_role("button", name="Run again")
        await expect(page.locator("#task")).to_contain_text("its arguments were not kept")
        await expect(again).to_have_count(0)
        await page.goto(f"{plane.url}/#/tasks/{failed}")
        await again.click()
        await expect(page.locator("#task")).to_contain_text(f"rerun of{failed}")
        await page.get_by_role("link", name=failed).click()
        await expect(page.locator("#task")).to_contain_text("run again as")
        assert seen.complaints == []
        await page.close()


async def test_a_category_is_paused_and_resumed_beside_its_queue(browser: Browser) -> None:
    gate = Gate()
    async with managing() as (manager, _), serving(manager) as plane:
        seen = await visit(browser, plane.url)
        page = seen.page
        row = page.locator("#queues tr", has_text="background")
        await page.get_by_role("button", name="Pause background").click()
        await expect(row).to_contain_text("paused")
        assert manager.paused == {TaskCategory.BACKGROUND}
        task_id = await manager.submit_task(gate, category="background")
        await expect(row.locator("td").nth(1)).to_have_text("1")
        await page.get_by_role("button", name="Resume background").click()
        await expect(row).not_to_contain_text("paused")
        await gate.holds(1)
        gate.open()
        assert (await manager.wait_for_task(task_id)).status is TaskStatus.COMPLETED
        assert seen.complaints == []
        await page.close()


async def test_who_may_only_read_sees_the_groups_and_no_commands(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.touch(mode=0o600)
    file.write_text(f"{READER} read\n", encoding="utf-8")
    settings = ServerSettings(port=0, token_file=str(file))
    gate = Gate()
    async with managing() as (manager, _), serving(manager, settings=settings) as plane:
        await manager.wait_for_task(await manager.submit_task(send))
        root = await manager.submit_task(parent, gate)
        await gate.holds(3)
        page = (await visit(browser, f"{plane.url}/#/failures")).page
        await page.get_by_label("Token").fill(READER)
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#failures tbody")).to_contain_text("mail.send")
        await expect(page.locator(".bulk")).to_have_count(0)
        for view, shown in (
            ("definitions", "#definitions tbody"),
            ("now", "#queues"),
            (f"tasks/{root}", "#family"),
        ):
            await page.evaluate(f"location.hash = '#/{view}'")
            await expect(page.locator(shown)).to_be_visible()
            await expect(page.locator(".bulk")).to_have_count(0)
            await expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        gate.open()
        await page.close()


@pytest.mark.parametrize("width", [375, 768, 1024, 1440])
@pytest.mark.parametrize("view", ["definitions", "failures"])
async def test_groups_fit_every_width_and_their_names_can_be_read(
    browser: Browser, view: str, width: int
) -> None:
    async with managing() as (manager, _), serving(manager) as plane:
        await manager.wait_for_task(await manager.submit_task(send, "x" * 300))
        seen = await visit(browser, f"{plane.url}/#/{view}", width=width)
        name = seen.page.locator(f"#{view} tbody .task-name")
        await expect(name).to_be_visible()
        assert await seen.page.evaluate("document.documentElement.scrollWidth") <= width
        box = await name.bounding_box()
        assert box is not None
        cell = await name.locator("xpath=..").bounding_box()
        assert cell is not None
        assert box["x"] + box["width"] <= cell["x"] + cell["width"]
        assert box["height"] < 30, "on one line"
        await seen.page.close()
