"""Three deaths within the window, and not one sooner."""

from qorzen_obs.engines.processes.quarantine import Quarantine


def test_the_third_death_within_the_window_begins_it_and_a_window_later_it_ends() -> None:
    quarantine = Quarantine(600)
    assert not quarantine.record("bad", 0)
    assert not quarantine.record("bad", 100)
    assert quarantine.seconds_left("bad", 150) == 0
    assert quarantine.record("bad", 200)
    assert quarantine.seconds_left("bad", 200) == 600
    assert quarantine.names(500) == {"bad": 300}
    assert quarantine.seconds_left("bad", 801) == 0


def test_deaths_further_apart_than_the_window_do_not_add_up() -> None:
    quarantine = Quarantine(600)
    assert not any(quarantine.record("rare", at) for at in (0, 400, 800, 1200))


def test_each_name_stands_for_itself() -> None:
    quarantine = Quarantine(600)
    for name in ("a", "b", "c"):
        assert not quarantine.record(name, 0)


def test_no_more_than_a_thousand_names_are_remembered() -> None:
    quarantine = Quarantine(600)
    for number in range(5_000):
        quarantine.record(f"name {number}", 0)
    assert len(quarantine._deaths) == 1_000
