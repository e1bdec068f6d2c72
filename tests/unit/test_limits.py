"""Three limits at once: in all, by category and by engine."""

from hypothesis import given
from hypothesis import strategies as st

from qorzen_obs.definition_limit import DefinitionLimit
from qorzen_obs.scheduling.limits import Limits
from qorzen_obs.tasks import TaskCategory

IO, USER = TaskCategory.IO, TaskCategory.USER
LOOP, THREAD = "loop", "thread"


def test_a_slot_is_there_while_all_three_limits_have_room() -> None:
    limits = Limits(3, categories={IO: 1}, engines={THREAD: 2})
    assert limits.admits(IO, THREAD)
    limits.take(IO, THREAD)
    assert not limits.admits(IO, LOOP), "its category is full"
    assert limits.admits(USER, THREAD)
    limits.take(USER, THREAD)
    assert not limits.admits(USER, THREAD), "its engine is full"
    assert limits.admits(USER, LOOP)
    limits.take(USER, LOOP)
    assert limits.full
    assert not limits.admits(USER, LOOP), "all is full"
    limits.give_back(IO, THREAD)
    assert limits.admits(IO, THREAD)


def test_a_limit_lowered_below_what_is_held_admits_nothing_until_it_has_drained() -> None:
    limits = Limits(3)
    for _ in range(3):
        limits.take(IO, LOOP)
    limits.total = 1
    for _ in range(2):
        limits.give_back(IO, LOOP)
        assert not limits.admits(IO, LOOP)
    limits.give_back(IO, LOOP)
    assert limits.admits(IO, LOOP)


kinds = st.tuples(st.sampled_from([IO, USER]), st.sampled_from([LOOP, THREAD]))


@given(
    st.lists(st.tuples(kinds, st.booleans(), st.booleans()), max_size=50),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from([IO, USER]), st.integers(1, 5)),
    st.dictionaries(st.sampled_from([LOOP, THREAD]), st.integers(1, 5)),
    st.integers(1, 4),
)
def test_a_slot_is_taken_exactly_where_it_is_admitted(
    asked: list[tuple[tuple[TaskCategory, str], bool, bool]],
    total: int,
    categories: dict[TaskCategory, int],
    engines: dict[str, int],
    maximum: int,
) -> None:
    """`try_take` looks only at the limits that are set; `admits` and `take` look at all."""
    trying, asking = (Limits(total, categories=categories, engines=engines) for _ in range(2))
    crowds = [DefinitionLimit("crowd", maximum) for _ in range(2)]
    held: list[tuple[TaskCategory, str, bool]] = []
    for (category, engine), limited, gives_back in asked:
        tried, own = crowds if limited else (None, None)
        admitted = asking.admits(category, engine, own)
        assert trying.try_take(category, engine, tried) is admitted
        if admitted:
            asking.take(category, engine, own)
            held.append((category, engine, limited))
        if gives_back and held:
            oldest, its_engine, was_limited = held.pop(0)
            for limits, crowd in zip((trying, asking), crowds, strict=True):
                limits.give_back(oldest, its_engine, crowd if was_limited else None)
        assert vars(trying) == vars(asking)
        assert crowds[0].held == crowds[1].held


@given(
    st.lists(kinds, max_size=50),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from([IO, USER]), st.integers(1, 5)),
    st.dictionaries(st.sampled_from([LOOP, THREAD]), st.integers(1, 5)),
)
def test_whoever_asks_before_taking_never_passes_a_limit(
    asked: list[tuple[TaskCategory, str]],
    total: int,
    categories: dict[TaskCategory, int],
    engines: dict[str, int],
) -> None:
    limits = Limits(total, categories=categories, engines=engines)
    held: list[tuple[TaskCategory, str]] = []
    for number, (category, engine) in enumerate(asked):
        room = (
            len(held) < total
            and [c for c, _ in held].count(category) < categories.get(category, total)
            and [e for _, e in held].count(engine) < engines.get(engine, total)
        )
        assert limits.admits(category, engine) is room
        if room:
            limits.take(category, engine)
            held.append((category, engine))
        elif held and number % 3 == 0:
            limits.give_back(*held.pop(0))
        assert limits.held == len(held)
