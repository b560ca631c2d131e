"""The script with the same steps as a run of Slipway: the bare script's functions, and those of glue.py, in one process.

    python benchmarks/pipeline/whole.py --held-out mask.npy ...

The command line and the last line are the bare script's.
"""

from __future__ import annotations

import bare
import glue


def main() -> None:
    asked, found = bare.options(), {}
    train, held = bare.load(asked.held_out)
    glue.check_rows()
    graphs, uris = {}, {}
    for name, candidate in bare.candidates(asked.trees_trials, asked.network_trials, asked.epochs).items():
        one = bare.fitted(candidate, train, asked.folds)
        graphs[name] = candidate.export(one.model, train[0].shape[1])
        loss = bare.checked(candidate, one.model, graphs[name], held)
        found[name] = one, loss
        uris[name] = glue.track(name, one, graphs[name], glue.answers(graphs[name], held), loss, held)
    glue.finish({name: loss for name, (_, loss) in found.items()}, graphs, uris, held)
    print(bare.said(found))


if __name__ == "__main__":
    main()
