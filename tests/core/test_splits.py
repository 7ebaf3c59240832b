"""Splits: every case once, no group divided, balanced, the same whatever the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_stroke.core.splits import Item, Split, from_table, make_splits
from bids_stroke.errors import UsageError


def _items(groups: list[list[float]]) -> list[Item]:
    return [
        Item(case=f"sub-{g}_ses-{i}", participant=f"sub-{g}", group=f"g{g}", volume_ml=volume)
        for g, volumes in enumerate(groups)
        for i, volume in enumerate(volumes)
    ]


COHORTS = st.lists(
    st.lists(st.floats(0, 300, allow_nan=False), min_size=1, max_size=4), min_size=5, max_size=25
)


@settings(max_examples=60, deadline=None)
@given(COHORTS, st.integers(2, 5), st.integers(0, 9))
def test_each_case_is_validated_once_and_groups_stay_whole(groups, count, seed):
    items = _items(groups)
    splits = make_splits(items, count, seed)
    everything = sorted(item.case for item in items)
    assert sorted(case for split in splits for case in split.val) == everything
    group = {item.case: item.group for item in items}
    for split in splits:
        assert split.train and split.val
        assert sorted(split.train + split.val) == everything
        assert not {group[c] for c in split.train} & {group[c] for c in split.val}


@settings(max_examples=40, deadline=None)
@given(COHORTS, st.integers(2, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(groups, count, random):
    items = _items(groups)
    shuffled = random.sample(items, len(items))
    assert make_splits(items, count, 3) == make_splits(shuffled, count, 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 300), min_size=5, max_size=40), st.integers(2, 5))
def test_folds_of_single_cases_are_of_one_size_and_share_the_volume(volumes, count):
    splits = make_splits(_items([[v] for v in volumes]), count, 1)
    sizes = [len(split.val) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    named = {f"sub-{i}_ses-0": v for i, v in enumerate(volumes)}
    sums = [sum(named[c] for c in split.val) for split in splits]
    assert max(sums) - min(sums) <= max(volumes) + 1e-9


def test_balance_beats_chance():
    volumes = np.random.default_rng(0).lognormal(1.5, 1.5, 60)
    splits = make_splits(_items([[v] for v in volumes]), 5, 1)
    sums = [sum(volumes[int(c[4:].split("_")[0])] for c in split.val) for split in splits]
    chance = np.random.default_rng(1).permutation(volumes).reshape(5, 12).sum(axis=1)
    assert np.std(sums) < np.std(chance) / 3


def test_too_few_groups_are_refused():
    with pytest.raises(UsageError, match=r"2 groups can't make 3 folds"):
        make_splits(_items([[1], [2]]), 3, 1)


def test_a_users_splits_may_name_participants():
    items = _items([[1, 2], [3], [4]])
    splits = from_table([{"train": ["sub-0"], "val": ["sub-1_ses-0"]}], items)
    assert splits == [Split(train=("sub-0_ses-0", "sub-0_ses-1"), val=("sub-1_ses-0",))]


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"train": ["sub-9"], "val": ["sub-1"]}, "names 'sub-9'"),
        ({"train": [], "val": ["sub-1"]}, "no case in 'train'"),
        ({"train": "sub-1", "val": ["sub-1"]}, "'train' of fold 0 of the splits must be a list"),
        ({"train": ["sub-0"], "val": [["sub-1"]]}, "'val' of fold 0 of the splits must be a list"),
        ({"train": ["sub-0_ses-0"], "val": ["sub-0_ses-1"]}, "sub-0 in 'train' and in 'val'"),
    ],
)
def test_wrong_splits_of_a_user_are_refused(fold, message):
    with pytest.raises(UsageError, match=message):
        from_table([fold], _items([[1, 2], [3]]))
