"""Prints one table: medians in seconds, ratio to what it is compared with, and the goal."""

from bench import etcd, nix, secrets, startup
from smallkube import ui

if __name__ == "__main__":
    rows = []
    for module in (startup, secrets, nix, etcd):
        for row in module.rows():
            ui.message(f"measured: {row.work}")
            rows.append((row.work, f"{row.ours:.3f}", row.against, f"{row.theirs or 0:.3f}", row.ratio, row.goal))
    ui.table(("WORK", "SECONDS", "AGAINST", "SECONDS", "RATIO", "GOAL"), rows)
