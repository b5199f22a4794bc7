"""What it costs the process that starts workers to watch them, by how many there are.

    .venv/bin/python -m benchmarks.watching

Workers take half a second for a cell, as small ones do, but sleep in that time, since this machine has fewer cores than
there are workers. Everything in the parent is real. Before means the earlier way, in which the thread of each worker
read the memory of all workers 20 times a second. Both run one after the other for each number of workers.
"""

import argparse


def main() -> None:
    """Print the table."""
    # Not above: each worker imports this module again.
    from benchmarks.idle_workers import cores_of_parent, each_thread_reads
    from somatic.workers.isolation import warm_up

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    warm_up("published")
    print("| workers | parent before, cores | parent now, cores | cells a second before | now |\n|---|---|---|---|---|")
    for n_workers in arguments.workers:
        with each_thread_reads():
            before, cells_before = cores_of_parent(n_workers, arguments.seconds)
        now, cells_now = cores_of_parent(n_workers, arguments.seconds)
        print(f"| {n_workers} | {before:.2f} | {now:.3f} | {cells_before:.0f} | {cells_now:.0f} |", flush=True)


if __name__ == "__main__":
    main()
