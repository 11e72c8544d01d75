"""The tree of tasks under their final names."""

from invoke.collection import Collection

from smallkube.tasks import inventory, nix, nodes

namespace = Collection()
for module, name in ((inventory, "inventory"), (nodes, "nodes"), (nix, "nix")):
    namespace.add_collection(Collection.from_module(module), name=name)
