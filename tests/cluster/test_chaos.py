"""Random faults under load. `--chaos-seconds` sets the length of a run, and `--seed` repeats an earlier run."""

import clocks
from chaos import Chaos, settle
from checker import check_all
from cluster import Cluster
from conftest import need_network
from loads import Load

# Small sizes, so that there are many segments and checkpoints. No circuit breaker: on a busy machine, it would stop the load.
SETTINGS = {
    "breaker.mode": "disabled",
    "store.segment_bytes": "8MiB",
    "store.block_bytes_max": "2MiB",
    "store.checkpoint_bytes": "1MiB",
}


def test_random_faults(tmp_path, tally_binary, options):
    need_network()
    print(f"\nseed {options.seed}")
    with Cluster(tmp_path, tallys=3, network=True, binary=tally_binary, tally_settings=SETTINGS) as cluster:
        steps = {tally.name: clocks.Clock(tally) for tally in cluster.tallys} if clocks.library() else None
        cluster.start()
        with Load(cluster, "chaos", seed=options.seed) as load:
            chaos = Chaos(cluster, load, options.seed, steps, pause_max_s=max(options.pauses))
            counts = chaos.run(options.chaos_seconds)
            settle(cluster)
            load.wait_for_progress()
        cluster.stop()
        found = check_all(cluster.tallys, [load.history()], tmp_path)
    print(f"{sum(counts.values())} faults in {options.chaos_seconds:.0f} s: {counts}")
    print(f"terms {max(tally.led_term for tally in cluster.tallys)}, slowest recovery {chaos.slowest_recovery_s:.1f} s, {found}")
