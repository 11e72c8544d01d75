"""The rebuild: plan, push, build, activate under an armed rollback, confirm, commit, record."""
