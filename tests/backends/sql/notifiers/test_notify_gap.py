"""The pause between notifications of a process, in virtual time: short while they are few, long under load."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.backends.sql.postgresql_notifier import BURST, BUSY, LONG, SHORT, Gap

EXACT = 1e-9


def simulate(wishes: Sequence[float], sending: float = 0.0) -> list[float]:
    """Return when notifications are sent for wishes at these times, each of which takes so long to send."""
    gap = Gap()
    sent: list[float] = []
    free, left = 0.0, list(wishes)
    while left:
        now = max(left[0], free)
        while left and left[0] <= now:
            gap.note(1)
            del left[0]
        due = now + max(0.0, gap.delay(now))
        while left and left[0] <= due:
            gap.note(1)
            del left[0]
        gap.sent(due)
        sent.append(due)
        free = due + sending
    return sent


def times(pauses: Sequence[float]) -> list[float]:
    """Return times with these pauses between them."""
    now, made = 1_000.0, []
    for pause in pauses:
        now += pause
        made.append(now)
    return made


def paces(least: float, most: float, length: int = 300) -> st.SearchStrategy[list[float]]:
    """Times with pauses between these two."""
    return st.lists(st.floats(least, most), min_size=1, max_size=length).map(times)


any_pace = st.one_of(
    paces(0.0, 0.001), paces(0.0, 0.02), paces(0.0, 1.0), st.lists(st.sampled_from([0.0, 0.001, 0.3])).map(times)
)


@given(any_pace, st.sampled_from([0.0, 0.001, 0.02]))
def test_every_note_is_followed_by_a_notification(wishes: list[float], sending: float) -> None:
    sent = simulate(wishes, sending)
    for wish in wishes:
        after = min(moment for moment in sent if moment >= wish)
        assert after - wish <= LONG + sending + EXACT


@given(any_pace)
def test_notifications_are_never_more_than_a_burst_and_the_short_gap_allow(wishes: list[float]) -> None:
    sent = simulate(wishes)
    for first, begin in enumerate(sent):
        for last, end in enumerate(sent[first:], 1):
            assert last <= BURST + (end - begin + EXACT) / SHORT


@given(paces(1.5 / BUSY / 10, 0.8 / BUSY, length=600))
def test_under_load_one_notification_goes_out_in_each_long_gap(wishes: list[float]) -> None:
    sent = simulate(wishes)
    assert len(sent) <= 2 * BURST + (wishes[-1] - wishes[0]) / LONG


@given(paces(SHORT, 0.1))
def test_without_load_each_note_is_sent_at_once(wishes: list[float]) -> None:
    assert simulate(wishes) == wishes


def test_a_burst_is_sent_at_once_when_its_gaps_have_passed() -> None:
    burst = [0.001] * BURST
    wishes = times([*burst, BURST * SHORT, *burst[1:]])
    assert simulate(wishes) == wishes
    late = times([*burst, 0.001])
    assert simulate(late)[:BURST] == late[:BURST]
    assert simulate(late)[BURST] > late[BURST]


def test_the_gap_is_short_again_after_the_load() -> None:
    load = times([0.5 / BUSY] * 1_000)
    calm = [load[-1] + 2 * (LONG + SHORT * number) for number in range(1, 20)]
    assert simulate([*load, *calm])[-len(calm) :] == calm


def test_a_note_of_many_tasks_is_load() -> None:
    gap = Gap()
    gap.note(1)
    gap.sent(1_000.0)
    gap.note(round(BUSY))
    gap.sent(1_000.5)
    assert abs(gap.delay(1_000.5) - LONG) < EXACT
