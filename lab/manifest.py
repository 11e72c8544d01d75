"""Each task by its module, with its line in `inv --list`. Made by `make docs`; edits are overwritten."""

LINES = {
    "lab.tasks": {
        "lab.up": "Start a lab's machines and write its workspace.",
        "lab.kubernetes": "Build Kubernetes for the lab's machines.",
        "lab.conformance": "Run the conformance tests on three machines.",
        "lab.addons": "Bring the images of the add-ons to a lab.",
        "lab.down": "Remove a lab's machines and files.",
        "lab.prune": "Remove images and builds that no lab needs.",
        "lab.status": "Show the labs, their machines and disk space.",
        "lab.shell": "Open a root shell on a machine, without SSH.",
    },
}
