"""The kernel that the rooms share: spec, references, graph, step entry, store, registry, settings, command line."""
