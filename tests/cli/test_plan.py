"""In which parts a plan is run, and what tells of all of it."""

from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from bids_stroke.bids.pairs import Pair, Selection
from bids_stroke.cli import plan as module
from bids_stroke.cli.plan import Plan


def pair(subject: str, session: str, *modalities: str) -> Pair:
    images = {m.lower(): Path(f"sub-{subject}_ses-{session}_{m}.nii.gz") for m in modalities}
    return Pair(
        subject=subject,
        session=session,
        entities={"subject": subject, "session": session},
        **images,
    )


def plan_of(*pairs: Pair) -> Plan:
    model = SimpleNamespace(name="tiny")
    models = {one.label: (model, "") for one in pairs}
    return Plan(Selection(pairs=pairs, unused={}), models, {})  # type: ignore[arg-type]


@given(counts=st.lists(st.integers(1, 60), max_size=40), workers=st.integers(1, 16))
def test_parts_hold_whole_participants_and_nobody_twice(counts: list[int], workers: int) -> None:
    sessions = [(f"{n:02d}", f"{s:02d}") for n, count in enumerate(counts) for s in range(count)]
    plan = plan_of(*(pair(subject, session, "T1w") for subject, session in sessions))
    parts = list(plan.parts(workers))
    assert [one for part in parts for one in part.pairs] == plan.pairs
    assert sum(len(part.participants) for part in parts) == len(plan.participants)
    least = max(module.LEAST_PART, module.PAIRS_PER_WORKER * workers)
    assert all(len(part.pairs) >= least for part in parts[:-1])
    assert all(len(part.pairs) < least + 60 for part in parts)


def test_examples_are_one_pair_of_each_kind() -> None:
    both, alone = ("T1w", "FLAIR"), ("FLAIR",)
    plan = plan_of(*(pair(f"{n}", "a", *(alone if n == 7 else both)) for n in range(9)))
    assert [one.label for one in plan.examples().pairs] == ["sub-0_ses-a", "sub-7_ses-a"]


def test_the_plan_of_some() -> None:
    plan = plan_of(pair("01", "a", "T1w"), pair("01", "b", "T1w"), pair("02", "a", "T1w"))
    assert plan.of({"sub-01"}).participants == ["sub-01"]
    assert len(plan.of({"sub-01"}).pairs) == 2
