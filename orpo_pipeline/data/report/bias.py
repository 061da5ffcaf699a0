"""How well something other than quality tells chosen from rejected, with its uncertainty."""

import numpy as np
import polars as pl

from schemas.data_report import Bias, Interval

LENGTH = "length"
RESAMPLES = 2000
SEED = 20240312  # any; fixed, so that the same pairs give the same interval
DRAWN_AT_ONCE = 4_000_000  # weights held in memory, 8 bytes each


def measure_bias(name: str, pairs: pl.DataFrame) -> Bias:
    """AUC of a count as a predictor of which answer was chosen.

    `pairs`: group, chosen, rejected (integer counts of the two answers). The AUC is the share of
    pairs whose chosen answer has more, a tie counting half. `Bias.pairs` is the number of pairs
    whose counts differ. The interval is `cluster_bootstrap`'s.
    """
    chosen, rejected = pl.col("chosen").cast(pl.Int64), pl.col("rejected").cast(pl.Int64)
    twice = 1 + (chosen - rejected).sign()
    groups = pairs.group_by("group").agg(twice.sum().alias("twice"), pl.len().alias("pairs"))
    return Bias(
        name=name,
        auc=cluster_bootstrap(groups),
        pairs=pairs.select((chosen != rejected).sum()).item(),
    )


def cluster_bootstrap(groups: pl.DataFrame) -> Interval:
    """AUC over all pairs with its 95 % percentile bootstrap interval, clustered by prompt group.

    `groups`: one row a prompt group; twice (2 for each pair in favour, 1 for each tie), pairs.

    Pairs of one prompt resemble each other, so whole groups are drawn, with replacement, as many as
    there are, 2,000 times (Field and Welsh 2007, "Bootstrapping clustered data"). The AUC of a
    resample depends on nothing but how often each kind of group (twice, pairs) is in it, and these
    numbers follow a multinomial distribution with the kinds' shares. Drawing them at once is the
    same bootstrap, exactly, at a cost that depends on the number of kinds: two or three hundred for
    real data of a million pairs, at most a few thousand.
    """
    kinds = groups.group_by("twice", "pairs").agg(pl.len().alias("groups")).sort("twice", "pairs")
    twice, pairs = kinds["twice"].to_numpy(), kinds["pairs"].to_numpy()
    counts = kinds["groups"].to_numpy()
    generator = np.random.default_rng(SEED)
    rows = max(1, DRAWN_AT_ONCE // len(counts))
    drawn = []
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        weights = generator.multinomial(groups.height, counts / groups.height, size)
        drawn.append((weights @ twice) / (2 * (weights @ pairs)))
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    value = float(counts @ twice) / float(2 * (counts @ pairs))
    return Interval(value=value, low=float(low), high=float(high))
