"Training for the same time with different settings, so that a slower way doesn't get more of it."
import json, statistics, tempfile, time
import torch
from sdn_lite.all import DistillConfig, distill

def epoch_seconds(settings, times=3):
    "Seconds of one epoch of Stage-I and of Stage-II with these settings: the median of `times` runs of one epoch each."
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as tmp:
            news = []
            def watch(run, n): news.append((n['stage'], n['step'], n['steps'][n['stage'] - 1], time.monotonic()))
            distill(DistillConfig(out=f'{tmp}/run', **settings | dict(epochs=(1, 1), warmup=0, snapshots=0)),
                    progress=False, watch=watch)
        stages = [[n for n in news if n[0] == s] for s in (1, 2)]       # from the tenth step to the last
        found.append([(b[3] - a[3])/(b[1] - a[1])*b[2] for a, b in ((s[0], s[-1]) for s in stages)])
    return [statistics.median(f) for f in zip(*found)]

def epochs_in(seconds, each, share):
    """Epochs of both stages that together take `seconds`, in the proportion `share`, where one takes `each`;
    at least one where there is a share."""
    k = seconds/sum(s*e for s, e in zip(share, each))
    return tuple(max(1, round(k*s)) if s else 0 for s in share)

def planned(file, seconds, rows):
    """The plan in `file`: seconds an epoch and epochs of each row, measured for those that aren't in it.
    `rows`: name -> (how to measure, share)."""
    plan = (json.loads(file.read_text()) if file.is_file()
            else dict(seconds=seconds, threads=torch.get_num_threads(), each={}, epochs={}))
    for name, (measure, share) in rows.items():
        if name in plan['each']: continue
        plan['each'][name] = [round(s, 3) for s in measure()]
        plan['epochs'][name] = epochs_in(plan['seconds'], plan['each'][name], share)
        file.write_text(json.dumps(plan, indent=1)); print(name, plan['each'][name], plan['epochs'][name], flush=True)
    return plan
