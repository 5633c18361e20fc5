"""The account: read = used + set aside, whatever happens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlab.data.account import Account
from rmlab.data.source import SetAside


def example() -> Account:
    account = Account()
    for reason, where in (("empty", "a:2"), ("malformed", "a:4"), ("malformed", "b:1")):
        account.add_set_aside(SetAside(reason=reason, where=where))
    account.add_used()
    return account


def test_counts_and_first_places() -> None:
    """One used, one empty, two malformed (the first at a:4): four read."""
    assert example().to_dict() == {
        "read": 4,
        "used": 1,
        "set_aside": {"empty": 1, "malformed": 2},
        "first": {"empty": "a:2", "malformed": "a:4"},
    }


def test_table_has_the_most_frequent_reason_first() -> None:
    assert example().rows() == [
        ("read", 4, ""),
        ("used", 1, ""),
        ("set aside: malformed", 2, "a:4"),
        ("set aside: empty", 1, "a:2"),
    ]


def test_moving_aside_reads_nothing_new() -> None:
    account = example()
    account.move_aside(SetAside(reason="no outcome", where="a:1"))
    assert (account.read, account.used, account.set_aside["no outcome"]) == (4, 0, 1)
    with pytest.raises(ValueError, match="no used row"):
        account.move_aside(SetAside(reason="no outcome", where="a:1"))


@given(st.lists(st.sampled_from(["used", "empty", "malformed", "move"])))
def test_read_is_used_plus_set_aside_and_survives_json(events: list[str]) -> None:
    account, read = Account(), 0
    for number, event in enumerate(events):
        item = SetAside(reason=event, where=f"f:{number}")
        if event == "move":
            if account.used:
                account.move_aside(item)
            continue
        read += 1
        account.add_used() if event == "used" else account.add_set_aside(item)
    assert account.read == read == account.used + sum(account.set_aside.values())
    again = Account.from_dict(json.loads(json.dumps(account.to_dict())))
    assert again.to_dict() == account.to_dict()


@pytest.mark.parametrize("wrong", [{"read": 5}, {"used": 0}, {"set_aside": {}}, {"first": {}}])
def test_an_account_that_does_not_add_up_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="does not add up"):
        Account.from_dict(example().to_dict() | wrong)
