"""Proves which health gates speak against a new system, and which are only named."""

from smallkube.deploy.gates import Gate, Result, broken, parse, unconfirmed

OK, FAILED, NOT_APPLICABLE = Result.OK, Result.FAILED, Result.NOT_APPLICABLE


def test_what_the_script_prints_is_read() -> None:
    assert parse("etcd\tok\tis healthy\nkubelet\tnot applicable\tno unit kubelet\n") == (
        Gate("etcd", OK, "is healthy"),
        Gate("kubelet", NOT_APPLICABLE, "no unit kubelet"),
    )


def test_an_answer_that_is_none_is_a_failure_not_a_pass() -> None:
    (gate,) = parse("sh: gates: not found")
    assert gate.result is FAILED


def test_what_worked_or_did_not_apply_before_must_work() -> None:
    after = (Gate("etcd", FAILED, "deadline exceeded"),)
    assert broken((Gate("etcd", OK),), after) == ["etcd: deadline exceeded"]
    assert broken((Gate("etcd", NOT_APPLICABLE),), after) == ["etcd: deadline exceeded"]
    assert broken((), after) == ["etcd: deadline exceeded"]


def test_what_failed_before_is_named_only() -> None:
    before, after = (Gate("etcd", FAILED, "x"),), (Gate("etcd", FAILED, "y"),)
    assert broken(before, after) == []
    assert unconfirmed(before, after) == ["etcd: y (as before)"]


def test_a_persons_own_check_counts_whatever_it_said_before() -> None:
    failed = (Gate("test -e /x", FAILED, "exit status 1", own=True),)
    assert broken(failed, failed) == ["test -e /x: exit status 1"]
    assert unconfirmed(failed, failed) == []


def test_what_does_not_apply_is_named_and_what_works_is_not() -> None:
    after = (Gate("kubelet", NOT_APPLICABLE, "no unit"), Gate("etcd", OK, "healthy"))
    assert broken((), after) == []
    assert unconfirmed((), after) == ["kubelet (no unit)"]
