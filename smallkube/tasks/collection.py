"""The tree of tasks under their final names."""

from invoke.collection import Collection

from smallkube.tasks import inventory, keys, lab, nix, nodes

namespace = Collection()
for module, name in ((inventory, "inventory"), (nodes, "nodes"), (keys, "keys"), (nix, "nix"), (lab, "lab")):
    namespace.add_collection(Collection.from_module(module), name=name)
