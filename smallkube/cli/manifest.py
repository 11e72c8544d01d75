"""Each task by its module, with its line in `inv --list`. Made by `make docs`; edits are overwritten."""

LINES = {
    "smallkube.cli.doctor": {
        "doctor": "Check which tools are installed and missing.",
    },
    "smallkube.cli.init": {
        "init": "Make a workspace: inventory, modules, README.",
    },
    "smallkube.cli.inventory": {
        "inventory.check": "Validate inventory.yaml.",
        "inventory.import": "Take nodes from OpenTofu, Terraform, peers.json.",
        "inventory.schema": "Print the JSON Schema of inventory.yaml.",
        "inventory.show": "Show the nodes' roles, addresses and subnets.",
    },
    "smallkube.cli.nodes": {
        "nodes.add": "Add a node to inventory.yaml.",
        "nodes.adopt": "Take over a machine's boot, SSH and network.",
        "nodes.exec": "Run a command on the nodes, in parallel.",
        "nodes.drain": "Cordon nodes and evict their pods.",
        "nodes.uncordon": "Make nodes schedulable again.",
        "nodes.reboot": "Reboot the nodes one by one, workers first.",
    },
    "smallkube.cli.nodes_clean": {
        "nodes.gc": "Remove old generations and unused images.",
    },
    "smallkube.cli.nodes_install": {
        "nodes.install": "Install NixOS on a machine: erases its disks.",
    },
    "smallkube.cli.nodes_logs": {
        "nodes.logs": "Show the journal of a unit on the nodes.",
    },
    "smallkube.cli.nodes_removal": {
        "nodes.remove": "Remove a node, or revoke a compromised one.",
        "nodes.reset": "Undo a machine that is no node any more.",
    },
    "smallkube.cli.keys": {
        "keys.scan": "Read the nodes' SSH host keys and store them.",
        "keys.generate": "Generate missing secrets; overwrite none.",
        "keys.check": "Verify who can decrypt each secret.",
        "keys.rekey": "Re-encrypt secrets with wrong recipients.",
        "keys.prune": "Delete the API tokens that nodes used before.",
        "keys.list": "List the secrets with content and recipients.",
        "keys.show": "Decrypt a secret to standard output.",
        "keys.edit": "Edit a secret with $EDITOR, in memory only.",
    },
    "smallkube.cli.keys_hosts": {
        "keys.new-host": "Make the host key of a machine to be installed.",
    },
    "smallkube.cli.keys_rotation": {
        "keys.rotate-wireguard": "Rotate the WireGuard keys and peers.json.",
        "keys.rotate-certificates": "Rotate certificates without an outage.",
        "keys.rotate-issuer": "Rotate the key that signs ServiceAccount tokens.",
        "keys.rotate-master": "Rotate the master key.",
    },
    "smallkube.cli.admins": {
        "admins.list": "List administrators and what they cannot read.",
        "admins.add": "Let another administrator read every secret.",
        "admins.remove": "Remove an administrator; replace what they read.",
    },
    "smallkube.cli.nix": {
        "nix.render": "Render the Nix configuration from the inventory.",
        "nix.check": "Parse and evaluate the flake that deploy builds.",
    },
    "smallkube.cli.deploy": {
        "deploy.deploy": "Deploy to the nodes, with automatic rollback.",
        "deploy.plan": "Show what a deploy would change.",
        "deploy.rollback": "Roll back nodes to a previous generation.",
        "deploy.history": "Show what was deployed, when and by whom.",
        "deploy.status": "Show what each node runs, and drift.",
    },
    "smallkube.cli.etcd": {
        "etcd.backup": "Take a verified, encrypted snapshot of etcd.",
        "etcd.list": "List the backups and why each is kept.",
        "etcd.verify": "Verify the integrity of the backups.",
        "etcd.prune": "Remove backups by the retention policy.",
        "etcd.schedule": "Print cron and systemd entries for backups.",
        "etcd.status": "Show etcd's health, size, alarms, last backup.",
        "etcd.restore": "Restore etcd from a backup.",
        "etcd.drill": "Restore a backup into an ephemeral etcd here.",
    },
    "smallkube.cli.tokens": {
        "tokens.rotate": "Rotate API tokens without an outage.",
        "tokens.status": "Show who uses which token or certificate.",
    },
    "smallkube.cli.users": {
        "users.add": "Add a person, or change what they may do.",
        "users.list": "Show who may use the cluster.",
        "users.kubeconfig": "Write a person's kubeconfig.",
        "users.remove": "Remove a person, and verify the refusal.",
    },
    "smallkube.cli.encryption": {
        "encryption.rotate": "Rotate the key that encrypts Secrets in etcd.",
    },
    "smallkube.cli.cluster": {
        "cluster.smoke": "Test that the cluster works, and clean up.",
        "cluster.status": "Show the state of nodes, API server and etcd.",
        "cluster.audit": "Show who did what: the API server's audit log.",
        "cluster.kubeconfig": "Write the administrator's kubeconfig.",
        "cluster.connect": "Reach the API server over SSH until Ctrl-C.",
    },
    "smallkube.cli.cluster_report": {
        "cluster.report": "Write a page that shows the whole cluster.",
    },
    "smallkube.cli.cluster_operations": {
        "cluster.upgrade-check": "Check whether an upgrade may begin.",
        "cluster.upgrade": "Upgrade Kubernetes to the inventory's version.",
        "cluster.rebuild-primary": "Rebuild a lost primary on a new machine.",
    },
    "smallkube.cli.conformance": {
        "cluster.conformance": "Run Kubernetes' official conformance tests.",
    },
    "smallkube.cli.support": {
        "cluster.support": "Write an archive of what explains a fault.",
    },
    "smallkube.cli.net": {
        "net.check": "Check the bridge, WireGuard and the tunnel.",
        "net.bench": "Measure throughput and latency between nodes.",
    },
}
