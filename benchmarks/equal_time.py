"Training for the same time with different settings, so that a slower way doesn't get more of it."
import statistics, tempfile, time
from sdn_lite.all import DistillConfig, distill

def epoch_seconds(settings, times=3):
    "Seconds of one epoch of Stage-I and of Stage-II with these settings: the median of `times` runs of one epoch each."
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as tmp:
            news = []
            def watch(run, n): news.append((n['stage'], n['step'], n['steps'][n['stage'] - 1], time.monotonic()))
            distill(DistillConfig(out=f'{tmp}/run', **settings | dict(epochs=(1, 1), warmup=0, snapshots=0)), progress=False, watch=watch)
        stages = [[n for n in news if n[0] == s] for s in (1, 2)]       # from the tenth step to the last
        found.append([(b[3] - a[3])/(b[1] - a[1])*b[2] for a, b in ((s[0], s[-1]) for s in stages)])
    return [statistics.median(f) for f in zip(*found)]

def epochs_in(seconds, each, share):
    "Epochs of both stages that together take `seconds`, in the proportion `share`, where one takes `each`; at least one where there is a share."
    k = seconds/sum(s*e for s, e in zip(share, each))
    return tuple(max(1, round(k*s)) if s else 0 for s in share)
