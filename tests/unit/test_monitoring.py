"""What a service is watched with, as an installation has it: the output of the builders, for a site of one's own."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from dashboards import catalogue, rules, runbooks
from qorzen_obs import monitoring
from qorzen_obs.cli import cli
from qorzen_obs.monitoring import Site

MINE = Site("shop/web:1", "https://g.example.org/grafana", "https://tasks.example.org/ops/runbooks?v=1,2")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_dashboards_are_those_that_the_builders_make() -> None:
    assert monitoring.dashboards() == catalogue.files()


@pytest.mark.parametrize("site", [Site(), MINE], ids=["default", "mine"])
def test_the_rules_of_a_site_are_those_that_the_builders_make_for_it(site: Site) -> None:
    assert monitoring.rules(site) == rules.text(site)


def test_the_dashboards_are_written_to_a_new_directory_and_over_old_ones(tmp_path: Path) -> None:
    folder = tmp_path / "provisioned" / "dashboards"
    for _ in range(2):
        written = run("dashboards", "--out", str(folder)).split()
        assert written == [str(folder / name) for name in monitoring.DASHBOARDS]
        assert {file.name: file.read_text("utf-8") for file in folder.iterdir()} == catalogue.files()
        (folder / monitoring.DASHBOARDS[0]).write_text("old")


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, ["dashboards", "--out", str(tmp_path / "file")])
    assert done.exit_code == 1
    assert f"Error: --out '{tmp_path}/file': " in done.stderr


def test_a_site_s_own_names_and_addresses_go_into_the_rules_that_are_written() -> None:
    text = run("rules", "--job", MINE.job, "--grafana", f"{MINE.grafana}/", "--runbooks", MINE.runbooks)
    assert text == monitoring.rules(MINE)
    assert "localhost" not in text
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                annotations = rule["annotations"]
                assert annotations["runbook_url"] == f"{MINE.runbooks}#{rule['alert'].lower()}"
                assert annotations["dashboard_url"].startswith(f"{MINE.grafana}/d/qorzen-")
    assert set(re.findall(r'up\{job="(.*?)"\}', text)) == {MINE.job}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--job", "", "the job ''"),
        ("--job", 'a"b', "may have ASCII letters"),
        ("--job", "a b", "may have ASCII letters"),
        ("--job", "a\n", "may have ASCII letters"),
        ("--grafana", "g.example.org", "the address of Grafana 'g.example.org' must start with http://"),
        ("--runbooks", "docs/runbooks.md", "the address of the runbooks"),
        ("--runbooks", "https://r/#top", "no fragment"),
        ("--runbooks", "https://r/{{ $labels.instance }}", "no spaces"),
        ("--runbooks", "https://r/'", "no quotes"),
        ("--runbooks", "https://r/\n", "no spaces"),
    ],
)
def test_what_would_not_stand_in_the_rules_as_given_is_refused(option: str, value: str, message: str) -> None:
    done = CliRunner().invoke(cli, ["rules", option, value])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in done.stderr


# ---------------------------------------------------------------- the runbooks


class Page(HTMLParser):
    """What stands in the page: its ids, what it links to, its text, and its kinds of tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_made_of_the_committed_runbooks() -> None:
    assert monitoring.runbooks() == runbooks.page(runbooks.SOURCE.read_text("utf-8")), "run: make dashboards"
    assert run("runbooks") == monitoring.runbooks()


def test_the_fragment_of_each_alert_is_a_section_of_the_page_and_so_is_each_link() -> None:
    page = Page(monitoring.runbooks())
    alerts = {
        alert.rule(Site())["annotations"]["runbook_url"].partition("#")[2] for alert in rules.alerts(Site())
    }
    assert alerts <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    within = {link for link in page.links if not link.startswith("https://")}
    assert within == {f"#{alert}" for alert in alerts}


def test_the_page_has_every_word_and_none_of_the_marks_and_needs_nothing_else() -> None:
    text = re.sub(r"\*\*|[*`]|^#+ ", "", runbooks.SOURCE.read_text("utf-8"), flags=re.MULTILINE)
    page = Page(monitoring.runbooks())
    assert not page.tags & {"script", "link", "img", "iframe", "form"}
    assert sorted(set(text.split()) - set(page.text.replace("*", "").split())) == []


def test_markup_in_the_runbooks_is_text() -> None:
    page = runbooks.page("# A & B\n\nintro\n\n## X\n\n<script>alert(1)</script>\n")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<title>A &amp; B</title>" in page
